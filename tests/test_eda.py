"""EDA: a density whose slope is the noise, alignment by hand, pretraining, labels, and what another run gives."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import build, config, diffusion, losses, networks
from rlx.agents import eda, iql
from rlx.optim import Learner
from rlx.types import State, as_arrays
from tests import probes
from tests.loss_tools import BATCH, BATCHES, SPEC, normals, same, stub, three_ways, two_ways

SIZES: dict[str, Any] = {"score_width": 8, "score_blocks": 1, "time_features": 4, "diffusion_steps": 4}
ACTIONS: dict[str, Any] = {"solver_steps": 2, "alignment_rows": 4, "alignment_actions": 3}
CONTRACT = probes.Contract(
    config={
        "score_width": 16,
        "score_blocks": 1,
        "time_features": 4,
        "diffusion_steps": 10,
        "solver_steps": 5,
        "pretrain_steps": 350,
        "num_samples": 64,
    },
    hypers={"q_weight": 30.0, "beta": 1.0},
    samples=True,
    tolerance=2,  # a greedy action is the best of some samples
)

KEY = jax.random.key(0)
SCHEDULE = diffusion.vp_schedule(4)
CONFIG = eda.Config(critic_hidden_sizes=(16,), **SIZES, **ACTIONS, pretrain_steps=2)
DENSITY = networks.make_log_density(SPEC, num_steps=4, width=8, num_blocks=1, time_features=4)


def test_the_slope_of_the_density_is_the_noise() -> None:
    """By finite differences of a network with some weights, at several times."""
    params = jax.tree.map(
        lambda x: x + 0.3 * jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), DENSITY.init(KEY)
    )
    observation, action = BATCHES.observation, np.asarray(BATCHES.action)
    time = np.arange(BATCH) % 4
    density = jax.jit(lambda x: DENSITY.apply(params, observation, x, time))
    noise = diffusion.noise_of_density(SCHEDULE, lambda x, t: DENSITY.apply(params, observation, x, t))(action, time)
    assert density(action).shape == (BATCH,) and noise.shape == action.shape
    for i in range(2):
        step = np.zeros(2, np.float32)
        step[i] = 1e-2
        slope = (density(action + step) - density(action - step)) / 2e-2
        np.testing.assert_allclose(noise[:, i], -np.sqrt(1 - SCHEDULE.alpha_bar[time]) * slope, rtol=2e-2, atol=2e-4)
    assert np.abs(noise).max() > 0.01


def test_noise_of_a_point() -> None:
    """All data at one point has a known density, and a chain of its noise leads there; times may be scalars."""
    point = jnp.array([0.4, -0.6])

    def log_density(x: jax.Array, time: jax.Array) -> jax.Array:
        bar = jnp.asarray(SCHEDULE.alpha_bar)[time]
        return -jnp.sum(jnp.square(x - jnp.sqrt(bar)[..., None] * point), axis=-1) / (2 * (1 - bar))

    epsilon = diffusion.noise_of_density(SCHEDULE, log_density)
    x, z, time = np.broadcast_to(point, (3, 2)), normals()(3, 2), np.array([0, 1, 3])
    np.testing.assert_allclose(epsilon(diffusion.add_noise(SCHEDULE, x, time, z), time), z, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(diffusion.ddim(SCHEDULE, epsilon, jnp.asarray(z)), x, atol=1e-5)


def test_alignment_loss() -> None:
    """Cross-entropy by hand, and its slope: the softmax of the ratios less that of the values."""
    values, ratios = normals(1)(3, 5), normals(2)(3, 5)
    shares = lambda x: np.exp(x) / np.exp(x).sum(axis=0)  # noqa: E731
    for loss in three_ways(losses.alignment_loss, values, ratios):
        np.testing.assert_allclose(loss, -(shares(values) * np.log(shares(ratios))).sum(axis=0), rtol=1e-5)
    total = lambda values, ratios: losses.alignment_loss(values, ratios).sum()  # noqa: E731
    of_values, of_ratios = jax.grad(total, argnums=(0, 1))(values, ratios)
    np.testing.assert_allclose(of_ratios, shares(ratios) - shares(values), atol=1e-6)
    np.testing.assert_array_equal(of_values, 0)


def make_stubs(settings: eda.Config = CONFIG) -> eda.Networks:
    """Densities are p x . s, and the critics' values w . a and three times that, of which the least counts."""
    critic = iql.make_critic_networks(settings, SPEC)._replace(
        critic=stub(lambda w, o, a: jnp.stack([w * a.sum(-1), 3 * w * a.sum(-1)]))
    )
    density = stub(lambda p, o, x, t: p * (x * o[..., :2]).sum(-1) * (1 + t.astype(x.dtype)))
    return eda.Networks(critic, density, diffusion.vp_schedule(4), settings, 2, axes=())


