"""IDQL: the score network, its loss and average, choosing among its actions, and a fork that no Gaussian can take."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import networks
from rlx.agents import idql, iql
from rlx.types import State, Transition, as_arrays
from tests import probes
from tests.loss_tools import SPEC, near, normals, stub, transitions
from tests.test_networks import ACTIVATIONS, dense, residual_block, trained

CONTRACT = probes.Contract(  # a LayerNorm would make 0 of the one number that the probes observe
    config={"value_layer_norm": False, "score_width": 32, "score_blocks": 1, "time_features": 16},
    hypers={"expectile": 0.9, "ema": 0.01},
    samples=True,
)

SMALL: dict[str, Any] = {"critic_hidden_sizes": (16,), "score_width": 16, "time_features": 8}
normal = normals()
BATCHES = transitions(normal, 6)


def by_hand(params: Any, observation: np.ndarray, action: np.ndarray, time: np.ndarray) -> np.ndarray:
    """The LN-ResNet on the concatenation of action, observation and embedded time, row by row."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params["params"])
    angle = 2 * np.pi * time[:, None] * p["FourierFeatures_0"]["frequencies"]
    features = np.concatenate([np.cos(angle), np.sin(angle)], -1)
    swish = ACTIVATIONS["swish"]
    embedded = dense(swish(dense(features, p["Dense_0"])), p["Dense_1"])
    x = dense(np.concatenate([action, observation, embedded], -1), p)
    for i in range(3):
        x = residual_block(x, p[f"ResidualBlock_{i}"], swish)
    return dense(swish(x), p["Dense_2"])


def test_score_network() -> None:
    score = networks.make_score(SPEC, num_steps=5, width=16, num_blocks=3, time_features=8)
    params = trained(score)
    time = np.array([0, 1, 2, 3, 4, 4])
    expected = by_hand(params, BATCHES.observation, BATCHES.action, time)
    for apply in (score.apply, jax.jit(score.apply), jax.vmap(score.apply, in_axes=(None, 0, 0, 0))):
        found = apply(params, BATCHES.observation, BATCHES.action, time)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    many = jnp.stack([BATCHES.action, -BATCHES.action])  # one observation and one time for many actions
    found = score.apply(params, BATCHES.observation, many, jnp.int32(2))
    np.testing.assert_allclose(found[1], by_hand(params, BATCHES.observation, many[1], np.full(6, 2)), 1e-3, 1e-4)


def test_published_widths() -> None:
    params = jax.eval_shape(networks.make_score(SPEC, num_steps=5).init, jax.random.key(0))["params"]
    assert params["FourierFeatures_0"]["frequencies"].shape == (64,)  # a cosine and a sine each
    assert [params[f"Dense_{i}"]["kernel"].shape for i in range(3)] == [(128, 256), (256, 256), (256, 2)]
    assert params["kernel"].shape == (2 + 3 + 256, 256)
    blocks = [params[f"ResidualBlock_{i}"] for i in range(3)]
    shapes = [tuple(b[f"Dense_{i}"]["kernel"].shape for i in (0, 1)) for b in blocks]
    assert shapes == [((256, 1024), (1024, 256))] * 3
    assert "ResidualBlock_3" not in params


def test_dropout() -> None:
    """Only with a key; it zeroes a share of a block's inputs and scales up the rest."""
    block = networks.ResidualBlock(dropout=0.25)
    x = jnp.asarray(normal(200, 64)) + 3
    params = block.init(jax.random.key(0), x)
    seen: list[Any] = []

    def watch(next_function: Any, inputs: Any, kwargs: Any, context: Any) -> Any:
        if type(context.module).__name__ == "LayerNorm":
            seen.append(inputs[0])
        return next_function(*inputs, **kwargs)

    with nn.intercept_methods(watch):
        block.apply(params, x, rngs={"dropout": jax.random.key(1)})
        block.apply(params, x)
    dropped, kept = seen
    np.testing.assert_array_equal(kept, x)
    zero = dropped == 0
    assert zero.mean() == pytest.approx(0.25, abs=0.02)
    np.testing.assert_allclose(dropped[~zero], x[~zero] / 0.75, rtol=1e-6)


