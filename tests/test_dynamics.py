"""A library's reset and step, cut down by hand to what later steps read."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx.envs.dynamics import Dynamics


def test_only_what_later_steps_read_is_carried() -> None:
    """By hand: `a` is read by the next step, `b` by `a`'s, `c` by nothing, `d` is wanted, `e` holds no number."""

    def reset(key: jax.Array, params: Any = None) -> tuple[Any, Any]:
        draw = jax.random.uniform(key)
        return {"a": draw, "b": 2 * draw, "c": 3 * draw, "d": 4 * draw, "e": jnp.zeros((0,))}, draw

    def step(state: Any, push: jax.Array) -> tuple[Any, Any]:
        after = {"a": state["a"] + state["b"], "b": state["b"] * push, "c": state["a"], "d": push, "e": state["e"]}
        return after, {"seen": state["a"] * 10}

    dynamics = Dynamics(reset, step, lambda flags: flags | {"d": True}, jax.ShapeDtypeStruct((), jnp.float32))
    packed, draw = dynamics.reset(jax.random.key(3))
    np.testing.assert_allclose(packed, [draw, 2 * draw, 4 * draw], rtol=1e-6)
    packed, shown = dynamics.step(packed, jnp.float32(0.5))
    np.testing.assert_allclose(packed, [3 * draw, draw, 0.5], rtol=1e-6)
    np.testing.assert_allclose(shown["seen"], 10 * draw, rtol=1e-6)
    full = dynamics.unpack(packed)
    assert full["c"] == 0 and full["e"].shape == (0,) and full["d"] == 0.5
    batch, _ = jax.jit(jax.vmap(dynamics.step))([jnp.stack([x, x]) for x in packed], jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(batch[1], [draw, 2 * draw], rtol=1e-6)
