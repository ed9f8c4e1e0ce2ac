"""TQC: target atoms, truncation and loss against NumPy through the agent's own loss."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import distributions
from rlx.agents import sac, tqc
from rlx.types import Transition, as_arrays
from tests import probes
from tests.loss_tools import normals, stub, targeted, two_ways

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


def critic_loss(online: Any, target: Any) -> Any:
    nothing = jnp.zeros((BATCH, 1))
    batch = Transition(nothing, nothing, REWARD, DISCOUNT, nothing)
    half = targeted(HYPERS, online, target)
    policy = sac.Policy(STUBS.actor.init(jax.random.key(0)), jnp.log(ALPHA))
    return sac.update_critic(STUBS, half, policy, batch, jax.random.key(0))[1]["critic_loss"]


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


def test_critic_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributions, "TanhNormal", Fixed)
    for result in two_ways(critic_loss, ONLINE, TARGET):
        np.testing.assert_allclose(result, loss_by_hand(ONLINE, TARGET), rtol=1e-5)


def test_the_actor_climbs_the_mean_of_all_atoms() -> None:
    np.testing.assert_allclose(STUBS.action_value(ONLINE), ONLINE.mean(axis=(0, 2)), rtol=1e-5)


def test_everything_but_the_critics_is_sac() -> None:
    ours, theirs = tqc.make_networks(CONFIG, probes.SPEC), sac.make_networks(CONFIG, probes.SPEC)
    differ = {name for name in sac.Networks._fields if getattr(ours, name) is not getattr(theirs, name)}
    assert differ - {"actor"} == {"critic", "bootstrap", "regress", "action_value"}
    assert issubclass(tqc.Config, sac.Config) and tqc.Hypers is sac.Hypers
    assert (tqc.Config().num_critics, tqc.Config().num_quantiles, tqc.Config().drop_per_critic) == (5, 25, 2)
