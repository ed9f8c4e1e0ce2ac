"""XQC (arXiv 2509.25174): SAC with batch norm, weights on the unit sphere and categorical critics."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from rlx import categorical, halves, losses, networks, optim, parallel
from rlx.agents import crossq, sac
from rlx.halves import HalfState
from rlx.networks import unit
from rlx.types import COUNT, SHARE, Spec, Transition, setting


def decay_steps(half: str) -> Any:
    """The setting of a Config that tells over how many updates of a half its learning rates fall."""
    text = (
        f"updates over which the {half}'s learning rate falls to final_lr_fraction (0: all of the run's; -1: it stays)"
    )
    return setting(0, text, (-1, 2**31 - 1), plan=f"{half}_updates")


@dataclass(frozen=True)
class Config:
    """Static (compile-time) configuration."""

    actor_hidden_sizes: tuple[int, ...] = setting((256,) * 4, "widths of the actor's hidden layers", COUNT)
    critic_hidden_sizes: tuple[int, ...] = setting((512,) * 4, "widths of every critic's hidden layers", COUNT)
    num_critics: int = setting(2, "critics in the ensemble; the distribution of the lowest mean counts", COUNT)
    num_atoms: int = setting(101, "atoms of the critics' support", (2, COUNT[1]))
    compute_dtype: str = setting(
        "float32", "type that hidden layers compute in; parameters and outputs stay float32", choices=networks.DTYPES
    )
    log_std_map: str = setting("clip", "how log sigma is bounded: clip, or tanh, smooth", choices=networks.LOG_STD_MAPS)
    temperature_loss: str = halves.temperature_loss("alpha")
    schedule: str = setting("linear", "how learning rates fall", choices=optim.SCHEDULES)
    critic_decay_steps: int = decay_steps("critic")
    actor_decay_steps: int = decay_steps("actor")


class Hypers(sac.Hypers):
    """Hyper-parameters, traced."""

    alpha_init: float | jax.Array = setting(0.01, "entropy temperature at the start", (1e-8, math.inf))
    target_entropy_per_action: float | jax.Array = setting(
        -0.5, "target entropy, in nats for each action dimension", (-math.inf, math.log(2))
    )
    final_lr_fraction: float | jax.Array = setting(0.1, "share of the learning rates that is left at the end", SHARE)
    v_min: float | jax.Array = setting(-5.0, "lowest atom, in scaled rewards", below="v_max")
    v_max: float | jax.Array = setting(5.0, "highest atom, in scaled rewards")


def target(next_logits: jax.Array, cost: jax.Array, batch: Transition, hypers: Any) -> jax.Array:
    """The distribution of the lower mean at r + gamma d (z - alpha log pi), on the support: `[N, B, M]` -> `[B, M]`."""
    return categorical.target(next_logits, batch, hypers, cost)


def rate(schedule: str, steps: int) -> Callable[[HalfState], Any]:
    """The factor on the learning rates of a half, from 1 to `final_lr_fraction` over its `steps` updates."""
    share = optim.make_schedule(schedule, steps)
    return lambda half: half.hypers.final_lr_fraction + (1 - half.hypers.final_lr_fraction) * share(half.step)


def make_networks(
    config: Config,
    spec: Spec,
    axes: parallel.Axes = (),
    module: Any = unit.UnitMLP,
    project: Callable[[Any], Any] = unit.to_sphere,
) -> crossq.Networks:
    """CrossQ's parts with target networks, on the sphere; `module` makes the networks, `project` keeps them there."""
    options: dict[str, Any] = {"project": project, "compute_dtype": config.compute_dtype, "axes": axes}
    actor = config.actor_hidden_sizes, (config.log_std_map, -10.0, 2.0)
    critics = config.critic_hidden_sizes, config.num_critics, config.num_atoms
    return crossq.Networks(
        actor=unit.make_policy(spec, module, *actor, **options),
        critic=unit.make_critic(spec, module, *critics, **options),
        target=target,
        regress=losses.cross_entropy_loss,
        values=categorical.values,
        report=categorical.report,
        target_networks=True,
        temperature_loss=losses.TEMPERATURE_LOSSES[config.temperature_loss],
        spec=spec,
        axes=axes,
        optimizer=lambda hypers: optim.adam,
        project=project,
        critic_rate=rate(config.schedule, config.critic_decay_steps),
        actor_rate=rate(config.schedule, config.actor_decay_steps),
    )


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> sac.SoftAgent:
    """XQC for environments of `spec`; gradients and statistics are averaged over the mapped `axes`."""
    return crossq.assemble(make_networks(config, spec, axes), Hypers)
