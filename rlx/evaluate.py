"""Evaluating a policy: full episodes from fixed starts, inside one program; the first few are recorded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from rlx.envs.base import MAX_MAGNITUDE, Renderable, diverged
from rlx.envs.randomization import Randomized, nominal_params
from rlx.types import Env, EnvState, Key


class Evaluation(NamedTuple):
    """N episodes; the recording holds the first R of them, padded with zeros after their end."""

    returns: jax.Array  # [N]
    lengths: jax.Array  # [N] int32
    recording: dict[str, jax.Array]  # view [T, R, ...] (see `view`), action [T, R, A], reward [T, R]
    nonfinite: jax.Array  # [N] bool, episodes that were truncated because they diverged
    sums: dict[str, jax.Array] = {}  # noqa: RUF012 -- over the episode, of each scalar of the spec's extras and metrics [N]
    lasts: dict[str, jax.Array] = {}  # noqa: RUF012 -- and of the episode's last step, [N]
    nominal_returns: jax.Array | None = None  # [N], without randomised physics; None where it is not randomised

    def __repr__(self) -> str:
        """Means of each member; no array, of which the recording has large ones."""
        if isinstance(self.returns, jax.core.Tracer) or not isinstance(self.returns, np.ndarray | jax.Array):
            return f"Evaluation{tuple.__repr__(self)}"  # of tracers, shapes or axes
        returns, lengths = np.asarray(self.returns), np.asarray(self.lengths)

        def text(values: np.ndarray) -> str:
            return np.array2string(values, formatter={"float": "{:.1f}".format}, threshold=8)

        of = f"{len(returns)} members, " if returns.ndim > 1 else ""
        mean, std, length = text(returns.mean(-1)), text(returns.std(-1)), text(lengths.mean(-1))
        return f"Evaluation({of}{returns.shape[-1]} episodes: returns {mean} +- {std}, lengths {length})"


def renderable_scene(env: Env) -> dict[str, Any] | None:
    """The environment's scene, or None where it cannot be drawn: it has none, or nothing in it moves."""
    with jax.ensure_compile_time_eval():  # scenes are made of plain numbers, also while a program is being traced
        scene = env.scene() if hasattr(env, "scene") else None
        return scene if scene and any(geom["link"] >= 0 for geom in scene["geoms"]) else None


def view(env: Env, state: EnvState) -> jax.Array:
    """What a recording keeps of a state: poses `[links, 7]` where the environment can be drawn, else `[O]`."""
    return state.observation if renderable_scene(env) is None else cast(Renderable, env).pose(state)


def evaluate(
    env: Env,
    act: Callable[..., Any],
    num_episodes: int,
    key: Key,
    record: int = 0,
    carry: Any = None,
    max_magnitude: float = MAX_MAGNITUDE,
    params: Any = None,
    nominal: bool = True,
) -> Evaluation:
    """Runs `num_episodes` episodes at once to their end under `act(observation [N, O], key) -> action [N, A]`.

    With an acting state to begin with, `carry` [N, ...], it is `act(observation, key, carry) -> (action, carry)`.
    Starts depend on `key` alone, so two policies evaluated with one key face the same starts. Stops as soon as every
    episode has ended, at the latest at the time limit. A step whose observation or reward is not finite, or beyond
    +-`max_magnitude`, truncates its episode and adds nothing to its return. Where the environment draws its physics at
    every reset, as many episodes more begin in the same starts with the nominal physics, if `nominal`. `params` are
    those of all episodes (see `rlx.envs.env_params`), in place of the environment's own.
    """
    reset_key, step_key, act_key = jax.random.split(key, 3)
    reset_keys = jax.random.split(reset_key, num_episodes)
    reset = env.reset if params is None else partial(cast(Randomized, env).reset, params=params)
    state, limit = jax.vmap(reset)(reset_keys), env.spec.episode_length
    nominal_ones = nominal_params(env) if nominal and params is None else None
    if nominal_ones is not None:
        as_it_is = jax.vmap(lambda key: cast(Randomized, env).reset(key, nominal_ones))(reset_keys)
        state, carry = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), (state, carry), (as_it_is, carry))
    number = num_episodes if nominal_ones is None else 2 * num_episodes

    def bad(x: jax.Array) -> jax.Array:
        return jax.vmap(lambda x: diverged(x, max_magnitude))(x)

    def views(state: EnvState) -> jax.Array:
        return jax.vmap(lambda s: view(env, s))(jax.tree.map(lambda x: x[:record], state))

    def while_alive(alive: jax.Array, shot: Any) -> Any:
        return jax.tree.map(lambda x: jnp.where(alive, x, 0), shot)

    empty = {
        "view": jax.eval_shape(views, state),
        "action": jax.ShapeDtypeStruct((record, env.spec.action_size), jnp.float32),
        "reward": jax.ShapeDtypeStruct((record,), jnp.float32),
    }
    recording = jax.tree.map(lambda x: jnp.zeros((limit, *x.shape), x.dtype), empty)
    zeros = jnp.zeros(number, jnp.float32)
    names = [*env.spec.metrics, *(name for name, shape in env.spec.extras.items() if shape.shape == ())]
    scalars = dict.fromkeys(names, zeros)
    nonfinite = bad(state.observation)
    extras, flags = (scalars, scalars), (nonfinite, nonfinite)
    loop = (jnp.zeros((), jnp.int32), state, flags, zeros, zeros.astype(jnp.int32), recording, extras, carry)

    def running(loop: Any) -> jax.Array:
        time, _, (ended, _), *_ = loop
        return (time < limit) & ~ended.all()

    def step(loop: Any) -> Any:
        time, state, (ended, nonfinite), returns, lengths, recording, (sums, lasts), carry = loop
        act_now = jax.random.fold_in(act_key, time)
        if carry is None:
            action = act(state.observation, act_now)
        else:
            action, carry = act(state.observation, act_now, carry)
        keys = jax.random.split(jax.random.fold_in(step_key, time), number)
        after, shown = jax.vmap(env.step)(state, action, keys)
        alive = ~ended
        breaks = alive & (bad(shown.next_observation) | bad(shown.reward))
        reward = jnp.where(alive & ~breaks, shown.reward, 0.0)
        shots = {"view": views(state), "action": action[:record], "reward": reward[:record]}
        frame = jax.vmap(while_alive)(alive[:record], shots)
        recording = jax.tree.map(lambda film, f: film.at[time].set(f.astype(film.dtype)), recording, frame)
        flags = (ended | shown.terminated | shown.truncated | breaks, nonfinite | breaks)
        reported = shown.metrics | shown.extras
        now, counts = {name: reported[name].astype(jnp.float32) for name in sums}, alive & ~breaks
        sums = {name: jnp.where(counts, total + now[name], total) for name, total in sums.items()}
        lasts = {name: jnp.where(counts, now[name], before) for name, before in lasts.items()}
        return time + 1, after, flags, returns + reward, lengths + alive, recording, (sums, lasts), carry

    _, _, (_, nonfinite), returns, lengths, recording, (sums, lasts), _ = jax.lax.while_loop(running, step, loop)
    of_nominal = None if nominal_ones is None else returns[num_episodes:]
    returns, lengths, nonfinite, sums, lasts = jax.tree.map(
        lambda x: x[:num_episodes], (returns, lengths, nonfinite, sums, lasts)
    )
    return Evaluation(returns, lengths, recording, nonfinite, sums, lasts, of_nominal)