def test_average_and_decay_of_the_score_network() -> None:
    """The average moves towards the NEW network; with no gradient left, weight decay alone shrinks the parameters."""
    agent = idql.make(idql.Config(**SMALL, actor_decay_steps=4), SPEC)
    update = jax.jit(lambda half: agent.update_actor(half, None, BATCHES, jax.random.key(1))[0])
    old = jax.jit(agent.init)(jax.random.key(0), as_arrays(idql.Hypers(ema=0.25))).actor
    old = old.replace(learner=old.learner.replace(target_params=jax.tree.map(lambda x: x + 0.1, old.learner.params)))
    new = update(old)
    expected = jax.tree.map(lambda e, p: 0.75 * e + 0.25 * p, old.learner.target_params, new.learner.params)
    near(new.learner.target_params, expected)
    same = update(new.replace(step=jnp.int32(4)))
    jax.tree.map(np.testing.assert_array_equal, same.learner.params, new.learner.params)
    faster = old.hypers.replace(actor_lr=jnp.float32(0.01))
    rates = [faster.replace(weight_decay=jnp.float32(decay)) for decay in (0.0, 0.5)]
    without, decayed = (update(old.replace(hypers=each)).learner for each in rates)
    near(decayed.params, jax.tree.map(lambda p, before: p - 0.005 * before, without.params, old.learner.params))


@pytest.mark.parametrize("layer_norm", [True, False])
def test_value_network_normalises_the_raw_observation_only(layer_norm: bool) -> None:
    """As its authors build it: one LayerNorm before plain layers, and none in the critics."""
    state = idql.make(idql.Config(**SMALL, value_layer_norm=layer_norm), SPEC).init(jax.random.key(0))
    wanted = {"Dense_0", "Dense_1"} | ({"input_layer_norm"} if layer_norm else set())
    assert state.critic.value.params["params"].keys() == wanted
    assert "LayerNorm" not in str(jax.tree.structure(state.critic.learner.params))


WEIGHTS = {
    "expectile": lambda u, e: abs(e - (u < 0)),
    "quantile": lambda u, e: abs(e - (u < 0)) / np.maximum(abs(u), 1e-6),
    "exponential": lambda u, b: np.where(u == 0, b**2, b * abs(np.expm1(b * u)) / np.where(u == 0, 1, abs(u))),
    "chi_square": lambda u, d: abs(np.where(u > 0, d * (1 + u / 2), 0) - (1 - d)) / np.maximum(abs(u), 1e-6),
    "total_variation": lambda u, d: abs(np.where(u > 0, d, 0) - (1 - d)) / np.maximum(abs(u), 1e-6),
}


def chooser(name: str, actions: jax.Array, u: jax.Array) -> tuple[idql.Networks, idql.Policy]:
    """Networks whose score network ends at `actions` `[S, A]`, with these advantages: at the last step x is 0."""
    config = idql.Config(**SMALL, value_loss=name, diffusion_steps=1)
    nets, schedule = idql.make_networks(config, SPEC), idql.diffusion.vp_schedule(1)
    a = schedule.alpha_bar[0]

    def epsilon(params: Any, observation: jax.Array, x: jax.Array, time: jax.Array) -> jax.Array:
        points = actions.reshape(-1, *(1,) * (x.ndim - 2), 2)
        return (x - jnp.sqrt(a) * points) / jnp.sqrt(1 - a)

    def q(params: Any, observation: jax.Array, action: jax.Array) -> jax.Array:
        said = jnp.stack([u + 1, u + 3])
        return jnp.broadcast_to(said.reshape(2, -1, *(1,) * (action.ndim - 2)), (2, *action.shape[:-1]))

    value = stub(lambda params, observation: jnp.ones(observation.shape[:-1]))
    critic = nets.critic._replace(critic=stub(q), value=value)
    hypers = as_arrays(idql.Hypers(expectile=0.8, exponential_scale=1.5))
    sample = partial(idql.denoise, stub(epsilon), schedule, 2)
    return nets._replace(critic=critic, sample=sample), idql.Policy(None, iql.Value(None, None), hypers)


