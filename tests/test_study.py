"""Studies: the bandit that chooses settings, cells that are killed and gone on with, the table, and refusals."""

import csv
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from rlx import data, json_files
from rlx.runs import policies
from rlx.sweeps import bandit
from tests.commands import Refused, Say, flags
from tests.kill_cases import write_dataset
from tests.test_resume import Crash, at_line, crash

pytestmark = pytest.mark.usefixtures("reuse_programs")

ENV = "gymnax:Pendulum-v1"
TINY: dict[str, Any] = {"offline_steps": 40, "batch_size": 8, "eval_episodes": 4, "eval_every": 40, "log_every": 20}
TINY |= {"actor_hidden_sizes": 8, "critic_hidden_sizes": 8, "pool_size": 4, "num_seeds": 2, "checkpoint_every": 20}


def test_bandit() -> None:
    """It explores: a policy that is better on average but began badly is tried again. Only what was tried is chosen."""
    better, steady, diverged = [0.0, 2.0], [0.8, 0.8], [np.nan, 1.0]
    chosen, _ = bandit.choose([steady, better, diverged], evaluations=300)
    assert (chosen == 1).mean() > 0.95
    greedy, _ = bandit.choose([steady, better], evaluations=2)  # one each: whichever came out higher
    assert 0.4 < (greedy == 1).mean() < 0.6
    first, _ = bandit.choose([[-5.0], [-9.0], [-7.0]], evaluations=1)
    assert np.bincount(first).min() > 100  # nothing is known but the one that was tried
    assert (bandit.choose([[-5.0], [-9.0], [-7.0]], evaluations=3)[0] == 0).all()
    assert (bandit.choose([[np.nan], [-9.0]], evaluations=2)[0] == 1).all()


def test_choice_follows_the_upper_bound() -> None:
    """Mean + sqrt(2 log t / n), by a slow loop over returns that are constant: how often each is tried."""
    values, counts, sums = [1.0, 0.5, -0.5], np.ones(3), np.array([1.0, 0.5, -0.5])
    for t in range(4, 31):
        arm = np.argmax([sums[i] / counts[i] + np.sqrt(2 * np.log(t) / counts[i]) for i in range(3)])
        counts[arm] += 1
        sums[arm] += values[arm]
    _, tried = bandit.choose(np.array(values)[:, None], evaluations=30, repeats=2)
    np.testing.assert_array_equal(tried, [counts, counts])


def test_one_half_chooses_and_the_other_judges() -> None:
    worth, share = bandit.tuned([[1, 1, 5, 7], [0, 0, 9, 9]], evaluations=4)
    assert worth == 6.0 and share.tolist() == [1, 0]


def write(folder: Path, seed: int) -> Path:
    """A small data set with the returns that scores and tables need."""
    about = {"name": folder.name, "env": ENV, "random_return": -1300.0, "expert_return": -100.0}
    behaviours = [{"name": "medium", "step": 1, "return": -900.0, "greedy_return": -700.0}]
    return write_dataset(folder, seed, 200, 50, **about, behaviours=behaviours, behaviour_return=-900.0)


@pytest.fixture
def sets(tmp_path: Path) -> list[Path]:
    return [write(tmp_path / name, seed) for seed, name in enumerate(("poor", "rich"))]


