"""What most agents share: settings, the state of a half, the first state of both halves, critics and their steps."""

from rlx.halves.hypers import (
    Config,
    CriticConfig,
    Hypers,
    NetworkConfig,
    ScoreConfig,
    SoftHypers,
    decay_steps,
    temperature_loss,
)
from rlx.halves.state import (
    CriticHalf,
    HalfState,
    SoftActorState,
    init_half,
    init_soft_actor,
    limited_adam,
    make_init,
)
from rlx.halves.updates import (
    discrete_q_value,
    imitate,
    make_critic,
    make_discrete_critic,
    step_soft_actor,
    td_target,
    update_critics,
    update_discrete_critics,
    update_double_q,
)

__all__ = [
    "Config",
    "CriticConfig",
    "CriticHalf",
    "HalfState",
    "Hypers",
    "NetworkConfig",
    "ScoreConfig",
    "SoftActorState",
    "SoftHypers",
    "decay_steps",
    "discrete_q_value",
    "imitate",
    "init_half",
    "init_soft_actor",
    "limited_adam",
    "make_critic",
    "make_discrete_critic",
    "make_init",
    "step_soft_actor",
    "td_target",
    "temperature_loss",
    "update_critics",
    "update_discrete_critics",
    "update_double_q",
]
