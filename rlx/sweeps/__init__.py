"""Grid and random searches over hyper-parameters."""
