"""How policies act while they collect: with the run's noise and their acting state, greedily, noisily, at random."""

import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from rlx import envs
from rlx.runs import policies
from rlx.runs.behaviours import EXPLORING, Behaviour, Exploration
from rlx.runs.collectors import RunCollector
from rlx.train import acting
from rlx.types import Key
from tests import damage
from tests.collecting import LAST, trained

pytestmark = pytest.mark.usefixtures("reuse_programs")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of SAC."""
    return trained(tmp_path_factory.mktemp("runs"))


def exploring(folder: Path, agent: dict[str, Any], **settings: Any) -> RunCollector:
    """What collects from a copy of a run with changed settings, whose agent has other functions."""
    damage.edit_json(folder / "config.json", settings=settings)
    collector = RunCollector(folder, 800, 0, EXPLORING)
    collector.task = collector.task._replace(agent=collector.task.agent._replace(**agent))
    return collector


def test_the_runs_noise_is_collected_with(run: Path, tmp_path: Path) -> None:
    """However many environments there are: from the least to the most, held as long, and no action has a density.

    Training normalised its rewards, which collecting does not.
    """
    still = {"act": lambda policy, x, key: (0 * x[:, :1], {"log_prob": 0 * x[:, 0]})}
    folder = shutil.copytree(run, tmp_path / "run")
    collector = exploring(folder, still, noise_min=0.1, noise_max=0.3, noise_hold=50, normalize_rewards=True)
    rows = collector.collect(Behaviour("expert", 200), 800).rows
    assert not rows.extras and (np.diff(rows.action[:, 0]) != 0).sum() == 800 / 50 - 1
    act, carry = collector._in_episodes(collector.snapshot(Behaviour("expert", 200)), "expert", EXPLORING)
    first, carry = act(np.ones((64, 3)), jax.random.key(1), carry)
    second, _ = act(np.ones((64, 3)), jax.random.key(2), carry)
    assert (first != second).sum() == 1, "environment 49 is the one that changes its noise after the first step"
    assert 0.05 < float(first[:32].std()) < float(first[32:].std()) < 0.35


def test_greedy_and_noisy_policies(run: Path) -> None:
    """Greedy actions are a function of the observation; noise is added to them, and neither has a density."""
    greedy = RunCollector(run, 501, 0, Exploration(greedy=True))
    rows = greedy.collect(LAST, 501).rows
    act = policies.greedy(greedy.task, jax.tree.map(lambda x: x[None], greedy.snapshot(LAST)))
    np.testing.assert_allclose(rows.action, act(rows.observation), atol=1e-5)
    noisy = RunCollector(run, 501, 0, Exploration(greedy=True, noise=0.2)).collect(LAST, 501).rows
    clean = act(noisy.observation)
    inside = np.abs(noisy.action) < 1
    assert np.abs(noisy.action).max() <= 1 and not noisy.extras and not rows.extras
    assert (noisy.action - clean)[inside & (np.abs(clean) < 0.4)].std() == pytest.approx(0.2, abs=0.03)
    explored = RunCollector(run, 501, 0, Exploration(noise=0.2)).collect(LAST, 501).rows
    assert np.abs(explored.action - act(explored.observation)).mean() > np.abs(noisy.action - clean).mean()


def test_the_state_of_acting_is_collected_with(run: Path, tmp_path: Path) -> None:
    """Noise that counts the steps of an episode; random actions have none, and the greedy policy goes without."""

    def act(policy: Any, x: jax.Array, key: Key, steps: jax.Array) -> Any:
        return 1e-3 * steps[:, None], {}, steps + 1

    noise = {"act": act, "noise": lambda: np.zeros((), np.float32)}
    collector = exploring(shutil.copytree(run, tmp_path / "run"), noise)
    dataset = collector.collect(Behaviour("expert", 200), 800)
    np.testing.assert_allclose(dataset.rows.action[:, 0], 1e-3 * dataset.time, rtol=1e-6)
    assert dataset.time.max() == 199
    assert np.ptp(collector.collect(Behaviour("random", None), 800).rows.action) > 1.9
    expert = Behaviour("expert", 200)
    as_greedy, as_it_explores = collector.returns(expert), collector.returns(expert, EXPLORING)
    assert as_greedy.shape == as_it_explores.shape == (64,) and (as_greedy != as_it_explores).all()


def test_random_actions_of_a_discrete_task_are_choices() -> None:
    spec, rows = envs.make("gymnax:CartPole-v1").spec, np.zeros((400, 4), np.float32)
    actions = np.asarray(acting.random_action(spec, jax.random.key(0), rows))
    assert {tuple(action) for action in actions.tolist()} == {(0.0, 1.0), (1.0, 0.0)}
    assert abs(actions[:, 0].mean() - 0.5) < 0.1
    assert float(acting.random_log_prob(spec, rows)) == pytest.approx(-np.log(2))
