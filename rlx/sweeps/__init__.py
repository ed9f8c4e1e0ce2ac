"""Grid and random searches over hyper-parameters, and studies of agents on data sets."""
