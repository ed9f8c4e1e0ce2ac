"""Mirrored minibatches against numbers by hand, what a table may be, and a run that learns from them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx
from rlx.errors import RlxError
from rlx.train import learning, mirror
from rlx.train.config import TrainConfig
from rlx.types import Read, Transition
from tests.walk import Walk

CONFIG = TrainConfig(mirror_observation=(2, 1, -3), mirror_action=(-1,))
READS = {"next_action": Read("action", "next"), "cost": Read("cost")}


@pytest.mark.parametrize("how", [lambda f: f, jax.jit, jax.vmap], ids=["plain", "jit", "vmap"])
def test_rows_and_their_mirror_images(how: Any) -> None:
    observation, ones = jnp.arange(6.0).reshape(1, 2, 3), jnp.ones((1, 2))
    extras = {"next_action": jnp.array([[[0.1], [0.2]]]), "cost": 3 * ones}
    batch = Transition(observation, jnp.array([[[0.5], [-1.0]]]), ones, ones, observation + 1, extras)
    if how is jax.vmap:
        batch = jax.tree.map(lambda x: x[None], batch)
    double = how(lambda batch: mirror.with_mirrored(CONFIG, batch, READS))(batch)
    rows = jax.tree.map(lambda x: np.asarray(x).reshape(4, -1), double)
    np.testing.assert_array_equal(rows.observation, [[0, 1, 2], [3, 4, 5], [1, 0, -2], [4, 3, -5]])
    np.testing.assert_array_equal(rows.next_observation, [[1, 2, 3], [4, 5, 6], [2, 1, -3], [5, 4, -6]])
    np.testing.assert_array_equal(rows.action[:, 0], [0.5, -1, -0.5, 1])
    np.testing.assert_allclose(rows.extras["next_action"][:, 0], [0.1, 0.2, -0.1, -0.2])
    assert (rows.reward == 1).all() and (rows.extras["cost"] == 3).all()


def test_a_run_learns_from_twice_the_rows_and_stops_at_wrong_tables(monkeypatch: Any) -> None:
    small: dict[str, Any] = {"actor_hidden_sizes": (8,), "critic_hidden_sizes": (8,), "num_envs": 4, "batch_size": 8}
    small |= {"warmup_env_steps": 16, "total_env_steps": 32, "eval_episodes": 2, "ratio": "1:1"}
    rows, sample = set(), learning.sample

    def noted(*arguments: Any) -> Transition:
        batches = sample(*arguments)
        rows.add(batches.reward.shape[-1])
        return batches

    monkeypatch.setattr(learning, "sample", noted)
    result = rlx.fit("sac", Walk(), mirror_observation=(1, -2), mirror_action=(-1,), **small)
    assert rows == {2 * small["batch_size"]} and (result.state.critic.step > 0).all()
    for observation, action, message in [
        ((1, 2, 3), (-1,), "mirror.observation: must name each of the 2"),
        ((1, 2), (), "mirror.action: must name each of the 1"),
        ((-2, 1), (1,), "mirrored twice"),
    ]:
        with pytest.raises(RlxError, match=message):
            rlx.fit("sac", Walk(), mirror_observation=observation, mirror_action=action, **small)
