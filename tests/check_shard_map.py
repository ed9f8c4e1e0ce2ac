"""Run on four devices: gradients averaged under shard_map, with and without its check, are those of the full batch."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlx import parallel
from rlx.optim import gradient_step


def loss(params: Any, rows: jax.Array) -> tuple[jax.Array, Any]:
    value = jnp.mean((rows @ params["w"] - 1) ** 2)
    return value, {"loss": value}


def stepped(axes: parallel.Axes) -> Any:
    step = gradient_step(loss, optax.identity(), axes)
    return lambda params, rows: step(params, optax.EmptyState(), 0.1, rows)


def main() -> None:
    rows, params = jnp.arange(8.0).reshape(4, 2), {"w": jnp.array([1.0, -2.0])}
    mesh = jax.make_mesh((4,), ("data",), (jax.sharding.AxisType.Auto,))
    for check in (True, False):
        specs: Any = {"in_specs": (jax.P(), jax.P("data")), "out_specs": jax.P(), "check_vma": check}
        sharded = jax.jit(jax.shard_map(stepped(("data",)), mesh=mesh, **specs))(params, rows)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), sharded, stepped(())(params, rows))
        print("check_vma", check)


if __name__ == "__main__":
    main()
