"""Extras, windows, records and acting state, through every driver: the agent of `tests.reader` checks what it gets."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import agents, build, config, data, envs, experiment, json_files, normalize, replay
from rlx.errors import RlxError
from rlx.runs import checkpoint, metrics, policies, runner
from rlx.train import acting
from rlx.train.plan import share_out
from rlx.types import Transition
from tests import processes, reader

pytestmark = pytest.mark.usefixtures("reuse_programs")

SETTINGS: dict[str, Any] = {"num_envs": 4, "rollout_length": 2, "ratio": "2:1", "batch_size": 8, "pool_size": 4}
SETTINGS |= {"replay_capacity": 64, "warmup_env_steps": 0, "total_env_steps": 240}
SETTINGS |= {"log_every": 80, "eval_every": 240, "eval_episodes": 2}
OFFLINE = {"offline_steps": 16, "total_env_steps": 0, "log_every": 8, "eval_every": 16}
PIPELINED = {"driver": "pipelined"}
FULL = {"actor_fields": ("observation", "action", "reward", "discount", "next_observation")}
CASES: dict[str, dict[str, Any]] = {
    "fused n-step, recorded and carried": {"n_step": 3, "records": True, "carries": True},
    "pipelined n-step, recorded and carried": PIPELINED | FULL | {"n_step": 3, "records": True, "carries": True},
    "pipelined windows": PIPELINED | {"window": 4},
    "offline pipelined n-step": OFFLINE | PIPELINED | FULL | {"n_step": 3, "dataset": "costly"},
    "offline, then mixed": {"offline_steps": 8, "dataset": "costly", "n_step": 2},
}
SOURCES = {"offline pipelined n-step": {1.0}, "offline, then mixed": {1.0, 0.5}}  # means over minibatches
Make = Callable[..., build.Setup]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    """Runs of the reader in the costly walk, set up."""
    folder = tmp_path_factory.mktemp("data")
    data.write(reader.dataset(), folder / "costly")

    def make(**changes: Any) -> build.Setup:
        settings = SETTINGS | changes
        if "dataset" in settings:
            settings["dataset"] = ",".join(str(folder / name) for name in settings["dataset"].split(","))
        return build.setup(config.resolve("reader", "stub:walk", **settings))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(envs, "make", lambda *arguments: reader.Costly())
        patch.setitem(agents.REGISTRY, "reader", "tests.reader")
        yield make


def moments(setup: build.Setup) -> list[experiment.Moment]:
    driver = build.make_driver(setup, build.parts(setup.config)[0])
    return [
        m._replace(report=m.report._replace(state=jax.device_get(m.report.state)))
        for m in experiment.run(setup, driver)
    ]


@pytest.mark.parametrize(
    "case", [pytest.param(name, marks=[pytest.mark.slow] * ("pipelined n-step" in name)) for name in CASES]
)
def test_both_halves_get_what_they_read(case: str, make: Make) -> None:
    """Every extra agrees with the batch's fields, in every minibatch of every driver."""
    reports = [moment.report for moment in moments(make(**CASES[case]))]
    seen: dict[str, list[float]] = {}
    for report in reports:
        for name, value in report.metrics.items():
            if name.startswith(("critic_", "actor_")):
                seen.setdefault(name, []).append(float(value[0]))
    always = {"twice", "cost", "left", "goal", "mean", "source", "masked"}
    always |= {"thrice", "count"} if "recorded" in case else set()
    for half in ("critic", "actor"):
        arrives = {"arrived", "following"} if half == "critic" or CASES[case].get("actor_fields") else set()
        assert {name.removeprefix(f"{half}_") for name in seen if name.startswith(half)} == always | arrives
        for name in (always | arrives) - {"mean", "source", "masked"}:
            assert not any(seen[f"{half}_{name}"]), name
        assert all(seen[f"{half}_mean"])
        assert all(x < 1 if "windows" in case else x == 1 for x in seen[f"{half}_masked"])
    assert seen["critic_source"] == seen["actor_source"]
    assert set(seen["actor_source"]) == SOURCES.get(case, {0.0})


@pytest.mark.slow
def test_groups_of_devices_get_what_one_program_gets() -> None:
    """Extras, recorded columns, acting state, windows and several data sets; training states agree leaf by leaf."""
    cases = processes.run(["tests.check_seams"], devices=4).splitlines()
    assert cases == ["n-step, recorded and carried", "mixed windows", "offline n-step"]


