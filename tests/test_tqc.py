"""TQC: target atoms, truncation and loss against NumPy through the agent's own loss, and what truncation is for."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import distributions
from rlx.agents import sac, tqc
from rlx.halves import HalfState
from rlx.networks import Network
from rlx.optim import Learner
from rlx.types import Transition, as_arrays
from tests import probes
from tests.loss_tools import normals, stub

CONTRACT = probes.Contract(config={"num_critics": 3, "num_quantiles": 7}, hypers={"alpha_init": 1e-3, "alpha_lr": 0.0})

# odd sizes, so that no axis can stand in for another
CRITICS, QUANTILES, DROP, BATCH = 3, 7, 2, 5
CONFIG = tqc.Config(num_critics=CRITICS, num_quantiles=QUANTILES, drop_per_critic=DROP)
# a critic says whatever its parameters are: [N, B, M]
STUBS = tqc.make_networks(CONFIG, probes.SPEC)._replace(critic=stub(lambda atoms, observation, action: atoms))
normal = normals()
ONLINE, TARGET = normal(CRITICS, BATCH, QUANTILES), normal(CRITICS, BATCH, QUANTILES)
REWARD, LOG_PROB = normal(BATCH), normal(BATCH)
DISCOUNT: Any = np.array([1, 0, 1, 0.9, 1], np.float32)
HYPERS = as_arrays(tqc.Hypers(gamma=0.9, reward_scale=2.0))
ALPHA = 0.3


class Fixed:
    """Stands in for the policy's distribution: log-probabilities that are known."""

    def __init__(self, mean: jax.Array, log_std: jax.Array) -> None:
        self.mean = mean

    def sample_and_log_prob(self, seed: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self.mean, jnp.asarray(LOG_PROB)


@pytest.fixture
def known_log_prob(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributions, "TanhNormal", Fixed)


def critic_step(online: Any, target: Any) -> tuple[HalfState, Any]:
    nothing = jnp.zeros((BATCH, 1))
    batch = Transition(nothing, nothing, REWARD, DISCOUNT, nothing)
    half = HalfState.create(HYPERS, Learner.create(online, target=True).replace(target_params=target))
    policy = sac.Policy(STUBS.actor.init(jax.random.key(0)), jnp.log(ALPHA))
    half, metrics = sac.update_critic(STUBS, half, policy, batch, jax.random.key(0))
    return half, metrics["critic_loss"]


def loss_by_hand(online: np.ndarray, target: np.ndarray) -> float:
    """One number at a time."""
    losses = []
    for b in range(BATCH):
        kept = sorted(target[:, b].ravel())[: CRITICS * (QUANTILES - DROP)]
        atoms = [2 * REWARD[b] + 0.9 * DISCOUNT[b] * (z - ALPHA * LOG_PROB[b]) for z in kept]
        for n in range(CRITICS):
            for m in range(QUANTILES):
                for atom in atoms:
                    delta = atom - online[n, b, m]
                    huber = delta**2 / 2 if abs(delta) <= 1 else abs(delta) - 0.5
                    losses.append(abs((m + 0.5) / QUANTILES - (delta < 0)) * huber)
    assert len(losses) == BATCH * CRITICS * QUANTILES * CRITICS * (QUANTILES - DROP)
    return float(np.mean(losses))


@pytest.mark.usefixtures("known_log_prob")
def test_critic_loss() -> None:
    expected = loss_by_hand(ONLINE, TARGET)
    mapped = jax.vmap(critic_step)(np.stack([ONLINE, TARGET]), np.stack([TARGET, ONLINE]))[1]
    for step in (critic_step, jax.jit(critic_step)):
        np.testing.assert_allclose(step(ONLINE, TARGET)[1], expected, rtol=1e-5)
    np.testing.assert_allclose(mapped, [expected, loss_by_hand(TARGET, ONLINE)], rtol=1e-5)


@pytest.mark.usefixtures("known_log_prob")
def test_all_critics_see_the_same_atoms() -> None:
    """Critics that say the same are moved the same way, however much their own targets differ."""
    alike = np.broadcast_to(ONLINE[:1], ONLINE.shape)
    half, _ = critic_step(alike, TARGET + 5 * np.arange(CRITICS, dtype=np.float32)[:, None, None])
    moments = half.learner.opt_state.mu  # the gradient, times a constant
    for n in range(1, CRITICS):
        np.testing.assert_array_equal(moments[n], moments[0])
    assert (moments != 0).any()


def test_the_actor_climbs_the_mean_of_all_atoms() -> None:
    np.testing.assert_allclose(STUBS.action_value(ONLINE), ONLINE.mean(axis=(0, 2)), rtol=1e-5)


def test_everything_but_the_critics_is_sac() -> None:
    ours, theirs = tqc.make_networks(CONFIG, probes.SPEC), sac.make_networks(CONFIG, probes.SPEC)
    differ = {name for name in sac.Networks._fields if getattr(ours, name) is not getattr(theirs, name)}
    assert differ - {"actor"} == {"critic", "bootstrap", "regress", "action_value"}
    assert issubclass(tqc.Config, sac.Config) and tqc.Hypers is sac.Hypers
    assert (tqc.Config().num_critics, tqc.Config().num_quantiles, tqc.Config().drop_per_critic) == (5, 25, 2)


ACTIONS, SAMPLES, MEMBERS = 8, 4, 8


def overestimation(drop: int, updates: int = 400) -> np.ndarray:
    """What critics think above the truth, [MEMBERS], of one endless state whose actions all pay noise of mean 0.

    Critics are tables over 8 bins of the action, and the policy always takes the bin that they think best. Every member
    learns from its own 4 rewards of each bin, over and over: some bin's happen to be good, and the critics believe it.
    """
    config = tqc.Config(num_critics=2, num_quantiles=5, drop_per_critic=drop)
    centres = (jnp.arange(ACTIONS) + 0.5) * 2 / ACTIONS - 1

    def critic(table: jax.Array, observation: jax.Array, action: jax.Array) -> jax.Array:
        return table[:, jnp.floor((action[..., 0] + 1) / 2 * ACTIONS).astype(int)]  # [N, B, M]

    def actor(action: jax.Array, observation: jax.Array) -> tuple[jax.Array, jax.Array]:
        mean = jnp.broadcast_to(jnp.arctanh(action), observation.shape)
        return mean, jnp.full_like(mean, -20.0)

    def no_init(key: jax.Array) -> None: ...

    nets = tqc.make_networks(config, probes.SPEC)
    nets = nets._replace(actor=Network(no_init, actor), critic=Network(no_init, critic))
    hypers = as_arrays(tqc.Hypers(gamma=0.9, tau=0.1, critic_lr=0.05))

    @jax.jit
    @jax.vmap
    def learn(key: jax.Array) -> jax.Array:
        table_key, reward_key = jax.random.split(key)
        table = 0.1 * jax.random.normal(table_key, (2, ACTIONS, 5))
        reward = jax.random.normal(reward_key, (ACTIONS * SAMPLES,))
        place = jnp.zeros((ACTIONS * SAMPLES, 1))
        batch = Transition(place, jnp.repeat(centres, SAMPLES)[:, None], reward, jnp.ones_like(reward), place)
        state = HalfState.create(hypers, Learner.create(table, target=True))

        def update(state: HalfState, _: None) -> tuple[HalfState, None]:
            best = centres[jnp.argmax(state.learner.params.mean((0, 2)))]
            return sac.update_critic(nets, state, sac.Policy(best, jnp.array(-jnp.inf)), batch, key)[0], None

        state, _ = jax.lax.scan(update, state, length=updates)
        return state.learner.params.mean((0, 2)).max()

    return np.asarray(learn(jax.random.split(jax.random.key(0), MEMBERS)))


def test_overestimation_falls_as_more_atoms_are_dropped() -> None:
    """In every member, and by a lot on average."""
    none, some, most = (overestimation(drop) for drop in (0, 2, 4))
    assert none.mean() > 3
    for fewer, more in ((none, some), (some, most)):
        assert (fewer > more).all()
        assert fewer.mean() > more.mean() + 1
