"""What tests of environments share: keys, types, and many steps of a batch."""

from typing import Any

import jax

import rlx.envs
from rlx.types import EnvState, Step


def keys_of(seed: int, count: int) -> jax.Array:
    return jax.random.split(jax.random.key(seed), count)


def types_of(tree: Any) -> Any:
    return jax.tree.map(lambda x: (x.shape, x.dtype, is_weak(x)), tree)


def is_weak(leaf: Any) -> bool:
    return getattr(leaf, "weak_type", False)  # keys have none


def scan(
    vector: rlx.envs.VectorEnv, state: Any, actions: jax.Array, pool: EnvState, key: jax.Array
) -> tuple[Any, Step]:
    """Steps through actions `[T, E, A]`; raises where the state's types change."""

    def body(state: Any, xs: Any) -> tuple[Any, Step]:
        action, key = xs
        return vector.step(state, action, pool, jax.random.split(key, action.shape[0]))

    return jax.lax.scan(body, state, (actions, jax.random.split(key, actions.shape[0])))
