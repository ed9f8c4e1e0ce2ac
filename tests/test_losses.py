"""Every target, loss and weight against hand numbers or slow NumPy, plain, jitted and vmapped."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import losses
from rlx.errors import RlxError
from tests.loss_tools import near, three_ways


def array(*values: Any) -> jax.Array:
    return jnp.array(values, jnp.float32)


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


E, LN2 = np.e, np.log(2)

HAND_NUMBERS: dict[str, tuple[tuple[Any, ...], Any]] = {  # by the function's name: its arguments and result
    # 10 * 1 + 0.9 * 1 * 4; a terminated step keeps its reward only; a folded window bootstraps with gamma^(m-1)
    "td_target": ((array(1, 2, 3), array(1, 0, 0.81), array(4, 5, 6), 0.9, 10.0), [13.6, 20, 34.374]),
    "td_target of atoms": ((array(1, 2), array(1, 0), array([1, 2, 3], [4, 5, 6]), 0.5), [[1.5, 2, 2.5], [2, 2, 2]]),
    # entropy is subtracted as alpha log pi: an unlikely action (negative log pi) is worth more
    "soft_value": ((array(1, 1), array(-2, 3), 0.5), [2, -0.5]),
    "soft_value of atoms": ((array([1, 2], [3, 4]), array(-2, 3), 0.5), [[2, 3], [1.5, 2.5]]),
    "ensemble_min": ((array([1, 5], [2, 4], [3, 6]),), [1, 4]),
    "smoothed_action": ((array([0, 0.5, -0.95]), array([0.1, -0.7, -0.2]), 0.2), [[0.1, 0.3, -1]]),
    # critics [1, 2] and [3, 5] against [2, 2]: (1 + 0) / 2 + (1 + 9) / 2
    "ensemble_td_loss": ((array([1, 2], [3, 5]), array(2, 2)), 5.5),
    "soft_actor_loss": ((array(1, 2), array(-1, -3), 0.5), -2.5),
    "temperature_loss": ((array(0.5)[0], array(-1, -2), -3.0), 2.25),
    "alpha_loss": ((array(LN2)[0], array(-1, -2), -3.0), 9.0),  # the same at an alpha of 2 in place of 0.5
    "advantage_weights": ((array(0, LN2, -LN2, 50, 1e9), 2.0), [1, 4, 0.25, 100, 100]),
    "td3_bc_lambda": ((array(-1, 3), 2.5), 1.25),
    "td3_bc_lambda of zeros": ((array(0, 0), 2.5), 2.5e6),
    "expectile_loss": ((array(2, -2, 0), 0.7), [2.8, 1.2, 0]),
    "expectile_weight": ((array(2, -2), 0.7), [0.7, 0.3]),
    "quantile_loss": ((array(2, -2, 0), 0.7), [1.4, 0.6, 0]),
    "quantile_weight": ((array(2, -2, 0), 0.7), [0.35, 0.15, 0.7e6]),
    "exponential_loss": ((array(0, 0.5, -0.5), 2.0), [1, E - 1, 1 / E + 1]),
    "exponential_loss beyond": ((array(3), 2.0, 1.0), [6 * E - 6]),  # e (1 + 6 - 1) - 6
    "exponential_weight": ((array(0, 1, -1), 2.0), [4, 2 * (E**2 - 1), 2 * (1 - E**-2)]),
    "exponential_weight beyond": ((array(3), 2.0, 1.0), [2 / 3 * (E - 1)]),
    # one critic, M = 2, tau_hat = 1/4, 3/4; deltas 1 and -2: huber 0.5 and 1.5; (.25 * .5 + .75 * 1.5) and
    # deltas 3 and 0: huber 2.5 and 0; (.75 * 2.5); over M K = 4
    "quantile_huber_loss": ((array([[0, -2]]), array([1, -2]), 1.0), 3.125 / 4),
    "categorical_mean": ((array([0.5, 0.5, 0], [0, 0.25, 0.75]), array(-1, 0, 1)), [-0.5, 0.75]),
    # the second sample's lower mean is the second critic's; an elementwise minimum would sum to 0.3
    "lower_mean": ((array([[0.9, 0.1], [0.2, 0.8]], [[0.1, 0.9], [0.9, 0.1]]), array(0, 1)), [[0.9, 0.1], [0.9, 0.1]]),
    # -1 * log(1/2), twice, and certain logits cost nothing: critics cost (ln 2 + ln 2) / 2 and (0 + 0) / 2
    "edge_mass": ((array([0.2, 0.5, 0.3], [0, 1, 0]),), 0.25),
    # with a target for each critic: ln 2 and 0 for the first, 50 and 0 for the second
    "cross_entropy_loss each": (
        (array([[0, 0], [0, 50]], [[50, 0], [0, 50]]), array([[1, 0], [0, 1]], [[0, 1], [0, 1]])),
        LN2 / 2 + 25,
    ),
    "cross_entropy_loss": ((array([[0, 0], [3, 3]], [[50, 0], [0, 50]]), array([1, 0], [0, 1])), LN2),
    "polyak": (({"w": array(0, 10)}, {"w": array(10, 20)}, 0.1), {"w": np.array([1.0, 11.0])}),
}


@pytest.mark.parametrize("name", HAND_NUMBERS)
def test_hand_numbers(name: str) -> None:
    arguments, want = HAND_NUMBERS[name]
    for got in three_ways(getattr(losses, name.split()[0]), *arguments):
        near(got, want if isinstance(want, dict) else np.asarray(want), rtol=2e-6, atol=1e-7)


B, COLUMN, N = array(1, 2), array([1], [2]), array([1, 2], [3, 4])


WRONG_SHAPES: dict[str, list[tuple[Any, ...]]] = {
    "td_target": [(COLUMN, B, B, 0.9), (B, B, array(1, 2, 3), 0.9), (B, B, B, B)],
    "soft_value": [(B, COLUMN, 0.1)],
    "ensemble_min": [(B,)],
    "smoothed_action": [(N, B, 0.1)],
    "ensemble_td_loss": [(N, COLUMN), (COLUMN, B), (B, B)],
    "soft_actor_loss": [(B, COLUMN, 0.1)],
    "temperature_loss": [(B, B, -1.0)],
    "advantage_weights": [(COLUMN, 1.0)],
    "td3_bc_lambda": [(N,)],
    "expectile_loss": [(B, B)],
    "exponential_loss": [(B, B)],
    "truncate_atoms": [(N, 0)],
    "quantile_huber_loss": [(N, N), (N[None], array([1, 2]))],
    "lower_mean": [(N, B)],
    "categorical_mean": [(N, array(1, 2, 3))],
    "categorical_projection": [(N, B, B)],
    "cross_entropy_loss": [(N, N)],
    "polyak": [({"w": B}, {"w": COLUMN}, 0.1)],
    "n_step": [(N, N > 1, N > 1, B), (N, N, N, 0.9), (N, N[:1] > 1, N > 1, 0.9)],
}


@pytest.mark.parametrize("name", WRONG_SHAPES)
def test_wrong_shapes_are_refused(name: str) -> None:
    for arguments in WRONG_SHAPES[name]:
        with pytest.raises(AssertionError):
            getattr(losses, name)(*arguments)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (lambda x: losses.td_target(x, x, x, 0.9), B),
        (lambda x: losses.temperature_loss(jnp.ones(()), x, -1.0), B),
        (lambda x: losses.advantage_weights(x, 3.0), B),
        (lambda x: losses.td3_bc_lambda(x), B),
        (lambda x: losses.quantile_huber_loss(N[None], x), N),
        (lambda x: losses.cross_entropy_loss(N[None], x), N),
    ],
)
def test_targets_and_weights_have_no_gradient(function: Callable[[jax.Array], jax.Array], arguments: jax.Array) -> None:
    gradient = jax.grad(lambda x: jnp.sum(function(x)))(arguments)
    np.testing.assert_array_equal(gradient, 0)


def slow_n_step(reward: Any, terminated: Any, truncated: Any, gamma: float) -> tuple[float, float, int]:
    last = 0
    while last + 1 < len(reward) and not (terminated[last] or truncated[last]):
        last += 1
    total = sum(gamma**k * reward[k] for k in range(last + 1))
    return total, gamma**last * (0.0 if terminated[last] else 1.0), last


@pytest.mark.parametrize("length", [1, 3, 7])
def test_n_step_against_a_loop(length: int) -> None:
    rng = np.random.default_rng(length)
    reward = rng.normal(size=(length, 400)).astype(np.float32)
    terminated = rng.random((length, 400)) < 0.2
    truncated = (rng.random((length, 400)) < 0.2) & ~terminated
    want = [slow_n_step(reward[:, b], terminated[:, b], truncated[:, b], 0.9) for b in range(400)]
    for got in three_ways(losses.n_step, reward, terminated, truncated, 0.9):
        for have, values in zip(got, zip(*want, strict=True), strict=True):
            np.testing.assert_allclose(have, values, rtol=1e-5, atol=1e-6)
        assert got[2].dtype == jnp.int32
    ends = {(d == 0, k) for _, d, k in want}
    assert len(ends) == 2 * length, "the cases must cover every length, ended and not"


def test_n_step_by_hand() -> None:
    """Columns: nothing ends; terminated at once; truncated at the second row; NaN after an end counts nothing."""
    reward = array([1, 1, 1, 1], [2, np.nan, 2, 2], [4, np.nan, np.nan, np.nan])
    terminated = jnp.array([[0, 1, 0, 0], [0, 0, 0, 1], [0, 1, 0, 1]], bool)
    truncated = jnp.array([[0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0]], bool)
    got = losses.n_step(reward, terminated, truncated, 0.5)
    np.testing.assert_allclose(got[0], [3, 1, 2, 2])
    np.testing.assert_allclose(got[1], [0.25, 0, 0.5, 0])
    np.testing.assert_array_equal(got[2], [2, 0, 1, 1])
    none = jnp.zeros((3, 1), bool)
    for gamma in (0.0, 1.0):  # numbers like any other
        folded, slope = jax.value_and_grad(lambda g: losses.n_step(array([1], [2], [4]), none, none, g)[0][0])(gamma)
        assert (folded, slope) == (1 + 2 * gamma + 4 * gamma**2, 2 + 8 * gamma)


@pytest.mark.parametrize(
    ("name", "parameter", "factor"),
    [
        ("expectile", 0.7, 2),
        ("quantile", 0.7, 1),
        ("exponential", 1.5, 1),
        ("chi_square", 0.7, 1),
        ("total_variation", 0.7, 1),
    ],
)
def test_weight_is_slope_over_error(name: str, parameter: float, factor: int) -> None:
    """w = |f'(u)| / |u|, also where the exponent (here up to 9) is clipped; the expectile's factor 2 is dropped."""
    loss, weight = losses.VALUE_LOSSES[name]
    u = array(-6, -1, -1e-3, 1e-3, 1, 3, 6)
    slope = jax.vmap(jax.grad(lambda u: loss(u, parameter)))(u)
    np.testing.assert_allclose(factor * weight(u, parameter) * jnp.abs(u), jnp.abs(slope), rtol=2e-4)
    np.testing.assert_array_equal(jnp.sign(slope), jnp.sign(u))


@pytest.mark.parametrize(
    ("name", "parameter"), [("expectile", 0.9), ("quantile", 0.7), ("exponential", 1.5), ("chi_square", 0.7)]
)
def test_value_is_the_mean_of_q_under_its_implicit_policy(name: str, parameter: float) -> None:
    """At the minimum over V, the weighted mean of Q is V itself (arXiv 2304.10573, theorem 4.1)."""
    loss, weight = losses.VALUE_LOSSES[name]
    q = array(-1, 0, 0.5, 2, 3.1)
    low, high = jnp.min(q), jnp.max(q)
    slope = jax.jit(jax.grad(lambda v: jnp.mean(loss(q - v, parameter))))
    for _ in range(40):
        middle = (low + high) / 2
        low, high = jnp.where(slope(middle) < 0, middle, low), jnp.where(slope(middle) < 0, high, middle)
    w = weight(q - low, parameter)
    if name == "quantile":  # its minimum is a data point, where the weight has its pole
        assert jnp.abs(low - 2) < 1e-5 and jnp.argmax(w) == 3
    else:
        np.testing.assert_allclose(jnp.sum(w * q) / jnp.sum(w), low, rtol=1e-5)


def test_exponential_loss_stays_finite() -> None:
    value, slope = jax.value_and_grad(lambda u: losses.exponential_loss(u, 3.0))(jnp.float32(1e6))
    assert jnp.isfinite(value) and 0 < slope < 1e3
    np.testing.assert_allclose(losses.exponential_weight(array(1e-20, -1e-20), 3.0), 9, rtol=1e-6)


@pytest.mark.parametrize(("num_critics", "num_quantiles", "drop"), [(5, 25, 2), (3, 5, 4), (1, 7, 3), (2, 3, 0)])
def test_truncate_atoms(num_critics: int, num_quantiles: int, drop: int) -> None:
    """The largest of all critics' atoms together go, not the largest of each."""
    atoms = draw(0, num_critics, 4, num_quantiles)
    atoms[0] += 3  # one optimist
    want = [sorted(atoms[:, b].ravel())[: num_critics * (num_quantiles - drop)] for b in range(4)]
    for got in three_ways(lambda a: losses.truncate_atoms(a, drop), atoms):
        np.testing.assert_array_equal(got, want)
    for wrong in (-1, num_quantiles):
        with pytest.raises(RlxError, match=f"choose 0 to {num_quantiles - 1}"):
            losses.truncate_atoms(jnp.asarray(atoms), wrong)


