"""The fused driver: layouts that must not matter, exact counts, one compile a program, no hidden transfers."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.struct import PyTreeNode

from rlx import build, config, envs, normalize, parallel
from rlx.agents import sac
from rlx.rollout import Episodes
from rlx.train import acting, learning
from rlx.train import loop as host
from rlx.train.fused import Fused
from rlx.train.placement import Placement, axes_of
from rlx.train.task import Source, Totals
from rlx.types import Agent, State
from tests import processes
from tests.loss_tools import near, same
from tests.walk import Walk

# An iteration is two vector steps of four environments; after two iterations of warm-up each makes 6 critic and 4
# actor updates.
SETTINGS: dict[str, Any] = {"num_envs": 4, "rollout_length": 2, "ratio": "3:2", "n_step": 2, "batch_size": 8}
SETTINGS |= {"replay_capacity": 64, "warmup_env_steps": 16, "total_env_steps": 96, "log_every": 24, "eval_every": 48}
SETTINGS |= {"eval_episodes": 2, "pool_size": 4, "noise_min": 0.1, "noise_max": 0.3}
SETTINGS |= {"actor_hidden_sizes": (8,), "critic_hidden_sizes": (8,)}
SETTINGS |= {"members": "vmap"}  # tests/test_threads.py has the other way
ITERATIONS, RATES, SEEDS = 12, (1e-3, 1e-2), (0, 1)
COMPILED = "/jax/core/compile/backend_compile_duration"
Make = Callable[..., Fused]
close = partial(near, rtol=1e-3, atol=1e-5)


@pytest.fixture(scope="module")
def make() -> Iterator[Make]:
    """Drivers of SAC on the walk."""

    def make(**changes: Any) -> Any:
        return build.make_driver(build.setup(config.resolve("sac", "walk", **SETTINGS | changes)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(envs, "make", lambda *arguments: Walk())
        yield make


class Run:
    """A whole training run: its driver, its reports, and the programs that were compiled on the way."""

    def __init__(self, driver: Fused) -> None:
        self.driver = driver
        self.compiled: list[str] = []

        def listen(event: str, duration: float, **details: Any) -> None:
            if event == COMPILED:
                self.compiled.append(details["fun_name"])

        jax.monitoring.register_event_duration_secs_listener(listen)
        try:
            self.reports = [r._replace(state=jax.device_get(r.state)) for r in host.train(driver)]
        finally:
            jax.monitoring.unregister_event_duration_listener(listen)
        self.final = jax.tree.map(lambda x: x[0], self.reports[-1].state)  # of the one device


@pytest.fixture(scope="module")
def solo(make: Make) -> Run:
    return Run(make())


@pytest.fixture(scope="module")
def many(make: Make) -> Run:
    return Run(make(num_seeds=len(SEEDS), critic_lr=RATES))


def test_every_seed_and_rate_equals_its_solo_run(make: Make, solo: Run, many: Run, monkeypatch: Any) -> None:
    """Every value with every seed, in one program. The solo runs share one program too: both are arguments of it."""
    members = [(seed, rate) for rate in RATES for seed in SEEDS]
    assert many.driver.members == len(members)
    assert [leaf.shape[0] for leaf in jax.tree.leaves(many.final.agent)] == [4] * len(jax.tree.leaves(many.final.agent))
    for i, (seed, rate) in enumerate(members):
        driver = solo.driver
        monkeypatch.setattr(driver, "first", make(seed=seed, critic_lr=rate).first)
        state = driver.init()
        for _ in range(ITERATIONS // 3):  # as often as the run refreshed its pool
            state = driver.refresh(driver.advance(state, driver.zeros(), 3)[0])
        alone = driver.fetch((state.agent, state.statistics, state.env, state.replay.rows))
        together = many.final.agent, many.final.statistics, many.final.env, many.final.replay.rows
        close(jax.tree.map(lambda x, i=i: x[i], together), jax.tree.map(lambda x: x[0], alone))
        assert many.final.agent.critic.hypers.critic_lr[i] == np.float32(rate)
    kernels = [leaf[0] for leaf in jax.tree.leaves(jax.device_get(many.driver.init().agent)) if leaf.ndim > 3]
    assert all((k[0] == k[2]).all() and (k[0] != k[1]).any() for k in kernels if k.any())  # each seed its own networks
    assert many.final.replay.cursor.head.shape == ()  # mapped, every write would cost a pass over the ring


@pytest.mark.slow
def test_one_device_equals_four() -> None:
    """Eight logical shards, all on one or two on each; and four seeds over four devices equal their solo runs."""
    result = processes.run(["tests.check_fused"], devices=4).splitlines()
    assert result == ["data over 4", "seed 0 of 4", "seed 3 of 4"]


def test_environments_are_numbered_over_all_shards(make: Make) -> None:
    """Device after device, shard after shard: the numbers that noise and randomness hang on."""
    task = make().task._replace(axes=(parallel.DEVICE, parallel.SHARD))
    on_a_device = jax.vmap(lambda _: acting.env_index(task), axis_name=parallel.SHARD)
    numbers = jax.vmap(on_a_device, axis_name=parallel.DEVICE)(jnp.zeros((2, 3)))  # two devices of three shards
    assert numbers.reshape(-1).tolist() == list(range(6 * SETTINGS["num_envs"]))


@pytest.mark.parametrize(
    ("sizes", "shards", "over_devices", "axes"),
    [
        ((1, 1, 1), 1, True, ()),
        ((1, 1, 1), 3, True, ("shard",)),
        ((4, 4, 4), 4, True, ("device",)),
        ((4, 4, 4), 8, True, ("device", "shard")),
        ((2, 1, 1), 2, True, ("device", "shard")),  # learners have both shards on one device
        ((4, 4, 4), 1, False, ()),  # whole runs on each
        ((4, 4, 4), 2, False, ("shard",)),
    ],
)
def test_what_is_averaged_over(sizes: tuple[int, ...], shards: int, over_devices: bool, axes: tuple[str, ...]) -> None:
    """Every axis along which there are several rows, or gradients of shards would go apart; and no other."""
    groups = [jax.devices() * size for size in sizes]
    assert axes_of(Placement(groups, shards, False), over_devices) == axes


def test_two_runs_agree_to_the_bit(solo: Run) -> None:
    again = Run(solo.driver)
    same(again.final, solo.final)
    for one, other in zip(again.reports, solo.reports, strict=True):
        same((one.metrics, one.evaluation), (other.metrics, other.evaluation))
    assert again.compiled == []


def test_without_a_branch_the_numbers_are_the_same(make: Make, solo: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no CPU, iterations of the warm-up learn and throw it away; nothing of it is left, not even a
    count."""
    monkeypatch.setattr(parallel, "on_cpu", lambda: False)
    again = Run(make())
    close(again.final, solo.final)
    same((again.final.agent.critic.step, again.final.iteration), (solo.final.agent.critic.step, solo.final.iteration))
    for one, other in zip(again.reports, solo.reports, strict=True):
        assert one[:6] == other[:6] and one.bad == other.bad
        close((one.metrics, one.evaluation), (other.metrics, other.evaluation), rtol=1e-2)


