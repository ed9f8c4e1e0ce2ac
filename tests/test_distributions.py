"""The tanh-Gaussian against float64 arithmetic, numerical integration and distrax, and at the boundary."""

from typing import Any

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.distributions import TanhNormal, mean_tanh_normal, tanh_log_jacobian
from tests.loss_tools import tanh_log_prob, three_ways


def log_prob(mean: Any, log_std: Any, action: Any) -> jax.Array:
    return TanhNormal(mean, log_std).log_prob(action)


def test_log_prob_against_float64() -> None:
    rng = np.random.default_rng(0)
    mean, log_std = rng.uniform(-2, 2, size=(2, 500, 3)).astype(np.float32)
    action = np.concatenate([rng.uniform(-1, 1, (400, 3)), 1 - 10 ** rng.uniform(-6, -2, (100, 3))]).astype(np.float32)
    for actual in three_ways(log_prob, mean, log_std, action):
        np.testing.assert_allclose(actual, tanh_log_prob(mean, log_std, action), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, 0.0), (1.5, -1.0), (-0.3, -3.0), (0.5, 0.5)])
def test_density_integrates_to_one(mean: float, log_std: float) -> None:
    action = np.tanh(np.linspace(-8, 8, 4001)).astype(np.float32)
    log_density = jax.vmap(lambda a: log_prob(jnp.array([mean]), jnp.array([log_std]), a))(action[:, None])
    density = np.exp(np.asarray(log_density))
    mass = np.sum(np.diff(action.astype(np.float64)) * (density[1:] + density[:-1]) / 2)
    np.testing.assert_allclose(mass, 1, atol=2e-3)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("mean", [0.0, 20.0, -20.0])
def test_log_prob_is_finite_everywhere(dtype: Any, mean: float) -> None:
    """Value and all gradients, on a grid with the boundary, at the narrowest and widest policy."""
    inside = 1 - float(jnp.finfo(dtype).epsneg)
    grid = jnp.array([-1, -inside, *np.linspace(-0.99, 0.99, 9), inside, 1], dtype)[:, None]
    log_std = jnp.array([-30, -20, 0, 2, 10], dtype)[:, None, None]
    arguments = jnp.broadcast_arrays(jnp.full((1, 1, 1), mean, dtype), log_std, grid)
    every = jax.jit(jax.vmap(jax.vmap(jax.value_and_grad(log_prob, argnums=(0, 1, 2)))))
    for leaf in jax.tree.leaves(every(*arguments)):
        assert bool(jnp.all(jnp.isfinite(leaf)))


@pytest.mark.parametrize(("dtype", "u"), [(jnp.float32, 8.664339), (jnp.bfloat16, 3.117709)])
def test_the_boundary_reads_as_its_neighbour(dtype: Any, u: float) -> None:
    mean, log_std = jnp.array([0.5, -1.0]), jnp.array([0.0, 0.3])
    neighbour = 1 - jnp.finfo(dtype).epsneg
    assert neighbour < 1 and neighbour == jnp.nextafter(jnp.ones((), dtype), jnp.zeros((), dtype))
    value_and_slope = jax.value_and_grad(log_prob, argnums=(0, 1))
    edge = value_and_slope(mean, log_std, jnp.array([1, -1], dtype))
    near = value_and_slope(mean, log_std, jnp.array([neighbour, -neighbour], dtype))
    jax.tree.map(np.testing.assert_array_equal, edge, near)
    z = (np.array([u, -u]) - np.array(mean)) / np.exp(np.array(log_std))
    by_hand = np.sum(-(z**2) / 2 - log_std - np.log(2 * np.pi) / 2 - 2 * (np.log(2) - u - np.log1p(np.exp(-2 * u))))
    np.testing.assert_allclose(edge[0], by_hand, rtol=1e-4)


def test_only_the_boundary_is_read_otherwise() -> None:
    """Nothing is clipped: outside there is no density, and NaN stays NaN."""
    zero = jnp.zeros(1)
    assert log_prob(zero, zero, jnp.array([1.001])) == -jnp.inf
    assert jnp.isnan(log_prob(zero, zero, jnp.array([jnp.nan])))
    close = jnp.array([1 - 2**-23], jnp.float32)
    np.testing.assert_allclose(log_prob(zero, zero, close), tanh_log_prob(zero, zero, close), rtol=1e-4)