def direct_quantile_huber(quantiles: Any, target: Any, kappa: Any) -> Any:
    """The formula as it stands in the paper, over all pairs."""
    tau_hat = (2 * np.arange(quantiles.shape[-1]) + 1) / (2 * quantiles.shape[-1])
    delta = target[None, :, None, :] - quantiles[..., None]
    huber = jnp.where(jnp.abs(delta) <= kappa, delta**2 / 2, kappa * (jnp.abs(delta) - kappa / 2))
    return jnp.mean(jnp.where(delta < 0, 1 - tau_hat[:, None], tau_hat[:, None]) * huber)


@pytest.mark.parametrize(
    ("num_critics", "num_quantiles", "num_atoms", "kappa"), [(1, 1, 1, 1.0), (2, 5, 9, 1.0), (3, 4, 16, 0.3)]
)
def test_quantile_huber_against_the_formula(num_critics: int, num_quantiles: int, num_atoms: int, kappa: float) -> None:
    quantiles, target = draw(0, num_critics, 6, num_quantiles), draw(1, 6, num_atoms)
    want, slope = jax.jit(jax.value_and_grad(direct_quantile_huber))(quantiles, target, kappa)
    for got, gradient in three_ways(jax.value_and_grad(losses.quantile_huber_loss), quantiles, target, kappa):
        np.testing.assert_allclose(got, want, rtol=1e-5)
        np.testing.assert_allclose(gradient, slope, rtol=1e-4, atol=1e-7)
    with jax.enable_x64(True):  # rewards in float64 make such targets of critics in float32
        got, gradient = jax.value_and_grad(losses.quantile_huber_loss)(quantiles, target.astype(jnp.float64), kappa)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    assert gradient.dtype == quantiles.dtype


