"""What all environments share: how an episode begins and ends, and many environments at once with cheap resets."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, cast

import jax
import jax.numpy as jnp
from flax.struct import PyTreeNode

from rlx.envs.observations import flatten
from rlx.errors import RlxError
from rlx.parallel.xla import in_blocks
from rlx.types import Env, EnvState, Key, Spec, Step, fix_types


class Renderable(Env, Protocol):
    """An environment that a viewer can draw; both methods are optional for an Env.

    `scene()` is static and can be written as JSON, or None where there is nothing to draw:
    `{"dt": seconds per step, "geoms": [{"shape", "size", "link", "position", "rotation", "color"}, ...]}`.
    `shape` and `size` follow MuJoCo, all lengths halved: sphere [radius]; capsule and cylinder [radius, half length
    along z] (of a capsule without its caps); box and ellipsoid [half x, half y, half z]; plane [half x, half y] facing
    z, where 0 is without end. `link` is the row of `pose` that carries the geom, -1 the world; `position` [x, y, z] and
    `rotation` [w, x, y, z] are relative to it; z is up; `color` is [red, green, blue] in [0, 1].
    """

    def scene(self) -> dict[str, Any] | None: ...

    def pose(self, state: EnvState) -> jax.Array:
        """Where the links are, `[links, 7]`: position x, y, z and unit quaternion w, x, y, z. Can be jitted."""
        ...


class Controller(NamedTuple):
    """A scripted policy that an environment may offer in its mapping `controllers`, for `rlx collect ENV --kind NAME`.

    An episode begins with the carry that `carry()` makes, a pytree.
    """

    act: Callable[[jax.Array, Key, Any], tuple[jax.Array, Any]]  # (observation [O], key, carry) -> action [A], carry
    carry: Callable[[], Any] = tuple


def with_key(info: Mapping[str, Any], key: Key) -> dict[str, Any]:
    """A library's `state.info` with the step's key as its entry "rng", where it has one, of the same kind of key."""
    if "rng" not in info:
        return dict(info)
    typed = jnp.issubdtype(info["rng"].dtype, jax.dtypes.prng_key)
    return dict(info) | {"rng": key if typed else jax.random.key_data(key)}


def begin(inner: Any, observation: Any) -> EnvState:
    """The state that a reset returns: flat float32 observation `[O]`, strong types, time 0."""
    inner = fix_types(jax.tree.map(jnp.asarray, inner))
    return EnvState(inner=inner, observation=flatten(observation), time=jnp.zeros((), jnp.int32))


def advance(
    state: EnvState,
    inner: Any,
    observation: Any,
    reward: jax.Array | float,
    terminated: jax.Array | bool,
    episode_length: int,
    metrics: Mapping[str, jax.Array] = MappingProxyType({}),
) -> tuple[EnvState, Step]:
    """What a step returns, in exactly the types of `state`; the time limit is decided here and nowhere else."""
    observation = flatten(observation)
    time = state.time + 1
    terminated = jnp.asarray(terminated, bool).reshape(())
    after = EnvState(inner=jax.tree.map(_as_type_of, inner, state.inner), observation=observation, time=time)
    return after, Step(
        observation=observation,
        next_observation=observation,
        reward=jnp.asarray(reward, jnp.float32).reshape(()),
        terminated=terminated,
        truncated=(time >= episode_length) & ~terminated,
        metrics={name: jnp.asarray(x, jnp.float32).reshape(()) for name, x in metrics.items()},
    )


def metric_names(metrics: Mapping[str, Any]) -> tuple[str, ...]:
    """Those of a library's metrics (or of their shapes) that are one number each, for `Spec.metrics`."""
    return tuple(sorted(name for name, x in metrics.items() if math.prod(getattr(x, "shape", ())) == 1))


MOST = 2**31 - 1  # steps of an episode, or environments: int32 counts them
REMEMBERED = 1000  # steps that a wrapper keeps or repeats, at most: each is part of the state of every environment
MAX_MAGNITUDE = 1e10  # of observations and rewards; what is beyond has diverged
STEP = 2**31 - 1  # folded into an environment's key for its step; most ignore it, and then nothing is computed


