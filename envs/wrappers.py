"""Wrappers: functions of an environment that return another, by name as `history:3` and `action_repeat:2`.

Each takes any `rlx.types.Env` and can be applied to the result of another one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlx.envs.base import REMEMBERED, check_count
from rlx.envs.sources import Sources, sources
from rlx.envs.wrapped import Inner as Inner
from rlx.envs.wrapped import Wrapped, outer_state, reset_env
from rlx.errors import RlxError, unknown
from rlx.types import Env, EnvState, Key, Step

NOISE = 2**31 - 2  # folded into a key for a wrapper's noise; the key itself goes to the environment


def _shown(step: Step, observation: jax.Array) -> Step:
    return step._replace(observation=observation, next_observation=observation)


def _observing(
    env: Env,
    size: int,
    observe: Callable[[EnvState, jax.Array | None, Key], jax.Array],
    parts: dict[str, tuple[int, int]],
    sources: Sources,
) -> Wrapped:
    """The environment with other observations: `observe(state inside, observation before or None, key)`, `[size]`."""

    def reset(key: Key, params: Any = None) -> EnvState:
        state = reset_env(env, key, params)
        return outer_state(state, state.time, observe(state, None, key))

    def step(state: EnvState, action: jax.Array, key: Key) -> tuple[EnvState, Step]:
        after, shown = env.step(state.inner.env, action, key)
        observation = observe(after, state.observation, key)
        return outer_state(after, after.time, observation), _shown(shown, observation)

    observation = jax.ShapeDtypeStruct((size,), jnp.float32)
    return Wrapped(env, env.spec._replace(observation=observation, parts=parts), reset, step, sources=sources)


def history(env: Env, length: int) -> Wrapped:
    """Observations are the last `length` ones, the oldest first; an episode begins with copies of its first.

    Where observations have named parts, each part's last values are side by side.
    """
    check_count("history", length, REMEMBERED)
    spec = env.spec
    edges = sorted({0, spec.observation_size, *(edge for part in spec.parts.values() for edge in part)})
    pieces = [slice(a, b) for a, b in itertools.pairwise(edges)]

    def observe(state: EnvState, before: jax.Array | None, key: Key) -> jax.Array:
        del key
        if before is None:
            return jnp.concatenate([jnp.tile(state.observation[piece], length) for piece in pieces])
        later = [before[piece.start * length : piece.stop * length][piece.stop - piece.start :] for piece in pieces]
        return jnp.concatenate(
            [x for piece, old in zip(pieces, later, strict=True) for x in (old, state.observation[piece])]
        )

    parts = {name: (start * length, end * length) for name, (start, end) in spec.parts.items()}
    return _observing(env, spec.observation_size * length, observe, parts, sources(env).stacked(pieces, length))


def observation_noise(env: Env, std: float) -> Wrapped:
    """Adds Gaussian noise of that standard deviation to every number of an observation."""
    _check_number("observation_noise", std, least=0.0)

    def observe(state: EnvState, before: jax.Array | None, key: Key) -> jax.Array:
        del before
        noise = jax.random.normal(jax.random.fold_in(key, NOISE), state.observation.shape)
        return state.observation + std * noise

    return _observing(env, env.spec.observation_size, observe, env.spec.parts, sources(env))


def time_observation(env: Env) -> Wrapped:
    """Observations end with the share of the episode that is over, 0 to 1; its part is called `time`."""
    limit = env.spec.episode_length

    def observe(state: EnvState, before: jax.Array | None, key: Key) -> jax.Array:
        del before, key
        return jnp.append(state.observation, (state.time / limit).astype(jnp.float32))

    size, parts = env.spec.observation_size, env.spec.parts
    parts = parts and parts | {"time": (size, size + 1)}
    return _observing(env, size + 1, observe, parts, sources(env).with_time(limit))


def action_delay(env: Env, steps: int) -> Wrapped:
    """Actions take effect `steps` steps after they were chosen; until the first one does, the action is 0."""
    check_count("action_delay", steps, REMEMBERED)

    def reset(key: Key, params: Any = None) -> EnvState:
        state = reset_env(env, key, params)
        return outer_state(state, state.time, memory=jnp.zeros((steps, env.spec.action_size), jnp.float32))

    def step(state: EnvState, action: jax.Array, key: Key) -> tuple[EnvState, Step]:
        waiting = jnp.concatenate([state.inner.memory, action[None]]).astype(jnp.float32)
        after, shown = env.step(state.inner.env, waiting[0], key)
        return outer_state(after, after.time, memory=waiting[1:]), shown

    return Wrapped(env, env.spec, reset, step, sources=sources(env))


def action_repeat(env: Env, times: int) -> Wrapped:
    """Takes every action `times` times, to the episode's end at most; rewards are added, extras those of the last."""
    check_count("action_repeat", times, REMEMBERED)

    def reset(key: Key, params: Any = None) -> EnvState:
        state = reset_env(env, key, params)
        return outer_state(state, state.time)

    def step(state: EnvState, action: jax.Array, key: Key) -> tuple[EnvState, Step]:
        def once(before: tuple[EnvState, Step], i: jax.Array) -> tuple[tuple[EnvState, Step], None]:
            inside, total = before
            after, shown = env.step(inside, action, jax.random.fold_in(key, i))
            shown = shown._replace(reward=total.reward + shown.reward)
            ended = total.terminated | total.truncated
            return jax.tree.map(lambda old, new: jnp.where(ended, old, new), before, (after, shown)), None

        _, shapes = jax.eval_shape(env.step, state.inner.env, action, key)
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        (after, shown), _ = jax.lax.scan(once, (state.inner.env, nothing), jnp.arange(times))
        return outer_state(after, state.time + 1), shown

    spec = env.spec._replace(episode_length=math.ceil(env.spec.episode_length / times))
    return Wrapped(env, spec, reset, step, times, sources(env).repeated())