def test_the_actor_half_gets_what_it_reads_alone(make: Make) -> None:
    agent = build.make_driver(make()).task.agent._replace(actor_reads=("observation", "cost"))
    row = np.ones((4, 2))
    batch = Transition(row, row, row, row, row, {"cost": row, "twice": row, "mask": row})
    read = agent.actor_batch(batch)
    assert [name for name, value in read._asdict().items() if value is not None] == ["observation", "extras"]
    assert set(read.extras) == {"cost", "mask"}


def test_the_policy_can_act_in_the_warm_up(make: Make) -> None:
    """As it does without updates, in place of random actions."""
    sizes = {"warmup_env_steps": 16, "total_env_steps": 24, "log_every": 24, "eval_every": 24}
    last = moments(make(**sizes, warmup_actions="policy", normalize_observations=False))[-1]
    rows = jax.tree.map(lambda x: x[0, 0, :4], last.report.state.replay.rows)  # the warm-up's vector steps
    np.testing.assert_allclose(rows.action, np.clip(-0.5 * rows.observation[..., :1], -1, 1), rtol=1e-6)
    assert last.report.critic_step == 4


def test_records_get_rows_as_the_agent_sees_them(make: Make) -> None:
    """Normalised observations, act's info, and the environment's extras alone."""
    task = build.make_driver(make(records=True)).task
    arguments: dict[str, Any] = {}

    def records(policy: str, rows: replay.Row, info: dict[str, Any]) -> dict[str, Any]:
        arguments.update(policy=policy, rows=rows, info=info)
        return {"thrice": 3 * rows.reward}

    x, flags = np.full((1, 1, 2), 5.0, np.float32), np.zeros((1, 1), bool)
    shown = {"cost": flags + 2.0, "place": x, "time": flags + 0}
    rows = replay.Row(x, x[..., :1], flags + 1.0, flags, flags, x + 2, ({"twice": flags + 9.0}, shown))
    statistics = normalize.init(2).replace(mean=np.ones(2), variance=4 * np.ones(2))
    stored = acting.record(
        task._replace(agent=task.agent._replace(records=records)), "policy", statistics, jax.tree.map(jnp.asarray, rows)
    )
    assert arguments["policy"] == "policy" and arguments["info"]["twice"] == 9
    agent_rows = arguments["rows"]
    assert (agent_rows.observation == 2).all() and (agent_rows.next_observation == 3).all()
    assert set(agent_rows.extras) == {"cost", "place"} and agent_rows.extras["cost"] == 2
    assert (stored.observation == 5).all() and set(stored.extras) == set(task.columns.shapes)
    assert stored.extras["thrice"] == 3 and stored.extras["twice"] == 9 and stored.extras["time"] == 0


def test_evaluation_reports_sums_and_lasts(make: Make) -> None:
    """The cost is the reward, so its sum is the return; vectors are not summed."""
    evaluation = moments(make(total_env_steps=24, log_every=24))[-1].report.evaluation
    assert evaluation is not None
    np.testing.assert_allclose(evaluation.sums["cost"], evaluation.returns, rtol=1e-6)
    assert set(evaluation.sums) == set(evaluation.lasts) == {"cost"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"noise_max": 0.1}, "'twice', which a run in this"),
        ({"records": True, "dataset": "costly", **OFFLINE}, "'thrice', which the data set does not provide"),
        ({"carries": True, "dataset": "costly", **OFFLINE}, "'count', which the data set does not provide"),
        ({"actor_fields": ("observation", "colour")}, "actor half reads 'colour'"),
        ({"replay_capacity": 8, "window": 4}, "--replay-capacity 8"),
        ({"n_step": 2, "window": 4}, "--n-step 2"),
    ],
)
def test_what_nobody_provides_is_refused(changes: dict[str, Any], words: str, make: Make) -> None:
    with pytest.raises(RlxError, match=words) as error:
        make(**changes)
    assert "\n" not in str(error.value)


def test_data_sets_are_mixed_in_from_the_first_step_by_their_shares(make: Make) -> None:
    """Half of the 8 rows of a minibatch are data, one of set 1 and three of set 2; rows know where they come from."""
    setup = make(dataset="costly,costly", dataset_shares="0.25,0.75", total_env_steps=40, log_every=40, n_step=2)
    assert build.parts(setup.config) == [False]
    driver = build.make_driver(setup)
    assert driver.task.plan.shard_offline == (1, 3)
    last = moments(setup)[-1].report
    np.testing.assert_allclose(last.metrics["critic_source"], (4 * 0 + 1 * 1 + 3 * 2) / 8)
    assert not last.metrics["critic_cost"].any()