@pytest.mark.parametrize("members", ["solo", "many"])
def test_each_program_is_compiled_once(members: str, request: pytest.FixtureRequest) -> None:
    """Over warm-up, learning, refreshes and evaluations; and nothing else is compiled, not the smallest operation."""
    run = request.getfixturevalue(members)
    assert len(run.compiled) == len(run.driver.programs) == 4
    assert all(program.compile_s > 0 for program in run.driver.programs)


def test_nothing_crosses_to_the_host_unasked(solo: Run) -> None:
    """All that a run does again and again, under a guard that refuses transfers that nobody wrote down. (On a CPU the
    guard sees transfers to the device only: those from it cost nothing there.)"""
    driver = solo.driver
    state = driver.init()
    with jax.transfer_guard("disallow"):
        state, totals = driver.advance(state, driver.zeros(), 3)
        evaluation = driver.evaluate(driver.policy_snapshot(driver.refresh(state)))
        driver.fetch((totals, evaluation))


def test_a_hidden_transfer_is_an_error(solo: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """`train` holds the guard itself: a driver that passes a host's number along does not make an iteration."""

    def advance(state: Any, totals: Any, iterations: int) -> Any:
        return solo.driver.train(state, totals, None, np.full(1, iterations, np.int32))

    monkeypatch.setattr(solo.driver, "advance", advance)
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        next(host.train(solo.driver))


def test_counts(solo: Run) -> None:
    """Environment, critic and actor steps of every report; the last are also counted in the state."""
    seen = [(r.env_step, r.critic_step, r.actor_step, r.evaluation is not None) for r in solo.reports]
    assert seen == [(24, 6, 4, False), (48, 24, 16, True), (72, 42, 28, False), (96, 60, 40, True)]
    final, learned = solo.final, ITERATIONS - 2
    assert final.agent.critic.step.item() == learned * 6 and final.agent.actor.step.item() == learned * 4
    assert final.iteration == ITERATIONS and final.statistics.count.item() == 96
    assert final.replay.cursor.size == 16 and final.replay.cursor.head == 2 * ITERATIONS % 16
    assert final.replay.rows.reward.shape == (1, 1, 16, 4)
    evaluation = solo.reports[-1].evaluation
    assert evaluation is not None and evaluation.returns.shape == (1, 2)


class Diary(PyTreeNode):
    """A half that writes down, at each of its steps, what it learnt from and how many steps the other half had made."""

    read: jax.Array
    seen: jax.Array
    hypers: Any
    step: jax.Array

    def write(self, read: jax.Array, seen: jax.Array) -> "Diary":
        entry = self.read.at[self.step].set(read.sum()), self.seen.at[self.step].set(seen)
        return self.replace(read=entry[0], seen=entry[1], step=self.step + 1)


def diarist(critic_steps: int, actor_steps: int) -> tuple[Agent, State]:
    """An agent of two diaries: values and policies are step counts."""
    agent = Agent(
        init=lambda key, hypers=None: None,  # type: ignore[return-value]
        critic_params=lambda critic: critic.step,
        policy_params=lambda actor, critic_params: actor.step,
        actor_reads=("reward",),
        act=lambda policy, observation, key: (observation, {}),
        act_greedy=lambda policy, observation, key: (observation, {}),
        update_critic=lambda critic, policy, batch, key: (critic.write(batch.reward, policy), {}),
        update_actor=lambda actor, value, batch, key: (actor.write(batch.reward, value), {}),
    )

    def fresh(steps: int) -> Diary:
        return Diary(jnp.zeros(steps), jnp.zeros(steps, jnp.int32), sac.Hypers(), jnp.zeros((), jnp.int32))

    return agent, State(critic=fresh(critic_steps), actor=fresh(actor_steps))


@pytest.mark.parametrize(
    ("ratio", "critics_saw", "actors_saw", "actors_read"),
    [
        ("1:1", [0], [1], [0]),
        ("3:2", [0, 0, 0], [3, 3], [1, 2]),
        ("4:2", [0, 0, 1, 1], [2, 4], [1, 3]),
        ("2:4", [0, 2], [1, 1, 2, 2], [0, None, 1, None]),
    ],
)
def test_updates_are_interleaved(
    ratio: str, critics_saw: list[int], actors_saw: list[int], actors_read: list[int | None], make: Make
) -> None:
    """As evenly as the ratio allows, in each of the iteration's two vector steps. The halves see each other's latest,
    and actor steps learn from the minibatches of the last critic steps."""
    task = make(ratio=ratio).task
    critics, actors = task.plan.critic_updates, task.plan.actor_updates
    agent, state = diarist(2 * critics, 2 * actors)
    task = task._replace(agent=agent, axes=())
    ring = learning.init_replay(task, learning.row_shapes(task))
    rewards = jax.random.normal(jax.random.key(1), ring.rows.reward.shape)
    ring = ring.replace(rows=ring.rows._replace(reward=rewards), cursor=ring.cursor.replace(size=jnp.int32(16)))
    source, statistics = Source(ring), normalize.init(task.env.spec.observation_size)
    learn = jax.jit(lambda state: learning.learn(task, state, source, statistics, jax.random.key(0), jnp.int32(0)))
    after, _ = jax.device_get(learn(state))
    assert after.critic.seen.tolist() == critics_saw + [actors + n for n in critics_saw]
    assert after.actor.seen.tolist() == actors_saw + [critics + n for n in actors_saw]
    assert len(set(after.critic.read.tolist())) == 2 * critics
    for burst in range(2):
        for i, critic_step in enumerate(actors_read):
            if critic_step is not None:
                assert after.actor.read[burst * actors + i] == after.critic.read[burst * critics + critic_step]


def test_the_pool_of_starts_is_refreshed(solo: Run) -> None:
    """Episodes begin at different starts of the pool that is there, and after a refresh at those of the new one."""
    driver, state, pools = solo.driver, solo.driver.init(), list[set[Any]]()
    for _ in range(2):
        state, _ = driver.advance(state, driver.zeros(), 8)  # the ring holds eight iterations
        rows, pool = jax.tree.map(lambda x: x[0, 0, 0], jax.device_get((state.replay.rows, state.pool)))
        first = rows.observation[1:][(rows.terminated | rows.truncated)[:-1]]  # of episodes that began in the ring
        begun, offered = ({tuple(x) for x in some.tolist()} for some in (first, pool.observation))
        assert len(offered) == 4 and len(begun) > 1 and begun <= offered
        pools.append(offered)
        state = driver.refresh(state)
    assert not pools[0] & pools[1]
    trained = [report.state.pool.observation for report in solo.reports]  # training refreshes it, too
    assert all((one != other).all() for one, other in pairwise(trained))


def test_means() -> None:
    """Per member, metrics over the iterations that learned, returns over the episodes that ended, where some did."""
    ended = Episodes(np.array([4.0, 2.0]), np.array([10.0, -3.0]), np.array([40.0, 30.0]))
    lag = {"policy_at_collector": np.array([[0, 5, 0, 0], [0, 5, 0, 0]])}
    result = host.means(Totals({"loss": np.array([6.0, 9.0])}, np.array([3.0, 3.0]), ended, lag))
    wanted = {"loss": [2, 3], "episode_return": [2.5, -1.5], "episode_length": [10, 15], "episodes": [4, 2]}
    same(
        result, {name: np.array(x) for name, x in wanted.items()} | {"lag_policy_at_collector": np.array([0, 5, 0, 0])}
    )
    nothing = Episodes(*[np.array([0.0, 1.0])] * 3)
    assert set(host.means(Totals({"loss": np.zeros(2)}, np.zeros(2), nothing))) == {"episodes"}


@pytest.mark.parametrize(
    ("changes", "points", "evaluations"),
    [
        ({}, [3, 6, 9, 12], [6, 12]),
        ({"warmup_iterations": 4}, [3, 5, 6, 9, 12], [6, 12]),  # the first update
        ({"log_iterations": 5, "eval_iterations": 99, "checkpoint_iterations": 99}, [3, 5, 10, 12], [12]),  # the end
    ],
)
def test_stops(changes: dict[str, int], points: list[int], evaluations: list[int], solo: Run) -> None:
    driver: Any = SimpleNamespace(task=solo.driver.task._replace(plan=solo.driver.task.plan._replace(**changes)))
    assert [stop.iteration for stop in host.stops(driver)] == points
    assert [stop.iteration for stop in host.stops(driver) if stop.evaluates] == evaluations