def test_samples_against_distrax() -> None:
    """From the same noise the same actions and log-probabilities, also where tanh is 1."""

    def draw(mean: jax.Array, log_std: jax.Array) -> Any:
        return TanhNormal(mean, log_std).sample_and_log_prob(seed=jax.random.key(1))

    mean, log_std = jnp.broadcast_arrays(jnp.array([[0.0, 3.0, 20.0]]), jnp.linspace(-5, 2, 8)[:, None])
    u = mean + jnp.exp(log_std) * jax.random.normal(jax.random.key(1), (1, 8, 3))[0]
    normal = distrax.Independent(distrax.Normal(mean, jnp.exp(log_std)), 1)
    want = normal.log_prob(u) - distrax.Tanh().forward_log_det_jacobian(u).sum(axis=-1)
    action = jnp.tanh(u)
    assert bool(jnp.any(action == 1))
    for got in three_ways(draw, mean, log_std):
        np.testing.assert_allclose(got[0], action, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(got[1], want, rtol=1e-4, atol=1e-4)
    slopes = jax.jit(jax.grad(lambda m, s: draw(m, s)[1].sum(), argnums=(0, 1)))(mean, log_std)
    assert bool(jnp.all(jnp.isfinite(jnp.stack(slopes))))


@pytest.mark.parametrize("u", [-30.0, -2.0, 0.0, 0.3, 30.0])
def test_tanh_log_jacobian(u: float) -> None:
    """Against float64, value and slope; far out the naive log(1 - tanh^2) is -inf."""
    exact = np.log(4.0) - 2 * abs(u) - 2 * np.log1p(np.exp(-2 * abs(u)))
    value, slope = jax.value_and_grad(tanh_log_jacobian)(u)
    np.testing.assert_allclose([value, slope], [exact, -2 * np.tanh(u)], rtol=1e-5, atol=1e-6)


def test_sample_and_log_prob_agree() -> None:
    policy = TanhNormal(jnp.array([[0.3, -0.5]]), jnp.array([[-0.5, -1.0]]))
    action, log_density = policy.sample_and_log_prob(seed=jax.random.key(0), sample_shape=(2000,))
    assert action.shape == (2000, 1, 2) and log_density.shape == (2000, 1) and policy.batch_shape == (1,)
    np.testing.assert_array_equal(action, policy.sample(seed=jax.random.key(0), sample_shape=(2000,)))
    np.testing.assert_allclose(policy.log_prob(action), log_density, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(jnp.arctanh(action).mean(axis=0), [[0.3, -0.5]], atol=0.05)
    np.testing.assert_allclose(policy.mode(), np.tanh([[0.3, -0.5]]), rtol=1e-6)


def test_log_std_is_clipped() -> None:
    mean, action = jnp.zeros(1), jnp.full(1, 0.5)
    for make, lowest in ((TanhNormal, -20.0), (mean_tanh_normal, -5.0)):
        for given, clipped in ((9.0, 2.0), (-50.0, lowest)):
            wild, tame = (make(mean, jnp.full(1, x)).log_prob(action) for x in (given, clipped))
            assert wild == tame


def test_shapes_must_agree_and_arithmetic_is_float32() -> None:
    for make in (TanhNormal, mean_tanh_normal):
        with pytest.raises(AssertionError):
            make(jnp.zeros((3, 2)), jnp.zeros(2))
    with pytest.raises(AssertionError):
        log_prob(jnp.zeros((3, 2)), jnp.zeros((3, 2)), jnp.zeros((3, 1)))
    mean, log_std = jnp.full(6, 0.3, jnp.bfloat16), jnp.full(6, -0.7, jnp.bfloat16)
    action, got = TanhNormal(mean, log_std).sample_and_log_prob(seed=jax.random.key(0))
    assert action.dtype == got.dtype == jnp.float32
    np.testing.assert_allclose(got, tanh_log_prob(mean, log_std, action), rtol=1e-4)


def test_mean_tanh_normal() -> None:
    """Tanh on the mean only: a plain Normal around it, finite at and beyond the boundary."""
    mean, log_std, action = given = jnp.array([[2.0, -0.3]]), jnp.array([[0.1, -1.0]]), jnp.array([[1.0, -1.2]])
    z = (np.array(action) - np.tanh(np.array(mean))) / np.exp(np.array(log_std))
    want = np.sum(-0.5 * z**2 - np.array(log_std) - 0.5 * np.log(2 * np.pi), axis=-1)

    for actual in three_ways(lambda mean, log_std, action: mean_tanh_normal(mean, log_std).log_prob(action), *given):
        np.testing.assert_allclose(actual, want, rtol=1e-5)
    policy = mean_tanh_normal(mean, log_std)
    np.testing.assert_allclose(policy.mode(), np.tanh(mean), rtol=1e-6)
    samples = policy.sample(seed=jax.random.key(0), sample_shape=(4000,))
    np.testing.assert_allclose(samples.mean(axis=0), np.tanh(mean), atol=0.05)
    assert float(jnp.max(samples)) > 1
