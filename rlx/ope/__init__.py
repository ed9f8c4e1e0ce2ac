"""Off-policy evaluation: the value of a policy, estimated from the episodes of other policies."""

from rlx.ope.evaluation import evaluate
from rlx.ope.policies import Policy, from_run
from rlx.ope.simulation import simulate
from rlx.ope.table import Distribution, Row, Table
from rlx.ope.trajectories import Trajectories, from_dataset

__all__ = [
    "Distribution",
    "Policy",
    "Row",
    "Table",
    "Trajectories",
    "evaluate",
    "from_dataset",
    "from_run",
    "simulate",
]