U = np.array([-2.0, -0.5, 0.0, 0.4, 1.0], np.float32)
CANDIDATES = np.stack([np.linspace(-0.8, 0.8, 5), -np.linspace(-0.8, 0.8, 5)], -1).astype(np.float32)


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_of_the_implicit_policy(name: str) -> None:
    """As often as the weights say, with negative advantages and at 0: over many observations, against NumPy."""
    u = U + 0.05 * (name not in ("expectile", "exponential"))  # the others' weights have a pole at 0
    nets, policy = chooser(name, jnp.asarray(CANDIDATES), jnp.asarray(u))
    action, info = jax.jit(partial(idql.act, nets, 5, False))(policy, jnp.zeros((20_000, 3)), jax.random.key(0))
    weight = WEIGHTS[name](u.astype(np.float64), 1.5 if name == "exponential" else 0.8)
    nearest = abs(np.asarray(action)[:, None] - CANDIDATES).sum(-1).argmin(-1)
    np.testing.assert_allclose(action, CANDIDATES[nearest], atol=1e-4)
    np.testing.assert_allclose(np.bincount(nearest, minlength=5) / 20_000, weight / weight.sum(), atol=0.015)
    assert info == {}


def test_greedy_takes_the_best() -> None:
    nets, policy = chooser("expectile", jnp.asarray(CANDIDATES), jnp.asarray(U[[3, 4, 0, 1, 2]]))
    for shape in ((3,), (2, 7, 3)):
        action, _ = jax.jit(partial(idql.act, nets, 5, True))(policy, jnp.zeros(shape), jax.random.key(0))
        np.testing.assert_allclose(action, np.broadcast_to(CANDIDATES[1], (*shape[:-1], 2)), atol=1e-5)


def fork(rng: np.random.Generator, n: int, discrete: bool = False) -> tuple[np.ndarray, ...]:
    """Both sides, near -0.7 and 0.7, are in the data and good; the middle is not there, and bad."""
    action = rng.choice([-0.7, 0.7], n) + rng.normal(0, 0.05, n)
    return np.zeros(n), action, 1 - 2 * abs(abs(action) - 0.7), np.zeros(n), np.zeros(n)


def test_both_sides_of_the_fork() -> None:
    """Greedy actions are all near a side, where a Gaussian's would be in the middle. Five steps leave even a perfect
    denoiser's samples between the sides in a quarter of the cases, which is why acting chooses among many."""
    config = idql.Config(
        critic_hidden_sizes=(32,), score_width=32, score_blocks=1, time_features=16, dropout=0.0, diffusion_steps=5
    )
    agent = idql.make(config, probes.SPEC)
    data = probes.batches(probes.Probe(fork, (probes.Query(0, 0, 0),) * 2), 800, 64)

    def step(state: State, given: Any) -> tuple[State, None]:
        return agent.update(state, *given)[0], None

    @jax.jit
    def learn(data: Transition) -> tuple[jax.Array, ...]:
        keys, hypers = jax.random.split(jax.random.key(1), 800), idql.Hypers(actor_lr=3e-3, critic_lr=3e-3, ema=0.01)
        state, _ = jax.lax.scan(step, agent.init(jax.random.key(0), hypers), (data, keys))
        policy, observation = agent.acting_params(state), jnp.zeros((100, 1))
        return tuple(act(policy, observation, jax.random.key(2))[0] for act in (agent.act, agent.act_greedy))

    explored, greedy = map(np.asarray, learn(data))
    for action, share in ((greedy, 0.95), (explored, 0.6)):
        assert (abs(abs(action) - 0.7) < 0.2).mean() >= share
    assert 0.2 < (explored > 0).mean() < 0.8, "both sides are taken"