def updated(nets: eda.Networks, p: Any, v: Any, w: Any, step: int = 5, **hypers: Any) -> Any:
    start = as_arrays(eda.Hypers(**hypers))
    half = eda.ActorState.create(start, Learner.create(p), behaviour=Learner.create(v))
    half = half.replace(step=jnp.int32(step))
    return eda.update_actor(nets, half, iql.Value(w, None), jax.tree.map(jnp.asarray, BATCHES), KEY)


@pytest.mark.usefixtures("plain_descent")
def test_alignment_of_a_minibatch() -> None:
    """The loss of labelled rows, at most four of six, with the actions that the behaviour draws; NumPy's own slope."""
    nets = make_stubs()
    p, v, w = np.float32(0.3), np.float32(0.2), np.float32(0.7)
    known = np.asarray(eda.labelled(BATCHES, 0.3))
    assert 0 < known.sum() < 4
    rows = np.argsort(~known, kind="stable")[:4]
    weight, observation = known[rows], BATCHES.observation[rows]
    sample_key, time_key, noise_key = jax.random.split(jax.random.split(KEY)[1], 3)
    actions = np.asarray(eda.sample(nets, v, jnp.asarray(observation), 3, sample_key))
    time = np.asarray(jax.random.randint(time_key, (4,), 0, 4))
    z, bar = np.asarray(jax.random.normal(noise_key, (3, 4, 2))), SCHEDULE.alpha_bar[time][:, None]
    direction = ((np.sqrt(bar) * actions + np.sqrt(1 - bar) * z) * observation[:, :2]).sum(-1) * (1 + time)
    total = w * actions.sum(-1)
    q = np.minimum(total, 3 * total)
    shares = lambda x: np.exp(x) / np.exp(x).sum(axis=0)  # noqa: E731
    wanted, has = shares(2.0 * q), shares(0.5 * (p - v) * direction)
    loss = (-(wanted * np.log(has)).sum(axis=0) * weight).sum() / weight.sum()
    slope = (0.5 * ((has - wanted) * direction).sum(axis=0) * weight).sum() / weight.sum()
    hypers = {"q_weight": 2.0, "beta": 0.5, "actor_lr": 0.1, "label_fraction": 0.3}

    def update(p: Any, v: Any, w: Any) -> Any:
        half, metrics = updated(nets, p, v, w, **hypers)
        return metrics["actor_loss"], half.learner.params, half.behaviour.params

    for actual, policy, behaviour in two_ways(update, p, v, w):
        np.testing.assert_allclose(actual, loss, rtol=1e-4)
        np.testing.assert_allclose(policy, p - 0.1 * slope, rtol=1e-4)
        np.testing.assert_array_equal(behaviour, v)


