"""What tests of losses share: a minibatch, networks that are plain functions, and calls jitted and vmapped."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlx import optim
from rlx.halves import HalfState
from rlx.networks import Network
from rlx.optim import Learner
from rlx.types import Spec, Transition

SPEC = Spec(jax.ShapeDtypeStruct((3,), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.float32), 100)
SMALL: dict[str, Any] = {"actor_hidden_sizes": (16,), "critic_hidden_sizes": (16,)}
BATCH = 6


def normals(seed: int = 0) -> Callable[..., Any]:
    """A function `normal(*shape)` that draws float32 numbers."""
    rng = np.random.default_rng(seed)
    return lambda *shape: rng.normal(size=shape).astype(np.float32)


def transitions(normal: Callable[..., Any], *lead: int) -> Any:
    """Transitions of NumPy arrays, for use by hand too; every third is terminated, every third discounted."""
    discount: Any = np.resize(np.float32([1, 0, 0.81]), lead)
    return Transition(normal(*lead, 3), np.tanh(normal(*lead, 2)), normal(*lead), discount, normal(*lead, 3))


BATCHES = transitions(normals(), BATCH)


def targeted(hypers: Any, online: Any, target: Any) -> HalfState:
    """A half whose networks and target networks have these parameters."""
    return HalfState.create(hypers, Learner.create(online, target=True).replace(target_params=target))


def tanh_log_prob(mean: Any, log_std: Any, action: Any) -> np.ndarray:
    """Of tanh(Gaussian), `[B]`, by change of variables in float64."""
    mean, log_std, action = (np.asarray(x, np.float64) for x in (mean, log_std, action))
    z = (np.arctanh(action) - mean) / np.exp(log_std)
    return (-0.5 * z**2 - log_std - 0.5 * np.log(2 * np.pi) - np.log1p(-(action**2))).sum(-1)


def stub(apply: Any) -> Network:
    """A network that is this function of its parameters and inputs."""
    return Network(init=lambda key: None, apply=apply)


def two_ways(function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Results of a jitted call and of a vmap over all arguments, scalars too, in one compilation. (A plain call
    compiles every operation by itself; tests/test_contract.py makes one for each family of agents.)"""
    arguments = jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), arguments)

    @jax.jit
    def compiled(*arguments: Any) -> tuple[Any, Any]:
        twice = jax.tree.map(lambda x: jnp.stack([x, x]), arguments)
        return function(*arguments), jax.tree.map(lambda x: x[1], jax.vmap(function)(*twice))

    return list(compiled(*arguments))


def three_ways(function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Results of a plain call too, which compiles every operation: for functions of a few operations."""
    arrays = jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), arguments)
    return [function(*arrays), *two_ways(function, *arguments)]


def moved(new: Any, old: Any) -> bool:
    return any((a != b).any() for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(old), strict=True))


def same(result: Any, expected: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, result, expected)


def near(tree: Any, expected: Any, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    """Equal but for rounding, leaf by leaf."""
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), tree, expected)


def learn_abreast(agents: list[Any], states: list[Any], batch: Any, updates: int = 3) -> tuple[list[Any], list[Any]]:
    """States and last metrics of agents that are updated with the same keys."""
    compiled, metrics = [jax.jit(agent.update) for agent in agents], []
    for i in range(updates):
        results = [update(state, batch, jax.random.key(i)) for update, state in zip(compiled, states, strict=True)]
        states, metrics = [state for state, _ in results], [report for _, report in results]
    return states, metrics


@pytest.fixture
def plain_descent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adam hides every factor on a gradient; with plain descent a step shows the gradient itself."""
    monkeypatch.setattr(optim, "adam", optax.identity())