class VectorState(PyTreeNode):
    """Many environments, each inside an episode."""

    env: EnvState  # [E, ...]
    episode_return: jax.Array  # [E], of the episode so far
    carry: Any = None  # [E, ...], the acting state of an agent that has one; see `rlx.rollout.collect`
    returns: Any = None  # `rlx.normalize.Returns` of the episodes so far, in a run that normalises rewards


class VectorEnv(NamedTuple):
    """Many environments as pure functions: jit them, scan them, vmap them over a leading axis of seeds.

    `keys` are typed keys, one for each environment, so that results do not depend on how environments are spread
    over devices: the caller folds in the global index of the environment.
    """

    spec: Spec
    num_envs: int  # E
    pool_size: int  # P
    # (key, params=None) -> [P, ...], call it again to refresh the starts; the only one that resets
    make_pool: Callable[..., EnvState]
    init: Callable[[EnvState, Key], VectorState]  # (pool, keys [E])
    step: Callable[[VectorState, jax.Array, EnvState, Key], tuple[VectorState, Step]]  # (state, [E, A], pool, keys [E])


def vectorise(
    env: Env,
    num_envs: int,
    pool_size: int,
    truncate_nonfinite: bool = False,
    max_magnitude: float = MAX_MAGNITUDE,
) -> VectorEnv:
    """`num_envs` copies of `env`, which start their next episodes from random rows of a pool of initial states.

    A reset costs a gather: no program but `make_pool`'s holds the reset of the environment. Where an episode ended,
    `step.observation` is the first of the new episode and `step.next_observation` the true successor.
    `step.metrics` are the environment's; `episode_return` and `episode_length` `[E]` of the episode so far, this step
    included: final where terminated | truncated; and `bad_reset`, `bad_observation` and `bad_reward` `[E]`, whether
    the episode's first observation, the successor or the reward had diverged (see `diverged`).

    With `truncate_nonfinite` a step that diverged truncates its episode: reward and extras are 0 and the successor is
    the observation before. Initial states that diverged are passed over for the next good one of the pool, and count in
    `bad_observation`. Raises RlxError where a count is not a positive integer; a step does for actions of another
    shape.
    """
    check_count("num_envs", num_envs)
    check_count("pool_size", pool_size)

    def make_pool(key: Key, params: Any = None) -> EnvState:
        reset = env.reset if params is None else partial(cast(Any, env).reset, params=params)
        return jax.vmap(reset)(jax.random.split(key, pool_size))

    def sample_start(pool: EnvState, key: Key) -> tuple[EnvState, jax.Array]:
        """A random row, and whether it stands in for one that diverged."""
        row = jax.random.bits(key, (), jnp.uint32) % pool_size  # a third of randint's program, as good as uniform
        replaced = jnp.bool_(False)
        if truncate_nonfinite:
            good = ~jax.vmap(partial(diverged, max_magnitude=max_magnitude))(pool.observation)
            chosen = _next_good(good)[row].astype(row.dtype)
            row, replaced = chosen, chosen != row
        return jax.tree.map(lambda leaf: leaf.at[row].get(mode="promise_in_bounds"), pool), replaced

    def init_one(pool: EnvState, key: Key) -> VectorState:
        return VectorState(env=sample_start(pool, key)[0], episode_return=jnp.zeros((), jnp.float32))

    def step_one(state: VectorState, action: jax.Array, pool: EnvState, key: Key) -> tuple[VectorState, Step]:
        after, step = env.step(state.env, action, jax.random.fold_in(key, STEP))
        bad_reset = (state.env.time == 0) & diverged(state.env.observation, max_magnitude)
        bad_observation = diverged(step.next_observation, max_magnitude)
        bad_reward = diverged(step.reward, max_magnitude)
        if truncate_nonfinite:
            step = _truncated(step, state.env.observation, bad_observation | bad_reward)
        ended = step.terminated | step.truncated
        episode_return = state.episode_return + step.reward.astype(jnp.float32)
        start, replaced = sample_start(pool, key)
        metrics = step.metrics | {
            "episode_return": episode_return,
            "episode_length": after.time,
            "bad_reset": bad_reset,
            "bad_observation": bad_observation | (ended & replaced),
            "bad_reward": bad_reward,
        }
        following = jax.tree.map(partial(jnp.where, ended), start, after)
        state = state.replace(env=following, episode_return=jnp.where(ended, 0.0, episode_return))
        return state, step._replace(observation=following.observation, metrics=metrics)

    def init(pool: EnvState, keys: Key) -> VectorState:
        return jax.vmap(init_one, in_axes=(None, 0))(pool, keys)

    def step(state: VectorState, action: jax.Array, pool: EnvState, keys: Key) -> tuple[VectorState, Step]:
        def block(rows: tuple[VectorState, jax.Array, Key]) -> tuple[VectorState, Step]:
            state, action, keys = rows
            return jax.vmap(step_one, in_axes=(0, 0, None, 0))(state, action, pool, keys)

        shape = (keys.shape[0], *env.spec.action.shape)
        if jnp.shape(action) != shape:  # which might broadcast
            raise RlxError(f"actions have shape {jnp.shape(action)}: give {shape}, one row for each environment")
        result: tuple[VectorState, Step] = in_blocks(block, (state, action, keys))
        return result

    return VectorEnv(env.spec, num_envs, pool_size, make_pool, init, step)


