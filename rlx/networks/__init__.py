"""Networks behind init/apply pairs: flax.linen stays in this package, agents see `Network` records only."""

from rlx.networks.batch_norm import BatchNorm
from rlx.networks.modules import (
    ACTIVATIONS,
    BATCH_NORMS,
    DTYPES,
    INITIALIZERS,
    LOG_STD_MAPS,
    MLP,
    OUTPUT_INIT,
    GaussianHead,
    ResidualBlock,
    bounded_log_std,
    dropout,
)
from rlx.networks.network import (
    IMPOSSIBLE,
    Apply,
    Network,
    ensemble,
    make_categorical_policy,
    make_critic,
    make_deterministic_policy,
    make_discrete_critic,
    make_gaussian_policy,
    make_network,
    make_value,
)
from rlx.networks.score import FourierFeatures, ScoreNet, make_score

__all__ = [
    "ACTIVATIONS",
    "BATCH_NORMS",
    "DTYPES",
    "IMPOSSIBLE",
    "INITIALIZERS",
    "LOG_STD_MAPS",
    "MLP",
    "OUTPUT_INIT",
    "Apply",
    "BatchNorm",
    "FourierFeatures",
    "GaussianHead",
    "Network",
    "ResidualBlock",
    "ScoreNet",
    "bounded_log_std",
    "dropout",
    "ensemble",
    "make_categorical_policy",
    "make_critic",
    "make_deterministic_policy",
    "make_discrete_critic",
    "make_gaussian_policy",
    "make_network",
    "make_score",
    "make_value",
]