@pytest.mark.usefixtures("plain_descent")
def test_pretraining() -> None:
    """At first the behaviour descends its loss on the data and the policy is the same; then the policy moves alone."""
    nets = make_stubs()
    p, v, w = np.float32(0.3), np.float32(0.2), np.float32(0.7)
    score_key, _ = jax.random.split(KEY)

    def denoising(v: Any) -> jax.Array:
        epsilon = diffusion.noise_of_density(
            SCHEDULE, lambda x, t: v * (x * BATCHES.observation[:, :2]).sum(-1) * (1 + t.astype(x.dtype))
        )
        return diffusion.epsilon_loss(SCHEDULE, epsilon, jnp.asarray(BATCHES.action), score_key)[0]

    half, metrics = updated(nets, p, v, w, step=1, score_lr=0.1)
    np.testing.assert_allclose(half.behaviour.params, v - 0.1 * jax.grad(denoising)(v), rtol=1e-4)
    np.testing.assert_array_equal(half.learner.params, half.behaviour.params)
    np.testing.assert_allclose(metrics["score_loss"], denoising(v), rtol=1e-5)
    half, _ = updated(nets, p, v, w, step=2, score_lr=0.1)
    assert half.behaviour.params == v and half.learner.params not in (p, v)


@pytest.mark.usefixtures("plain_descent")
@pytest.mark.parametrize("nothing", [{"q_weight": 0.0}, {"label_fraction": 0.0}])
def test_without_preferences_the_behaviour_stays(nothing: dict[str, float]) -> None:
    """Values that do not count, or no labels: a policy that equals the behaviour does not move."""
    half, _ = updated(make_stubs(), np.float32(0.2), np.float32(0.2), np.float32(0.7), **nothing)
    np.testing.assert_allclose(half.learner.params, 0.2, atol=1e-7)


def test_labels() -> None:
    """A share of many rows, the same however they are batched; of a larger share they are some."""
    normal = normals(3)
    many = BATCHES._replace(observation=normal(20_000, 3), action=normal(20_000, 2))
    few, more = (np.asarray(eda.labelled(many, share)) for share in (0.01, 0.3))
    assert few.mean() == pytest.approx(0.01, abs=0.003) and more.mean() == pytest.approx(0.3, abs=0.01)
    assert more[few].all()
    assert np.asarray(eda.labelled(many, 1.0)).all() and not np.asarray(eda.labelled(many, 0.0)).any()
    order = np.random.default_rng(0).permutation(20_000)
    shuffled = many._replace(observation=many.observation[order], action=many.action[order])
    np.testing.assert_array_equal(jax.jit(eda.labelled)(shuffled, 0.01), few[order])


def test_greedy_action_is_the_best_sample() -> None:
    nets = make_stubs(eda.Config(critic_hidden_sizes=(16,), **SIZES, **ACTIONS, num_samples=5))
    policy, observation = (
        eda.Policy(jnp.float32(0.4), iql.Value(jnp.float32(1.0), None)),
        jnp.asarray(BATCHES.observation),
    )
    chosen, _ = eda.act(nets, 5, policy, observation, KEY)
    candidates = eda.sample(nets, policy.params, observation, 5, KEY)
    assert candidates.shape == (5, BATCH, 2) and (abs(candidates) <= 1).all()
    np.testing.assert_array_equal(chosen.sum(-1), candidates.sum(-1).max(axis=0))
    np.testing.assert_array_equal(eda.act(nets, 1, policy, observation, KEY)[0].shape, (BATCH, 2))


def test_another_run_gives_behaviour_and_critics() -> None:
    """The policy begins as the behaviour; the hyper-parameters stay its own."""
    agent = eda.make(CONFIG, SPEC)
    other = agent.init(jax.random.key(1))
    state: State = agent.init(KEY)
    same(state.actor.learner.params, state.actor.behaviour.params)
    for name in ("behaviour", "critic"):
        state = agent.adopts[name](state, other)
    same(state.actor.behaviour, other.actor.behaviour)
    same(state.actor.learner.params, other.actor.behaviour.params)
    same((state.critic.learner, state.critic.value), (other.critic.learner, other.critic.value))


def test_half_of_a_run_pretrains() -> None:
    """Where the setting is 0."""
    resolved = config.resolve("eda", "gymnax:Pendulum-v1")
    plan = dataclasses.replace(resolved.train, dataset="some", offline_steps=100)
    assert build.planned(dataclasses.replace(resolved, train=plan))["pretrain_steps"] == 50