def diverged(x: jax.Array, max_magnitude: float) -> jax.Array:
    """Whether any number is NaN, infinite or beyond +-`max_magnitude`, [] bool.

    Physics that diverges passes through huge finite numbers before it overflows; MuJoCo, too, calls positions and
    velocities beyond 1e10 bad (mjMAXVAL).
    """
    return ~(jnp.abs(x) <= max_magnitude).all()


def _next_good(good: jax.Array) -> jax.Array:
    """For each row of a pool the first good row from it on, cyclically, `[P]`; itself where no row is good."""
    rows = jnp.arange(good.shape[0], dtype=jnp.int32)
    ahead = jnp.where(good, rows, good.shape[0])
    nearest = jax.lax.cummin(ahead, reverse=True)
    return jnp.where(good.any(), jnp.where(nearest < good.shape[0], nearest, ahead.min()), rows)


def _truncated(step: Step, observation: jax.Array, bad: jax.Array) -> Step:
    """The step, or where it is `bad` a truncation at the `observation` before it, the last good one."""
    return step._replace(
        next_observation=jnp.where(bad, observation, step.next_observation),
        reward=jnp.where(bad, 0.0, step.reward),
        terminated=step.terminated & ~bad,
        truncated=step.truncated | bad,
        extras=jax.tree.map(lambda x: jnp.where(bad, jnp.zeros_like(x), x), step.extras),
    )


_used_in: list[int] = []  # the first process that made an environment


def check_process() -> None:
    """Raises RlxError in a process that was forked from one that has used JAX, which would hang."""
    _used_in.append(os.getpid())
    if _used_in[0] != os.getpid():
        raise RlxError(
            "environments hang in a process that was forked after JAX had begun: start processes by spawning, as"
            ' gymnasium.vector.AsyncVectorEnv(..., context="spawn") does'
        )


def check_count(name: str, count: int, most: int = MOST) -> None:
    """Raises RlxError unless `count` is a positive integer of at most `most`."""
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise RlxError(f"{name} must be an integer of at least 1, not {count!r}")
    if count > most:
        raise RlxError(f"{name} must be at most {most:,}, not {count:,}")


def _as_type_of(new: Any, old: jax.Array) -> jax.Array:
    return new if jnp.issubdtype(old.dtype, jax.dtypes.prng_key) else jnp.asarray(new, old.dtype)
