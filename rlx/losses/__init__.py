"""The mathematics of the agents: targets, losses and weights. Arrays in, arrays out; no networks and no state.

Shapes are asserted when a function is traced, so `[B]` against `[B, 1]` is an error and never broadcasts. Scalars
(gamma, kappa, expectile, beta, ...) may all be traced: no Python branch looks at them.
"""

from rlx.losses.actors import (
    TEMPERATURE_LOSSES,
    advantage_weights,
    alpha_loss,
    soft_actor_loss,
    td3_bc_lambda,
    temperature_loss,
)
from rlx.losses.critics import (
    VALUE_LOSSES,
    ValueLoss,
    chi_square_loss,
    chi_square_weight,
    ensemble_huber_loss,
    ensemble_td_loss,
    expectile_loss,
    expectile_weight,
    exponential_loss,
    exponential_weight,
    quantile_loss,
    quantile_weight,
    total_variation_loss,
    total_variation_weight,
)
from rlx.losses.return_distributions import (
    categorical_mean,
    categorical_projection,
    cross_entropy_loss,
    edge_mass,
    lower_mean,
    quantile_huber_loss,
    truncate_atoms,
)
from rlx.losses.targets import (
    Scalar,
    ensemble_min,
    generalised_advantage,
    lambda_return,
    n_step,
    polyak,
    smoothed_action,
    soft_value,
    td_target,
)

__all__ = [
    "TEMPERATURE_LOSSES",
    "VALUE_LOSSES",
    "Scalar",
    "ValueLoss",
    "advantage_weights",
    "alpha_loss",
    "categorical_mean",
    "categorical_projection",
    "chi_square_loss",
    "chi_square_weight",
    "cross_entropy_loss",
    "edge_mass",
    "ensemble_huber_loss",
    "ensemble_min",
    "ensemble_td_loss",
    "expectile_loss",
    "expectile_weight",
    "exponential_loss",
    "exponential_weight",
    "generalised_advantage",
    "lambda_return",
    "lower_mean",
    "n_step",
    "polyak",
    "quantile_huber_loss",
    "quantile_loss",
    "quantile_weight",
    "smoothed_action",
    "soft_actor_loss",
    "soft_value",
    "td3_bc_lambda",
    "td_target",
    "temperature_loss",
    "total_variation_loss",
    "total_variation_weight",
    "truncate_atoms",
]
