"""Which named parts of its observations an environment shows, and which of them policies and critics read."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from rlx.envs.sources import sources
from rlx.envs.wrapped import Wrapped, outer_state, reset_env
from rlx.errors import RlxError, unknown
from rlx.types import Env, EnvState, Key, Step

ACTOR = "state"  # what policies read by default, where an environment has such a part, as in MuJoCo Playground


def choose(env: Env, actor: Sequence[str] = (), critic: Sequence[str] = ()) -> Env:
    """The environment with the parts that policies and critics read, and no others.

    Without names, policies read the part `state` where there is one, else all parts; critics what policies read.
    Policies always read the action mask.
    Raises RlxError for the name of no part.
    """
    spec = env.spec
    for flag, names in (("--actor-observation", actor), ("--critic-observation", critic)):
        for name in names:
            if not spec.parts:
                raise RlxError(f"{flag} {name}: this environment's observations have no parts; leave it out")
            if name not in spec.parts:
                raise unknown(flag, name, spec.parts)
        if len(set(names)) < len(names):
            raise RlxError(f"{flag} {' '.join(names)}: names a part twice")
    if not spec.parts or spec.actor_parts or spec.critic_parts:  # or they are chosen already
        return env
    actor = tuple(actor) or ((ACTOR,) if ACTOR in spec.parts else tuple(spec.parts))
    if spec.action_mask:  # which policies cannot do without
        actor = tuple(dict.fromkeys((*actor, spec.action_mask)))
    critic = tuple(critic) or actor
    chosen = [name for name in spec.parts if name in {*actor, *critic}]

    def cut(observation: jax.Array) -> jax.Array:
        return jnp.concatenate([observation[..., slice(*spec.parts[name])] for name in chosen], axis=-1)

    def state(inside: EnvState) -> EnvState:
        return outer_state(inside, inside.time, cut(inside.observation))

    def step(before: EnvState, action: jax.Array, key: Key) -> tuple[EnvState, Step]:
        after, shown = env.step(before.inner.env, action, key)
        observation = cut(shown.next_observation)
        return state(after), shown._replace(observation=observation, next_observation=observation)

    ranges = {name: spec.parts[name] for name in chosen}
    sizes = [end - start for start, end in ranges.values()]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return Wrapped(
        env,
        spec._replace(
            observation=jax.ShapeDtypeStruct((sum(sizes),), spec.observation.dtype),
            parts={name: (start, start + size) for name, start, size in zip(chosen, starts, sizes, strict=True)},
            actor_parts=actor,
            critic_parts=critic,
        ),
        lambda key, params=None: state(reset_env(env, key, params)),
        step,
        sources=sources(env).cut(slice(*spec.parts[name]) for name in chosen),
    )