def slow_projection(probs: np.ndarray, atoms: np.ndarray, support: np.ndarray) -> np.ndarray:
    projected = np.zeros_like(probs)
    for b, j in np.ndindex(*probs.shape):
        y = min(max(atoms[b, j], support[0]), support[-1])
        upper = int(np.searchsorted(support, y))  # support[upper - 1] < y <= support[upper]
        if y == support[upper]:
            projected[b, upper] += probs[b, j]
        else:
            share = (y - support[upper - 1]) / (support[upper] - support[upper - 1])
            projected[b, upper] += share * probs[b, j]
            projected[b, upper - 1] += (1 - share) * probs[b, j]
    return projected


@pytest.mark.parametrize("size", [2, 51])
def test_categorical_projection_against_a_loop(size: int) -> None:
    support = np.linspace(-10, 10, size)
    probs = np.abs(draw(0, 5, size)) + 0.01
    probs /= probs.sum(axis=1, keepdims=True)
    atoms = 6 * draw(1, 5, size)  # between the support's points and outside
    atoms[0] = support  # on them
    atoms[1] = 3.0  # a terminal reward: all atoms in one place
    atoms[2] = 25.0  # above, and below
    atoms[3] = -25.0
    want = slow_projection(probs, atoms, support)
    for got in three_ways(losses.categorical_projection, probs, atoms, support):
        np.testing.assert_allclose(got, want, atol=2e-6)
        np.testing.assert_allclose(jnp.sum(got, axis=1), 1, rtol=1e-5)
        np.testing.assert_allclose(got[0], probs[0], atol=2e-6)  # on the atoms nothing moves, and nothing is lost
    np.testing.assert_allclose(want[:4] @ support, [probs[0] @ support, 3, 10, -10], atol=1e-5)