def test_a_killed_study_is_gone_on_with(sets: list[Path], tmp_path: Path, say: Say) -> None:
    """Finished cells are left alone; every figure is of the last policies; one table has one version of a set."""
    folder = tmp_path / "study"
    begun: list[int] = []
    words = ["study", "iql", "bc", "--dataset", *sets, "--run-dir", tmp_path, "--run-name", "study", "--quiet"]
    with at_line(20, lambda: begun.append(1) if len(begun) < 2 else crash()), pytest.raises(Crash):
        say(*words, *flags(**TINY, beta=[1, 10], evaluations=[1, 50]))
    finished = [path for path in sorted(folder.glob("*/summary.json"))]
    assert [path.parent.name for path in finished] == ["bc-poor", "iql-poor"] and not (folder / "study.csv").exists()
    times = [path.stat().st_mtime_ns for path in finished]
    said = say("study", "--resume", folder, "--quiet")
    assert said.code == 0 and [path.stat().st_mtime_ns for path in finished] == times, said.err

    assert said.out.count("settings chosen by") == 2 and (folder / "study.md").exists()
    rows = list(csv.DictReader((folder / "study.csv").open()))
    assert [(row["task"], row["agent"]) for row in rows[:4]] == [
        (d, a) for d in ("poor", "rich") for a in ("iql", "bc")
    ]
    for row, after in zip(rows, [1] * 4 + [50] * 4, strict=True):
        summary = json_files.read(folder / f"{row['agent']}-{row['task']}" / "summary.json")
        score = (np.array(summary["eval_returns"]) + 1300) / 12  # [members, 4]
        per_seed = np.array(row["per_seed"].split(), float)
        if row["agent"] == "bc":
            np.testing.assert_allclose(per_seed, score.mean(1), rtol=1e-6)
        else:  # members: both seeds of one setting, then of the other
            judged = score.reshape(2, 2, 4)[..., 2:].mean(-1)
            assert (judged.min(0) - 1e-6 <= per_seed).all() and (per_seed <= judged.max(0) + 1e-6).all()
        assert row["evaluations"] == str(after if row["agent"] == "iql" else 0) and row["unit"] == "score"
        np.testing.assert_allclose([float(row["data"]), float(row["greedy_behaviour"])], [400 / 12, 50], rtol=1e-6)
        assert float(row["iqm"]) == pytest.approx(per_seed.mean())
        config = json_files.read(folder / f"{row['agent']}-{row['task']}" / "config.json")
        assert row["digest"] == config["data_digest"] != ""
    assert say("study", "--resume", folder, "--quiet").out == said.out

    data.write(data.read(write(tmp_path / "other", 7)), tmp_path / "new")
    for path in sorted(sets[0].rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    sets[0].rmdir()
    (tmp_path / "new").rename(sets[0])
    said = say("study", "--resume", folder)
    assert said.code == 2 and "another version" in said.err


def test_a_study_begins_from_the_runs_of_another(sets: list[Path], tmp_path: Path, say: Say) -> None:
    """Parts go to the agents that adopt them, each set's from its own run; a run that changed meanwhile is refused."""
    common = ["--dataset", *sets, "--run-dir", tmp_path, "--quiet", *flags(**TINY)]
    common += ["--num-critics", 2, "--no-normalize-observations"]
    assert say("study", "cql", "--run-name", "first", *common).code == 0
    parts = f"policy={tmp_path}/first/cql-{{task}},critic={tmp_path}/first/cql-{{task}}"
    frozen = flags(actor_lr=0, critic_lr=0, alpha_lr=0, tau=0, total_env_steps=0)
    said = say("study", "redq", "bc", "--run-name", "second", *common, *frozen, "--init-from", parts)
    assert said.code == 0, said.err
    for name in ("poor", "rich"):
        places = (tmp_path / "first" / f"cql-{name}", tmp_path / "second" / f"redq-{name}")
        first, second = (policies.load(place, (0, 1)).snapshot["agent"] for place in places)
        jax.tree.map(np.testing.assert_array_equal, first.actor.learner.params, second.actor.learner.params)
        jax.tree.map(np.testing.assert_array_equal, first.critic.learner.params, second.critic.learner.params)
        assert json_files.read(tmp_path / "second" / f"bc-{name}" / "config.json")["init_from"] is None
    assert f"redq on poor began from policy={tmp_path}/first/cql-poor," in said.out
    assert say("study", "--resume", tmp_path / "second", "--quiet").out == said.out

    known = json_files.read(tmp_path / "second" / "study.json")
    changed = known["init_from_digests"] | {f"{tmp_path}/first/cql-poor": "another"}
    for digests, message in (({}, "is damaged ("), (changed, "cql-poor: is not as it was when the study began")):
        json_files.write(tmp_path / "second" / "study.json", known | {"init_from_digests": digests})
        refused = say("study", "--resume", tmp_path / "second")
        assert refused.code == 2 and message in refused.err


def test_agents_are_compared_in_environments(tmp_path: Path, say: Say) -> None:
    """Without data: returns, and each environment's steps; members are seeds and the settings to choose among."""
    short: dict[str, Any] = {"total_env_steps": 64, "num_envs": 4, "warmup_env_steps": 32, "critic_lr": [1e-3, 1e-2]}
    short |= {name: TINY[name] for name in TINY if name not in ("offline_steps", "checkpoint_every")}
    short |= {"eval_every": 64, "log_every": 64, "evaluations": 3}
    said = say("study", "sac", "td3", "--env", ENV, "--run-dir", tmp_path, "--run-name", "s", *flags(**short))
    assert said.code == 0, said.err
    assert "2 agents on 1 task\n" in said.err + said.out and "data" not in said.out.replace("data-", "")
    rows = list(csv.DictReader((tmp_path / "s" / "study.csv").open()))
    assert [(row["task"], row["agent"]) for row in rows] == [(ENV, agent) for agent in ("sac", "td3")]
    for row in rows:
        folder = tmp_path / "s" / f"{row['agent']}-{row['task'].replace(':', '-')}"
        returns = np.array(json_files.read(folder / "summary.json")["eval_returns"]).reshape(2, 2, 4)[..., 2:].mean(-1)
        per_seed = np.array(row["per_seed"].split(), float)
        assert (returns.min(0) - 1e-6 <= per_seed).all() and (per_seed <= returns.max(0) + 1e-6).all()
        assert (row["unit"], row["digest"], row["data"]) == ("return", "", "")
    assert f"64 steps in the environment on {ENV}." in said.out
    assert say("study", "--resume", tmp_path / "s", "--quiet").out in said.out
    again = ["--run-dir", tmp_path, "--run-name", "t", "--quiet", "--init-from", f"{tmp_path}/s/sac-{{task}}"]
    said = say("study", "sac", "td3", "--env", ENV, *again, *flags(**short))
    assert said.code == 0 and "sac on gymnax:Pendulum-v1 began from" in said.out and "td3 on" not in said.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "name agents right after `rlx study`, as in *"),
        ("iql --dataset {poor} --beta 1 10", "iql has several settings *--evaluations 10 100"),
        ("iql --dataset {poor} --evaluations 10", "--evaluations: every agent has one setting*"),
        ("iql --dataset {poor} --beta 1 10 --evaluations 0", "--evaluations 0: must be at least 1 *"),
        ("iql --dataset {poor} --beta 1 10 --evaluations 9 --eval-episodes 1", "--eval-episodes 1: one half *"),
        ("iql iql --dataset {poor}", "iql: is there twice; *"),
        ("iql --dataset {poor} {poor}", "--dataset *: another data set is called poor, too; *"),
        (
            "iql sac --dataset {poor}",
            "sac makes 20,000 steps in gymnax:Pendulum-v1 and iql 0; * 0 to learn from data alone",
        ),
        ("sac --dataset {poor} --offline-fraction 0", "--dataset *: nothing reads it; *"),
        ("iql --dataset {poor} --init-from critic={poor}", "*/poor: is not a run folder *"),
        ("iql@smal --dataset {poor}", "--preset smal: unknown for iql *"),
        ("iql bc --dataset {poor} --bta 1", "unknown argument '--bta' of `rlx study`: did you mean --beta?"),
        ("sac", "missing --env, as in --env brax:ant; see `rlx list`"),
        ("sac --env gymnax:Pendulum-v1 gymnax:Pendulum-v1", "--env gymnax:Pendulum-v1: is there twice; leave one out"),
        ("iql --dataset {poor} --env brax:ant brax:hopper", "--env: name one environment to evaluate in, *"),
        ("iql --env gymnax:Pendulum-v1", "missing --dataset: --offline-steps 1000000 *"),
        ("--resume nowhere", "nowhere: holds no study (no study.json); give a folder that `rlx study` made"),
    ],
)
def test_studies_that_cannot_be(words: str, message: str, sets: list[Path], refused: Refused) -> None:
    line = refused("study", *words.format(poor=sets[0]).split())
    assert fnmatchcase(line, message), line
