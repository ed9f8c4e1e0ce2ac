"""Learning from a data set: what the offline driver does in an iteration, and how a run goes on online."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import agents, build, config, data, envs, experiment, normalize, replay
from rlx.data import Dataset
from rlx.errors import RlxError
from rlx.experiment import Moment
from rlx.rollout import derive
from rlx.train import learning, memory
from rlx.train import loop as host
from rlx.train.fused import Fused
from rlx.train.pipeline import OFFLINE_LAGGED
from rlx.train.task import ACTOR, CRITIC, SAMPLE, Source, Task, observed
from rlx.types import State
from tests import processes
from tests.commands import one_line
from tests.loss_tools import near
from tests.test_memory import compiled
from tests.walk import Walk

pytestmark = pytest.mark.usefixtures("reuse_programs")

SETTINGS: dict[str, Any] = {"offline_steps": 12, "total_env_steps": 0, "ratio": "3:2", "batch_size": 8, "num_envs": 4}
SETTINGS |= {"replay_capacity": 64, "warmup_env_steps": 8, "pool_size": 4, "eval_episodes": 2}
SETTINGS |= {"actor_hidden_sizes": (8,), "critic_hidden_sizes": (8,)}
SETTINGS |= {"actor_decay_steps": -1, "normalize_observations": True}
ONLINE: dict[str, Any] = {"total_env_steps": 40, "log_every": 8, "eval_every": 16}
Make = Callable[..., build.Setup]


def walked(rows: int = 60, seed: int = 0) -> Dataset:
    """Random numbers in the shape of the walk's transitions, in episodes of six."""
    rng = np.random.default_rng(seed)
    states = rng.normal(3.0, 2.0, size=(rows + 1, 2))
    return data.make_dataset(
        {"name": "walked"},
        observation=states[:-1],
        action=rng.uniform(-1, 1, size=(rows, 1)),
        reward=rng.normal(size=rows),
        terminated=np.arange(rows) % 12 == 11,
        truncated=np.arange(rows) % 12 == 5,
        next_observation=states[1:],
        extras={"log_prob": rng.normal(size=rows)},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("data")
    data.write(walked(), place / "walked")
    return place


@pytest.fixture(scope="module")
def make(folder: Path) -> Iterator[Make]:
    """Runs of IQL on the walk's data set, set up."""

    def make(dataset: Dataset | None = None, **changes: Any) -> build.Setup:
        place = folder / "walked" if dataset is None else folder / f"other-{len(list(folder.iterdir()))}"
        if dataset is not None:
            data.write(dataset, place)
        return build.setup(config.resolve("iql", "walk", dataset=str(place), **SETTINGS | changes))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(envs, "make", lambda *arguments: Walk())
        yield make


def nth(tree: Any, i: int) -> Any:
    return jax.tree.map(lambda x: x[i], tree)


def by_hand(driver: Fused, iterations: int, lagged: bool) -> State:
    """The same updates, one after the other, without any driver."""
    task, source = driver.task._replace(axes=()), Source(None, jax.tree.map(lambda x: jnp.asarray(x[0]), driver.data))
    assert source.data is not None
    statistics = normalize.update(normalize.init(2), source.data[0].rows.observation)
    key, agent = jax.random.key(0), task.agent
    state = jax.tree.map(lambda x: x[0, 0], driver.policy_snapshot(driver.init())["agent"])
    gamma = state.critic.hypers.gamma
    for iteration in range(iterations):
        policy, value = agent.acting_params(state), agent.critic_params(state.critic)
        sample = derive(key, SAMPLE, CRITIC, iteration, 0, 0)
        batches = learning.minibatches(task, source, statistics, gamma, sample, 3)
        critic, actor, index = state.critic, state.actor, (iteration, 0, 0, *[0] * (not lagged))
        for i in range(3):
            critic, _ = agent.update_critic(critic, policy, nth(batches, i), derive(key, CRITIC, *index, i))
        if lagged:
            sample = derive(key, SAMPLE, ACTOR, iteration, 0, 0)
            batches = learning.minibatches(task, source, statistics, gamma, sample, 2)
        else:
            batches, value = jax.tree.map(lambda x: x[1:], batches), agent.critic_params(critic)
        for i in range(2):
            actor, _ = agent.update_actor(actor, value, nth(batches, i), derive(key, ACTOR, *index, i))
        state = State(critic=critic, actor=actor)
    return state


@pytest.mark.parametrize("lagged", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_iteration_is_the_updates_and_nothing_else(make: Make, lagged: bool) -> None:
    """Critic then actor, each seeing the last; or, pipelined, each against the other as it was before the iteration."""
    run_setup = make(driver="pipelined" if lagged else "fused", num_shards=1)
    driver = build.make_driver(run_setup, offline=True)
    assert isinstance(driver, Fused) and (driver.schedule is OFFLINE_LAGGED) == lagged
    plain = agents.load("iql").make(run_setup.config.network, run_setup.env.spec, ())
    state, totals = driver.advance(driver.init(), driver.zeros(), 2)
    driver.task = driver.task._replace(agent=plain)  # without the mapped axes
    expected = jax.jit(lambda: by_hand(driver, 2, lagged))()
    near(driver.fetch(driver.policy_snapshot(state))["agent"], jax.tree.map(lambda x: x[None], expected), rtol=2e-5)
    assert driver.read(totals).learned.tolist() == [2] and int(expected.critic.step) == 6


def test_statistics_are_the_data_sets(make: Make) -> None:
    """Those that normalise in learning, and then in acting, are of all observations of the data set."""
    driver = build.make_driver(make(), offline=True)
    statistics = driver.fetch(driver.policy_snapshot(driver.init()))["statistics"]
    observation = walked().rows.observation
    np.testing.assert_allclose(statistics.mean[0], observation.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(statistics.variance[0], observation.var(axis=0), rtol=1e-4)


def test_the_data_set_is_on_the_device_once_for_all_seeds(make: Make) -> None:
    """What the program takes grows by the runs' states alone, however many seeds, rates and shards there are."""
    large = walked(rows=6000)

    def sizes(**changes: Any) -> tuple[Fused, int, int]:
        driver = build.make_driver(make(large, n_step=2, members="vmap", **changes), offline=True)
        assert isinstance(driver, Fused)
        return driver, memory.size(driver.data), memory.size((driver.shapes, driver.no_totals))

    driver, table, states = sizes(num_seeds=4, expectile=[0.6, 0.9], num_shards=2)
    used = compiled(driver.train)
    assert used["given"] == pytest.approx(table + states, rel=0.01)
    assert used["made"] < table / 10  # and it is not handed back either
    assert used["working"] < table
    _, table_of_one, state_of_one = sizes()
    assert table == table_of_one > 6000 * 4 * 6 and states <= 8 * 1.01 * state_of_one


@pytest.fixture(scope="module")
def moments(make: Make) -> list[Moment]:
    """A run of both parts; states are copied, since the next report takes them away."""
    run_setup = make(**ONLINE, offline_fraction=0.5)
    run = experiment.run(run_setup, build.make_driver(run_setup, offline=True))
    return [m._replace(report=m.report._replace(state=jax.device_get(m.report.state))) for m in run]


def test_steps_count_on(moments: list[Moment]) -> None:
    """Each line: run step, environment steps, and the updates of both halves."""
    reports = [(m.offline, m.report) for m in moments]
    steps = [(offline, r.run_step, r.env_step, r.critic_step, r.actor_step) for offline, r in reports]
    offline = [(True, n, 0, n, n * 2 // 3) for n in (3, 9, 12)]
    online = [(8, 12, 8), (12, 15, 10), (16, 18, 12), (24, 24, 16), (32, 30, 20), (40, 36, 24)]
    assert steps == offline + [(False, 12 + taken, taken, critic, actor) for taken, critic, actor in online]


def test_the_same_agent_goes_on(moments: list[Moment]) -> None:
    """Parameters, optimisers and counters are those that the data set taught, to the bit, until the first update."""
    last = next(m for m in reversed(moments) if m.offline)
    first = next(m for m in moments if not m.offline)
    jax.tree.map(np.testing.assert_array_equal, first.report.state.agent, last.report.state.agent)
    assert moments[-1].report.state.agent.critic.step.tolist() == [[36]]
    assert first.report.state.statistics.count.tolist() == [[60 + 8]]


def test_a_trained_agent_acts_for_itself(moments: list[Moment], make: Make) -> None:
    """The first steps fill the ring, but not by random actions."""
    first = next(m for m in moments if not m.offline)
    rows = jax.tree.map(lambda x: x[0, 0, 0], first.report.state.replay.rows)
    task = first.driver.task
    agent = jax.tree.map(lambda x: x[0, 0], first.report.state.agent)
    statistics = jax.tree.map(lambda x: x[0, 0], first.report.state.statistics)
    seen = observed(task, statistics, rows.observation[1])
    greedy, _ = task.agent.act_greedy(task.agent.acting_params(agent), seen, jax.random.key(0))
    assert float(np.abs(rows.action[1] - greedy).mean()) < 4.0  # of a unit Gaussian around it, not clipped at random
    fresh = build.make_driver(make(**ONLINE, offline_fraction=0.0))
    assert isinstance(fresh, Fused) and not fresh.data  # no row of the data set reaches the online part
    assert fresh.task.plan.prior[0] == 4 and fresh.task.plan.warmup_iterations == 2


@pytest.mark.parametrize(("fraction", "count"), [(0.0, 0), (0.25, 2), (0.5, 4), (1.0, 8)])
def test_minibatches_hold_the_share_that_was_asked_for(fraction: float, count: int, make: Make) -> None:
    """Rows of the data set have a reward of 7, those of the ring 1: exactly so many in each minibatch. Of a second
    set, with rewards of 9, as many."""
    sevens = walked()
    sevens = sevens._replace(rows=sevens.rows._replace(reward=np.full(60, 7.0, np.float32)))
    driver = build.make_driver(make(sevens, **ONLINE, offline_fraction=fraction, num_shards=1))
    assert isinstance(driver, Fused)
    task = driver.task._replace(axes=())
    tables = jax.tree.map(lambda x: np.asarray(x[0]), jax.device_get(driver.data))

    def draw(task: Task, tables: Any) -> Any:
        def program(tables: Any) -> Any:
            ring = learning.init_replay(task, learning.row_shapes(task))
            rows = ring.rows._replace(reward=jnp.ones_like(ring.rows.reward))
            ring = replay.Replay(rows, ring.cursor.replace(size=jnp.int32(16)))
            return learning.sample(task, Source(ring, tables), jnp.float32(0.9), jax.random.key(1), 5)

        return jax.device_get(jax.jit(program)(tables))

    drawn = draw(task, tables)
    assert drawn.observation.shape == (5, 8, 2)
    assert (drawn.reward == 7).sum(axis=1).tolist() == [count] * 5
    assert (drawn.reward == 1).sum(axis=1).tolist() == [8 - count] * 5
    if 0 < count < 8:
        nines = jax.tree.map(lambda x: np.where(x == 7, 9, x).astype(x.dtype), tables[0])
        task = task._replace(plan=task.plan._replace(shard_offline=(count, count)))
        drawn = draw(task, (*tables, nines))
        for reward, rows in ((7, count), (9, count), (1, 8 - 2 * count)):
            assert (drawn.reward == reward).sum(axis=1).tolist() == [rows] * 5


def test_a_run_resumed_in_its_second_part_ends_the_same(moments: list[Moment], make: Make) -> None:
    run_setup = make(**ONLINE, offline_fraction=0.5)
    driver = build.make_driver(run_setup)
    for moment in experiment.run(run_setup, build.make_driver(run_setup, offline=True)):
        if moment.report.run_step == 12 + 16:
            saved = jax.tree.map(np.array, moment.driver.training_state(moment.report.state, moment.report.totals))
            resumed = host.Resumed(saved, moment.report.iteration, moment.report.learned)
            break
    *_, last = experiment.run(run_setup, driver, resumed=resumed)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(last.report.state), moments[-1].report.state)
    assert last.report.run_step == 52 and last.report.critic_step == 36


def test_rewards_are_shifted_and_scaled(make: Make) -> None:
    """`range` becomes a number, 1000 over the range of returns, in the factor on every reward, online ones too."""
    returns = data.episode_returns(walked())
    run_setup = make(**ONLINE, scale_rewards="range", reward_scale=[2.0], reward_shift=-1.0)
    assert run_setup.config.train.scale_rewards == "none"
    assert run_setup.config.hypers["reward_scale"] == pytest.approx((2000 / (returns.max() - returns.min()),), rel=1e-6)
    driver = build.make_driver(run_setup, offline=True)
    assert isinstance(driver, Fused)
    np.testing.assert_allclose(driver.data[0].rows.reward[0, :, 0], walked().rows.reward - 1, rtol=1e-6)
    online = build.make_driver(run_setup)
    state, _ = online.advance(online.init(), online.zeros(), 3)
    rows = jax.tree.map(lambda x: np.asarray(x[0, 0, 0, :3]), state.replay.rows)
    expected = rows.observation[..., 0] - (rows.action**2).sum(axis=-1) - 1
    np.testing.assert_allclose(rows.reward, expected, rtol=1e-4, atol=1e-5)


def test_actions_are_clipped_once_and_counted(make: Make) -> None:
    run_setup = make(action_clip=0.5)
    assert run_setup.data is not None and np.abs(run_setup.data.rows.action).max() <= 0.5
    beyond = int((np.abs(walked().rows.action) > 0.5).sum())
    assert len(run_setup.notes) == 1 and f"clipped {beyond} actions to +-0.5" in run_setup.notes[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"offline_steps": 0, "total_env_steps": 40, "offline_fraction": 0.0}, "nothing reads it"),
        ({"dataset": "", "offline_steps": 12}, "missing --dataset: --offline-steps 12 learn from data; give one"),
        ({"dataset": "no-such-file"}, "no-such-file does not exist"),
        ({"offline_fraction": 1.5}, "--offline-fraction 1.5: must be at least 0 and at most 1"),
        ({"action_clip": 0.0}, "--action-clip 0: must be at least 1e-06 and at most 1"),
        ({"scale_rewards": "rang"}, "--scale-rewards rang: unknown; did you mean range"),
        ({"offline_steps": 0, "dataset": ""}, "nothing to do"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(changes: dict[str, Any], words: str, make: Make, folder: Path) -> None:
    settings = SETTINGS | {"dataset": str(folder / "walked")} | changes
    with one_line(words):
        build.make_driver(build.setup(config.resolve("iql", "walk", **settings)), offline=True)


def test_a_data_set_of_another_environment_is_refused(make: Make) -> None:
    dataset = walked()
    wide = np.concatenate([dataset.rows.observation] * 2, axis=1)
    with pytest.raises(RlxError, match="observations have 4 numbers but the environment's 2"):
        make(dataset._replace(rows=dataset.rows._replace(observation=wide, next_observation=wide)))


def test_auto_has_no_roles_to_time(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlx.parallel.local_device_count", lambda: 3)
    with pytest.raises(RlxError, match=r"^--split auto: times roles in the environment, .*; name a split$"):
        make(driver="pipelined", split="auto")


@pytest.mark.slow
def test_halves_on_devices_of_their_own_learn_the_same() -> None:
    """Critic and actor on different devices, and through the host in the middle, against the iteration in one
    program."""
    assert json.loads(processes.run(["tests.check_offline"], devices=3))["checked"]
