"""Batches in blocks: the same results, and a loop only where a batch is large, on a CPU."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.parallel import xla
from rlx.parallel.xla import in_blocks


def halves(batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Something of every row, of two shapes and types, and with keys."""
    noise = jax.vmap(lambda key: jax.random.normal(key, (2,)))(batch["key"])
    return batch["x"] * 0.5 + noise, batch["n"] // 2


def make(rows: int) -> dict[str, Any]:
    x = jnp.arange(2.0 * rows).reshape(rows, 2)
    return {"x": x, "n": jnp.arange(rows), "key": jax.random.split(jax.random.key(0), rows)}


def loops(rows: int) -> bool:
    return "scan" in str(jax.make_jaxpr(lambda batch: in_blocks(halves, batch))(make(rows)))


@pytest.mark.parametrize(
    ("rows", "blocks"),
    [(1, False), (128, False), (129, False), (200, True), (256, True), (257, False), (1024, True), (1031, False)],
)
def test_large_batches_that_divide_go_in_blocks(rows: int, blocks: bool) -> None:
    """129 = 3 x 43 would make blocks that are too small; 257 and 1031 are primes; 200 is twice 100."""
    assert loops(rows) == blocks


@pytest.mark.parametrize("rows", [5, 200, 1024])
def test_blocks_change_nothing(rows: int) -> None:
    """Plain, jitted, and under vmap over members."""
    expected = halves(make(rows))
    for function in (in_blocks, jax.jit(in_blocks, static_argnums=0)):
        for got, wanted in zip(function(halves, make(rows)), expected, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)
    members = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf[::-1]]), make(rows))
    both = jax.vmap(lambda batch: in_blocks(halves, batch))(members)
    for got, wanted in zip(both, expected, strict=True):
        np.testing.assert_allclose(got[0], wanted, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(got[1], wanted[::-1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_go_through_blocks(recompute: bool) -> None:
    """Of what all rows share, too; with `recompute` nothing that a block computed is kept for it."""

    def total(function: Any, scale: jax.Array) -> jax.Array:
        return jnp.sum(function(lambda x: jnp.sin(scale * x), jnp.arange(400.0).reshape(200, 2)))

    whole = jax.grad(lambda scale: total(lambda f, x: f(x), scale))(0.01)
    cut = partial(in_blocks, recompute=recompute)
    gradient = jax.grad(lambda scale: total(cut, scale))
    np.testing.assert_allclose(gradient(0.01), whole, rtol=1e-4)
    assert ("remat" in str(jax.make_jaxpr(gradient)(0.01))) == recompute


def test_an_accelerator_gets_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xla.jax, "default_backend", lambda: "gpu")
    assert not loops(1024)
