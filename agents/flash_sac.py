"""FlashSAC (Holiday-Robot/FlashSAC, 2026): XQC with residual networks and exploration noise that is held."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax

from rlx import networks, optim, parallel, policies
from rlx.agents import crossq, sac, xqc
from rlx.networks import unit
from rlx.types import COUNT, SHARE, Key, Spec, setting

TARGET_STD = 0.15  # the target entropy is half that of a Gaussian of this deviation


@dataclass(frozen=True)
class Config(xqc.Config):
    """Static (compile-time) configuration."""

    actor_hidden_sizes: tuple[int, ...] = setting((128,) * 2, "width of each of the actor's residual blocks", COUNT)
    critic_hidden_sizes: tuple[int, ...] = setting((256,) * 2, "width of each of a critic's residual blocks", COUNT)
    log_std_map: str = setting("tanh", "how log sigma is bounded: clip, or tanh, smooth", choices=networks.LOG_STD_MAPS)
    schedule: str = setting("cosine", "how learning rates fall", choices=optim.SCHEDULES)
    max_hold: int = setting(16, "steps for which a draw of the exploration noise is held at most", COUNT)


class Hypers(xqc.Hypers):
    """Hyper-parameters, traced."""

    tau: float | jax.Array = setting(0.01, "Polyak step of the target networks towards the online ones", SHARE)
    final_lr_fraction: float | jax.Array = setting(0.5, "share of the learning rates that is left at the end", SHARE)
    target_entropy_per_action: float | jax.Array = setting(
        math.log(2 * math.pi * math.e * TARGET_STD**2) / 2,
        "target entropy, in nats for each action dimension",
        (-math.inf, math.log(2)),
    )


def make_networks(config: Config, spec: Spec, axes: parallel.Axes = ()) -> crossq.Networks:
    """XQC's parts with residual networks; the actor's statistics are of s and s'."""
    project = partial(unit.to_sphere, norms=True)
    return xqc.make_networks(config, spec, axes, unit.UnitResidualMLP, project)._replace(joint_actor=True)


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> sac.SoftAgent:
    """FlashSAC for environments of `spec`; gradients and statistics are averaged over the mapped `axes`."""
    nets = make_networks(config, spec, axes)

    def act(policy: sac.Policy, observation: jax.Array, key: Key, noise: policies.HeldNoise) -> tuple[Any, ...]:
        mean, log_std = nets.actor.apply(policy.params, observation)
        noise = policies.hold(noise, key, config.max_hold)
        return policies.squash(mean, log_std, noise.draw), {}, noise

    noise = partial(policies.no_noise_yet, spec.action_size)
    return crossq.assemble(nets, Hypers)._replace(act=act, noise=noise)
