"""SAC Flow (Zhang et al., arXiv 2509.25756): SAC whose policy is a flow of a few steps, and learns through all of them.

An Euler step of a flow is a step of a residual recurrent network, and its gradients vanish or explode like one's. So
the velocity has a gate, as a gated recurrent unit has (Flow-G), or a decoder's normalised layers (Flow-T). Noise in
every step gives a path of the flow a density.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from rlx import networks, parallel
from rlx.agents import sac
from rlx.networks import Network
from rlx.types import COUNT, Key, Params, Spec, setting


@dataclass(frozen=True)
class Config(sac.Config):
    """Static (compile-time) configuration."""

    log_std_map: str = setting(
        "tanh", "how log sigma of a step's noise is bounded: clip, or tanh", choices=networks.LOG_STD_MAPS
    )
    log_std_min: float = setting(-5.0, "lower bound of log sigma", (-20.0, 2.0), below="log_std_max")
    flow_steps: int = setting(4, "Euler steps from noise to an action", COUNT)
    velocity: str = setting(
        "gated",
        "gated (Flow-G), decoded by a transformer (Flow-T), or plain, whose gradients can explode over many steps",
        choices=networks.VELOCITIES,
    )


class Hypers(sac.Hypers):
    """Hyper-parameters, traced."""

    target_entropy_per_action: float | jax.Array = setting(
        0.0, "target entropy of a path, in nats for each action dimension", (-math.inf, math.inf)
    )


def path(actor: Network, params: Params, observation: jax.Array, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where noise `[1 + K, ..., A]` leads to in K steps, x_K `[..., A]`, and the log-density of all x_k, `[...]`.

    x_0 = noise_0 and x_k = x_{k-1} + velocity / K + sigma noise_k (arXiv 2509.25756, section 4.2).
    """
    steps = len(noise) - 1

    def step(x: jax.Array, inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        time, noise = inputs
        velocity, log_std = actor.apply(params, observation, x, jnp.full((*x.shape[:-1], 1), time, x.dtype))
        return x + velocity / steps + jnp.exp(log_std) * noise, log_std.sum(axis=-1)

    times = jnp.arange(steps, dtype=noise.dtype) / steps
    end, log_stds = jax.lax.scan(step, noise[0], (times, noise[1:]))
    gaussian = -jnp.sum(noise**2 + math.log(2 * math.pi), axis=(0, -1)) / 2
    return end, gaussian - log_stds.sum(axis=0)


def make_networks(config: Config, spec: Spec, axes: parallel.Axes = ()) -> sac.Networks:
    """SAC's networks with a flow as policy."""

    from rlx.distributions import tanh_log_jacobian

    def sample(actor: Network, params: Params, observation: jax.Array, key: Key) -> tuple[jax.Array, jax.Array]:
        """The action tanh(x_K), and the log-density of the path to it."""
        shape = (1 + config.flow_steps, *observation.shape[:-1], spec.action_size)
        end, log_density = path(actor, params, observation, jax.random.normal(key, shape, jnp.float32))
        return jnp.tanh(end), log_density - tanh_log_jacobian(end).sum(axis=-1)

    actor = networks.make_flow_policy(
        spec, config.actor_hidden_sizes, velocity=config.velocity, log_std=config.log_std, **config.network_options()
    )
    return sac.make_networks(config, spec, axes)._replace(actor=actor, sample=sample)


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> sac.SoftAgent:
    """SAC Flow for environments of `spec`; gradients are averaged over the mapped `axes`."""
    nets = make_networks(config, spec, axes)

    def act(policy: sac.Policy, observation: jax.Array, key: Key) -> tuple[jax.Array, dict[str, jax.Array]]:
        return nets.sample(nets.actor, policy.params, observation, key)[0], {}

    def act_greedy(policy: sac.Policy, observation: jax.Array, key: Key) -> tuple[jax.Array, dict[str, jax.Array]]:
        del key
        noise = jnp.zeros((1 + config.flow_steps, *observation.shape[:-1], spec.action_size), jnp.float32)
        return jnp.tanh(path(nets.actor, policy.params, observation, noise)[0]), {}

    # an action's density is an integral over all paths to it
    return sac.assemble(nets, Hypers)._replace(act=act, act_greedy=act_greedy, log_prob=None)
