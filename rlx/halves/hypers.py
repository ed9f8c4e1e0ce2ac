"""Settings that most agents share: static ones of networks, critics and actors, and traced hyper-parameters."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import jax
from flax.struct import PyTreeNode

from rlx import losses, networks, parallel
from rlx.errors import RlxError
from rlx.types import COUNT, POSITIVE, SHARE, setting


@dataclass(frozen=True)
class NetworkConfig:
    """Static (compile-time) configuration of every network of an agent."""

    activation: str = setting("relu", "activation of the hidden layers", choices=networks.ACTIVATIONS)
    kernel_init: str = setting("he", "initial kernels of the hidden layers", choices=networks.INITIALIZERS)
    compute_dtype: str = setting(
        "float32", "type that hidden layers compute in; parameters and outputs stay float32", choices=networks.DTYPES
    )
    residual: bool = setting(False, "residual blocks as hidden layers, which then need equal sizes, two or more")
    residual_block: str = setting(
        "simba",
        "with --residual: simba: LayerNorm, Dense 4 W, Dense W; bro: Dense W and LayerNorm, twice",
        choices=networks.RESIDUAL_BLOCKS,
    )

    def network_options(self) -> dict[str, Any]:
        """These settings as arguments of the functions that make MLPs."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(NetworkConfig)}


@dataclass(frozen=True)
class CriticConfig(NetworkConfig):
    """Static (compile-time) configuration of an ensemble of critics."""

    critic_hidden_sizes: tuple[int, ...] = setting(
        (256, 256), "hidden layers of every critic and of a value network", COUNT
    )
    num_critics: int = setting(2, "critics in the ensemble; their minimum counts", COUNT)
    layer_norm: bool = setting(False, "LayerNorm in the critics")
    critic_dropout: float = setting(
        0.0, "share of the critics' activations dropped in updates, never in acting", (0.0, 0.999)
    )
    batch_norm: str = setting(
        "none",
        "batch normalisation in the critics, or renormalisation; targets and actors read running statistics",
        choices=networks.BATCH_NORMS,
    )

    def critic_options(self, axes: parallel.Axes) -> dict[str, Any]:
        """All settings but the widths, as arguments of the functions that make critics."""
        return self.network_options() | {
            "num_critics": self.num_critics,
            "layer_norm": self.layer_norm,
            "dropout": self.critic_dropout,
            "batch_norm": self.batch_norm,
            "axes": axes,
        }


@dataclass(frozen=True)
class Config(CriticConfig):
    """Static (compile-time) configuration of an actor and an ensemble of critics."""

    actor_hidden_sizes: tuple[int, ...] = setting((256, 256), "widths of the actor's hidden layers", COUNT)


@dataclass(frozen=True)
class ScoreConfig(NetworkConfig):
    """Static (compile-time) configuration of a score network, the noise predictor of a diffusion policy."""

    score_width: int = setting(256, "width of the score network; its blocks are four times as wide inside", COUNT)
    score_blocks: int = setting(3, "residual blocks of the score network", COUNT)
    time_features: int = setting(
        128, "Fourier features of the time in the score network, an even number", (2, COUNT[1])
    )

    def __post_init__(self) -> None:
        if self.time_features % 2:
            raise RlxError(f"--time-features {self.time_features}: must be even, a cosine and a sine each")

    def score_options(self) -> dict[str, Any]:
        """These settings as arguments of `networks.make_score`."""
        kinds = {"kernel_init": self.kernel_init, "compute_dtype": self.compute_dtype}
        sizes = {"width": self.score_width, "num_blocks": self.score_blocks, "time_features": self.time_features}
        return sizes | kinds


@dataclass(frozen=True)
class FlowConfig(Config):
    """Static (compile-time) configuration of a flow of actions and an ensemble of critics, both as wide as FQL's."""

    actor_hidden_sizes: tuple[int, ...] = setting((512,) * 4, "widths of the hidden layers of the flow", COUNT)
    critic_hidden_sizes: tuple[int, ...] = setting(
        (512,) * 4, "hidden layers of every critic and of a value network", COUNT
    )
    activation: str = setting("gelu", "activation of the hidden layers", choices=networks.ACTIVATIONS)
    layer_norm: bool = setting(True, "LayerNorm in the critics")
    flow_steps: int = setting(10, "Euler steps from noise to an action", COUNT)


def decay_steps(default: int) -> Any:
    """The setting of a Config that tells over how many updates the actor's learning rate decays."""
    text = "updates over which the actor's learning rate falls to 0 by a cosine (0: all of the run's; -1: it stays)"
    return setting(default, text, (-1, 2**31 - 1), plan="actor_updates")


def temperature_loss(default: str) -> Any:
    """The setting of a Config that tells what the gradient of a learned temperature is of."""
    text = "what the temperature's gradient is of: log_alpha; alpha, whose gradient is alpha times the other"
    return setting(default, text, choices=losses.TEMPERATURE_LOSSES)


class Hypers(PyTreeNode):
    """Hyper-parameters, traced, of every agent that learns a value."""

    gamma: float | jax.Array = setting(0.99, "discount per step", SHARE)
    tau: float | jax.Array = setting(0.005, "Polyak step of the target networks towards the online ones", SHARE)
    actor_lr: float | jax.Array = setting(3e-4, "learning rate of the actor (Adam)", POSITIVE)
    critic_lr: float | jax.Array = setting(3e-4, "learning rate of the critics and of a value network (Adam)", POSITIVE)
    reward_scale: float | jax.Array = setting(1.0, "factor on rewards inside the learning targets")


class ImitationHypers(PyTreeNode):
    """Hyper-parameters, traced, of agents that learn no value; of every agent the first and the last are required."""

    gamma: float | jax.Array = setting(0.99, "discount per step (not used)", SHARE)
    actor_lr: float | jax.Array = setting(3e-4, "learning rate of what the actor half learns (Adam)", POSITIVE)
    reward_scale: float | jax.Array = setting(1.0, "factor on rewards (not used)")


class SoftHypers(Hypers):
    """Hyper-parameters, traced, of maximum-entropy agents with a learned temperature."""

    alpha_lr: float | jax.Array = setting(3e-4, "learning rate of the temperature (Adam)", POSITIVE)
    alpha_init: float | jax.Array = setting(1.0, "entropy temperature at the start", (1e-8, math.inf))