@pytest.mark.parametrize(
    ("ratios", "steps"), [(("2:1", "1:0"), (16, 0)), (("0:2", "0:4"), (0, 16)), (("2:1", "4:2"), (16, 8))]
)
def test_each_part_has_its_own_ratio(ratios: tuple[str, str], steps: tuple[int, int], make: Make) -> None:
    """16 updates offline by the second ratio, then by the first; 0 leaves a half as it is."""
    changes = {"dataset": "costly", "offline_steps": 16, "total_env_steps": 40, "log_every": 40, "eval_every": 40}
    reports = [m.report for m in moments(make(ratio=ratios[0], offline_ratio=ratios[1], **changes))]
    offline = [report for report in reports if report.env_step == 0][-1]
    assert (offline.critic_step, offline.actor_step, offline.run_step) == (*steps, 16)
    assert any(name.startswith("actor_") for name in offline.metrics) == (steps[1] > 0)
    last, iterations = reports[-1], 5 - 1
    critic, actor = (int(count) * 2 * iterations for count in ratios[0].split(":"))
    assert (last.critic_step, last.actor_step, last.run_step) == (steps[0] + critic, steps[1] + actor, 16 + 40)
    halves = last.state.agent
    assert (int(halves.critic.step[0, 0]), int(halves.actor.step[0, 0])) == (last.critic_step, last.actor_step)


@pytest.mark.parametrize(
    ("count", "shares", "counts"),
    [
        (10, (0.3, 0.7), (3, 7)),
        (10, (1, 1, 1), (4, 3, 3)),
        (8, (0, 1), (0, 8)),
        (7, (0.5, 0.5), (4, 3)),
        (8, (0.3, 0.7), (2, 6)),
    ],
)
def test_shares_add_up_exactly(count: int, shares: tuple[float, ...], counts: tuple[int, ...]) -> None:
    assert share_out(count, shares) == counts


@pytest.fixture
def run(make: Make, tmp_path: Path) -> Callable[..., Path]:
    """Trains the reader into a folder of this name."""

    def run(name: str, init_from: str | None = None, **changes: Any) -> Path:
        settings = SETTINGS | {"num_seeds": 2, "members": "vmap", "total_env_steps": 48, "log_every": 24} | changes
        (tmp_path / name).mkdir()
        runner.train(config.resolve("reader", "stub:walk", **settings), tmp_path / name, init_from, quiet=True)
        return tmp_path / name

    return run


def totals(folder: Path) -> np.ndarray:
    """The critic's total of every member, as the run saved it last."""
    count = len(config.members(config.from_json(folder / "config.json")))
    return np.asarray(policies.load(folder, range(count)).snapshot["agent"].critic.total)


@pytest.mark.parametrize("driver", ["fused", pytest.param("pipelined", marks=pytest.mark.slow)])
def test_a_resumed_run_ends_in_the_same_bits(driver: str, run: Callable[..., Path]) -> None:
    """With columns of every kind and the environments' acting state in the checkpoint."""
    changes = {"driver": driver, "carries": True, "records": True, "n_step": 2, "eval_every": 24}
    uninterrupted = run("whole", **changes)
    cut = run("cut", **changes | {"total_env_steps": 32})
    runner.resume(cut, {"total_env_steps": 48}, quiet=True)
    np.testing.assert_array_equal(totals(uninterrupted), totals(cut))
    last = metrics.read(cut / "metrics.jsonl")[-1]
    assert last["env_step"] == 48 and not any(last["train/critic_count"])


def test_a_part_of_another_run_is_adopted(run: Callable[..., Path]) -> None:
    """Of the critic alone, with the statistics; its digest is noted, and a part that nobody adopts is refused."""
    first = run("first", seed=7)
    second = run("second", init_from=f"total={first}", ratio="0:1")
    np.testing.assert_array_equal(totals(second), totals(first))
    assert totals(first).all()
    before, after = (policies.load(folder).snapshot["statistics"].count for folder in (first, second))
    assert (before == 48).all() and (after == 2 * before).all()  # they go on counting
    noted = json_files.read(second / "config.json")["init_from_digests"]
    assert noted == {str(first): checkpoint.manifest(first / "checkpoints", 48)["digest"]}
    with pytest.raises(RlxError, match="adopts total, not 'policy'"):
        run("third", init_from=f"policy={first}")


def test_a_run_of_an_agent_that_is_not_registered_says_so(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run("own", eval_every=48)
    monkeypatch.delitem(agents.REGISTRY, "reader")
    for act in (lambda: runner.resume(folder, {}, quiet=True), lambda: policies.evaluate(folder, 1, None, None)):
        with pytest.raises(RlxError, match="'reader' is not registered"):
            act()
