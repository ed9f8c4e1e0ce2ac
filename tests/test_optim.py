"""Optimisers and schedules by name, against NumPy."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import optim
from rlx.errors import RlxError
from tests import processes


def slow_steps(params: np.ndarray, gradients: np.ndarray, decay: float, norm: float) -> np.ndarray:
    """AdamW with clipping at a learning rate of 0.1, `[T, W]` gradients one after the other."""
    m, v = np.zeros_like(params), np.zeros_like(params)
    for t, gradient in enumerate(gradients, 1):
        gradient = gradient * min(1, norm / np.sqrt((gradient**2).sum()))
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        params = params - 0.1 * (m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8) + decay * params)
    return params


def flat(params: Any) -> jax.Array:
    return jnp.concatenate(list(params["params"].values()))


@pytest.mark.parametrize(
    ("name", "options"), [("adam", ()), ("adamw", ("decay",)), ("adam", ("norm",)), ("adamw", ("decay", "norm"))]
)
def test_optimisers_against_numpy(name: str, options: tuple[str, ...]) -> None:
    """Plain, jitted, vmapped over traced numbers; the norm is of all leaves, running statistics never decay."""
    gradients = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32) * 4
    params = {"params": {"a": jnp.arange(2.0), "b": jnp.arange(2.0, 5.0)}, "batch_stats": jnp.ones(2)}

    def steps(decay: Any, norm: Any) -> Any:
        options_of = {"weight_decay": decay} if "decay" in options else {}
        options_of |= {"max_gradient_norm": norm} if "norm" in options else {}
        optimizer = optim.make_optimizer(name, **options_of)
        new, state = params, optimizer.init(params)
        for gradient in jnp.asarray(gradients):

            def loss(params: Any, gradient: jax.Array = gradient) -> Any:
                return flat(params) @ gradient, {}

            new, state, _ = optim.gradient_step(loss, optimizer)(new, state, 0.1)
        return new

    cases = [(0.5, 2.0), (0.01, 1e6)]
    bounds = [("decay" in options and decay, norm if "norm" in options else np.inf) for decay, norm in cases]
    wanted = [slow_steps(np.arange(5.0), gradients, *bound) for bound in bounds]
    got = [[steps(*case) for case in cases], [jax.jit(steps)(*case) for case in cases]]
    mapped = jax.vmap(steps)(*jnp.array(cases).T)
    got.append([jax.tree.map(lambda x, i=i: x[i], mapped) for i in range(2)])
    for way in got:
        for actual, want in zip(way, wanted, strict=True):
            np.testing.assert_allclose(flat(actual), want, rtol=1e-4, atol=1e-5)
            np.testing.assert_array_equal(actual["batch_stats"], 1.0)


def test_decay_of_the_first_moments() -> None:
    """After gradients of 1 and 0, with b1 = 0.5: 0.25 / (1 - 0.25), over the second moments' root."""
    optimizer = optim.make_optimizer("adam", b1=jnp.float32(0.5))
    state = optimizer.init(jnp.zeros(()))
    for gradient in (1.0, 0.0):
        update, state = optimizer.update(jnp.float32(gradient), state)
    np.testing.assert_allclose(update, (0.25 / 0.75) / np.sqrt(0.000999 / (1 - 0.999**2)), rtol=1e-4)


def test_schedules() -> None:
    """From 1 to 0 and 0 from there on; a warm-up rises to 1 and multiplies what follows; no length, no decay."""
    t = np.arange(8)
    share = np.minimum(t / 6, 1)
    for name, want in (("constant", np.ones(8)), ("cosine", (1 + np.cos(np.pi * share)) / 2), ("linear", 1 - share)):
        for way in (lambda f: [f(i) for i in t], lambda f: jax.jit(jax.vmap(f))(jnp.asarray(t))):
            check = partial(np.testing.assert_allclose, atol=1e-6)
            check(way(optim.make_schedule(name, 6)), want)
            check(way(optim.make_schedule(name, 6, warmup=4)), want * np.minimum(1, (t + 1) / 4))
            check(way(optim.make_schedule(name, -1)), np.ones(8))


def test_unknown_names() -> None:
    for make, message in (
        (lambda: optim.make_optimizer("adamm"), "optimizer adamm: unknown; did you mean adam"),
        (lambda: optim.make_schedule("cosin", 1), "schedule cosin: unknown; did you mean cosine"),
        (lambda: optim.make_optimizer("adam", weight_decay=1.0), "choose adamw"),
    ):
        with pytest.raises(RlxError, match=message):
            make()


@pytest.mark.slow
def test_gradients_under_shard_map_are_those_of_the_full_batch() -> None:
    """Also with jax's check of what varies over devices, which sums gradients by shared parameters on its own."""
    assert processes.run(["tests.check_shard_map"], devices=4).splitlines() == ["check_vma True", "check_vma False"]