def _with_rewards(env: Env, transform: Callable[[jax.Array], jax.Array]) -> Wrapped:
    def reset(key: Key, params: Any = None) -> EnvState:
        state = reset_env(env, key, params)
        return outer_state(state, state.time)

    def step(state: EnvState, action: jax.Array, key: Key) -> tuple[EnvState, Step]:
        after, shown = env.step(state.inner.env, action, key)
        return outer_state(after, after.time), shown._replace(reward=transform(shown.reward))

    return Wrapped(env, env.spec, reset, step, sources=sources(env))


def action_rate(env: Env, penalty: float) -> Wrapped:
    """Measures how smooth actions are, and subtracts `penalty` times the mean square of their change from the reward.

    Extras, which evaluations add up over an episode: `action_rate`, the mean over actuators of |a_t - a_t-1|, and
    `action_acceleration`, of |a_t - 2 a_t-1 + a_t-2|; actions before the first one count as that one. 0 measures only.
    """
    _check_number("action_rate", penalty, least=0.0)
    zeros = jnp.zeros(env.spec.action_size, jnp.float32)

    def reset(key: Key, params: Any = None) -> EnvState:
        state = reset_env(env, key, params)
        return outer_state(state, state.time, memory=(zeros, zeros))

    def step(state: EnvState, action: jax.Array, key: Key) -> tuple[EnvState, Step]:
        after, shown = env.step(state.inner.env, action, key)
        before, rate_before = state.inner.memory
        rate = jnp.where(state.time == 0, 0.0, action - before)
        measured = {"action_rate": jnp.abs(rate).mean(), "action_acceleration": jnp.abs(rate - rate_before).mean()}
        reward = shown.reward - penalty * jnp.square(rate).mean()
        shown = shown._replace(reward=reward, extras=shown.extras | measured)
        return outer_state(after, after.time, memory=(action.astype(jnp.float32), rate)), shown

    scalar = jax.ShapeDtypeStruct((), jnp.float32)
    extras = env.spec.extras | {"action_rate": scalar, "action_acceleration": scalar}
    return Wrapped(env, env.spec._replace(extras=extras), reset, step, sources=sources(env))


def reward_scale(env: Env, factor: float) -> Wrapped:
    """Multiplies rewards, those of evaluations as well."""
    _check_number("reward_scale", factor)
    return _with_rewards(env, lambda reward: factor * reward)


def reward_clip(env: Env, low: float, high: float) -> Wrapped:
    """Clips rewards to [low, high], those of evaluations as well."""
    _check_number("reward_clip", low)
    _check_number("reward_clip", high, least=low)
    return _with_rewards(env, lambda reward: jnp.clip(reward, low, high))


def episode_length(env: Env, length: int) -> Wrapped:
    """Episodes are truncated after `length` steps, in place of the environment's own limit."""
    check_count("episode_length", length)
    limit = env.spec.episode_length

    def reset(key: Key, params: Any = None) -> EnvState:
        state = reset_env(env, key, params)
        return outer_state(state, state.time)

    def step(state: EnvState, action: jax.Array, key: Key) -> tuple[EnvState, Step]:
        after, shown = env.step(state.inner.env, action, key)
        by_the_environment = shown.truncated & (after.time < limit)  # else by its own limit
        truncated = (by_the_environment | (after.time >= length)) & ~shown.terminated
        return outer_state(after, after.time), shown._replace(truncated=truncated)

    return Wrapped(env, env.spec._replace(episode_length=length), reset, step, sources=sources(env))


def _check_number(name: str, value: float, least: float = -math.inf) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < least:
        at_least = f" of at least {least:g}" if least > -math.inf else ""
        raise RlxError(f"{name} must be a finite number{at_least}, not {value!r}")


class Form(NamedTuple):
    """A wrapper's function, and what follows its name."""

    apply: Callable[..., Env]
    kinds: tuple[type, ...]
    text: str


NAMES = {
    "none": Form(lambda env: env, (), "none"),  # leaves out those of a preset
    "history": Form(history, (int,), "history:LENGTH"),
    "action_repeat": Form(action_repeat, (int,), "action_repeat:TIMES"),
    "action_delay": Form(action_delay, (int,), "action_delay:STEPS"),
    "action_rate": Form(action_rate, (float,), "action_rate:PENALTY"),
    "observation_noise": Form(observation_noise, (float,), "observation_noise:STD"),
    "time_observation": Form(time_observation, (), "time_observation"),
    "reward_scale": Form(reward_scale, (float,), "reward_scale:FACTOR"),
    "reward_clip": Form(reward_clip, (float, float), "reward_clip:LOW:HIGH"),
    "episode_length": Form(episode_length, (int,), "episode_length:STEPS"),
}


def apply(env: Env, texts: Sequence[str]) -> Env:
    """The environment with wrappers by name, such as `["action_repeat:2", "history:3"]`; the first is innermost.

    Raises RlxError for an unknown name (with the nearest) or a value that cannot be.
    """
    for function, values in parse(texts):
        env = function(env, *values)
    return env


def parse(texts: Sequence[str]) -> list[tuple[Callable[..., Env], list[Any]]]:
    """The functions of wrappers by name, each with its values. Raises RlxError as `apply` does."""
    return [_parse(text) for text in texts]


def _parse(text: str) -> tuple[Callable[..., Env], list[Any]]:
    name, *values = text.split(":")
    if name not in NAMES:
        raise unknown("--wrappers", name, NAMES)
    form = NAMES[name]
    try:
        return form.apply, [kind(value) for kind, value in zip(form.kinds, values, strict=True)]
    except ValueError:
        raise RlxError(f"--wrappers {text}: must be {form.text}, as in docs/wrappers.md") from None
