"""Data sets from a run: who acted in them, what their info says, and learning from one on the command line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from rlx import data, envs
from rlx.commands import main as cli
from rlx.data import Dataset
from rlx.errors import RlxError
from rlx.evaluate import evaluate
from rlx.runs import checkpoint, collect_dataset, saved_replay
from rlx.runs.behaviours import EXPLORING, Behaviour
from rlx.runs.collector import RANDOM
from rlx.runs.collectors import RunCollector
from rlx.types import Key
from tests import damage
from tests.collecting import ENV, LAST, STEPS, trained
from tests.commands import Capture, MonkeyPatch, Say
from tests.datasets import walk
from tests.saved_runs import make_run

pytestmark, ORBAX = pytest.mark.usefixtures("reuse_programs"), True


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of SAC."""
    return trained(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def collected(run: Path) -> Callable[..., Dataset]:
    """`collected(kind, size, seed)`: what `rlx collect` left on the disk; the same data set is made once."""
    made: dict[tuple[str, int, int], Dataset] = {}

    def collected(kind: str, size: int, seed: int = 0) -> Dataset:
        out = run.parent / f"{kind}-{size}-{seed}-v0"
        if (kind, size, seed) not in made:
            command = ["collect", run, "--kind", kind, "--num-transitions", size, "--seed", seed, "--out", out]
            assert cli.main([str(word) for word in command]) == 0
            made[kind, size, seed] = data.read(out)
        return made[kind, size, seed]

    return collected


ALL = [("random", 1100), ("medium", 501), ("expert", 2100), ("mixed", 501), ("replay", 501)]


def saved(folder: Path, step: int) -> dict[str, np.ndarray]:
    """The leaves of a checkpoint by their paths, read by Orbax alone."""
    import orbax.checkpoint as ocp

    with ocp.CheckpointManager(folder.resolve(), item_handlers=ocp.StandardCheckpointHandler()) as manager:
        return dict(manager.restore(step, args=ocp.args.StandardRestore()))


@pytest.mark.parametrize(("kind", "size"), ALL, ids=[kind for kind, _ in ALL])
def test_sizes_episodes_and_equations_of_motion(kind: str, size: int, collected: Callable[..., Dataset]) -> None:
    """Exactly as many as were asked for; each successor is the next observation, but where an episode ends.

    Action, reward and true successor belong together, also in last rows: the pendulum in NumPy.
    """
    dataset = collected(kind, size)
    rows = dataset.rows
    assert dataset.size == size
    inside = dataset.episode[1:] == dataset.episode[:-1]
    np.testing.assert_array_equal(rows.next_observation[:-1][inside], rows.observation[1:][inside])
    assert (rows.next_observation[:-1][~inside] != rows.observation[1:][~inside]).any(axis=1).all()
    assert not rows.terminated.any() and rows.truncated.sum() == dataset.episode[-1] + 1
    # few environments give complete episodes: 2100 transitions are those of two, and only the time limit cuts
    lengths = {"expert": [200] * 5 + [100] + [200] * 5, "medium": [200, 200, 101]}
    assert data.episode_lengths(dataset).tolist() == lengths.get(kind, data.episode_lengths(dataset).tolist())

    cosine, sine, speed = np.asarray(rows.observation, float).T
    angle, torque = np.arctan2(sine, cosine), 2 * rows.action[:, 0].astype(float)
    np.testing.assert_allclose(rows.reward, -(angle**2 + 0.1 * speed**2 + 0.001 * torque**2), rtol=1e-4, atol=1e-4)
    speed = np.clip(speed + (15 * sine + 3 * torque) * 0.05, -8, 8)
    angle = angle + 0.05 * speed
    expected = np.stack([np.cos(angle), np.sin(angle), speed], axis=1)
    np.testing.assert_allclose(rows.next_observation, expected, rtol=1e-4, atol=1e-4)


def test_the_same_seed_gives_the_same_bits(run: Path, collected: Callable[..., Dataset]) -> None:
    """Also where the run's own environment is named; the set says where it was collected."""
    first, second = collected("expert", 501), collected("expert", 501, seed=1)
    collect_dataset.make_dataset(run, "expert", 501, run.parent / "again-v0", env=ENV)
    again = data.read(run.parent / "again-v0")
    jax.tree.map(np.testing.assert_array_equal, again.rows, first.rows)
    assert again.info["env"] == ENV and again.info | {"name": first.name} == first.info
    assert second.info["seed"] == 1 and (second.rows.observation[0] != first.rows.observation[0]).any()
    assert (second.rows.action != first.rows.action).mean() > 0.99


def density(run: Path, step: int, observation: np.ndarray, action: np.ndarray) -> np.ndarray:
    """log pi(a|s) of a checkpoint's policy, `[n]`: network, normalisation and the squashed Gaussian in float64."""
    leaf = {name: np.asarray(x[0], float) for name, x in saved(run / "checkpoints", step).items()}
    scale = np.maximum(np.sqrt(leaf["['statistics'].variance"]), 1e-3)
    x = np.clip((observation - leaf["['statistics'].mean"]) / scale, -10, 10)
    name = "['agent'].actor.learner.params['params']['mlp']['Dense_{}']['{}']"
    x = np.maximum(x @ leaf[name.format(0, "kernel")] + leaf[name.format(0, "bias")], 0)
    mean, log_std = np.split(x @ leaf[name.format(1, "kernel")] + leaf[name.format(1, "bias")], 2, axis=1)
    u, log_std = np.arctanh(action.astype(float)), np.clip(log_std, -20, 2)
    normal = -0.5 * ((u - mean) / np.exp(log_std)) ** 2 - log_std - 0.5 * np.log(2 * np.pi)
    return (normal - np.log(1 - action.astype(float) ** 2)).sum(axis=1)


@pytest.mark.parametrize(("kind", "size"), ALL[1:4], ids=[kind for kind, _ in ALL[1:4]])
def test_log_prob_is_the_density_of_who_acted(kind: str, size: int, run: Path, collected: Any) -> None:
    dataset = collected(kind, size)
    rows, behaviours = dataset.rows, dataset.info["behaviours"]
    half = -(-size // len(behaviours))
    clear = np.abs(rows.action[:, 0]) < 0.999  # nearer to 1, float32 knows little of what was squashed
    assert clear.mean() > 0.5
    assert dataset.info["run"] == run.name
    for i, behaviour in enumerate(behaviours):
        assert behaviour["digest"] == checkpoint.manifest(run / "checkpoints", behaviour["step"])["digest"]
        at = (np.arange(size) // half == i) & clear
        expected = density(run, behaviour["step"], rows.observation[at], rows.action[at])
        np.testing.assert_allclose(rows.extras["log_prob"][at], expected, rtol=5e-3, atol=5e-3)


def test_evaluation_from_data_of_who_collected_it(collected: Callable[..., Dataset], run: Path, say: Say) -> None:
    """`rlx ope`: of the policy that collected all ratios are 1 but for rounding; an earlier one's are not."""
    assert data.episode_lengths(collected("expert", 2100)).tolist().count(200) == 10
    folder = run.parent / "expert-2100-0-v0"
    said = say(
        "ope",
        run,
        "--dataset",
        folder,
        "--steps",
        200,
        1000,
        "--updates",
        0,
        "--features",
        0,
        "--clusters",
        0,
        "--format",
        "csv",
    )
    assert said.code == 0 and "1 of 11 episodes were cut" in said.err, said.err
    rows = {tuple(line.split(",")[:2]): line.split(",")[2:] for line in said.out.splitlines()[1:]}
    assert {name for _, name in rows} == {"TIS", "SNTIS", "PDIS", "SNPDIS"}
    assert [float(rows["run@1000", name][3]) for _, name in rows] == pytest.approx([10] * len(rows), rel=1e-4)
    assert float(rows["run@200", "TIS"][3]) < 9.9 and "run@200: " in said.err


def test_random_actions_are_uniform(collected: Callable[..., Dataset]) -> None:
    dataset = collected("random", 1100)
    action = np.sort(dataset.rows.action[:, 0])
    steps = np.linspace(-1, 1, len(action))
    assert -1 <= action[0] and action[-1] <= 1
    assert np.abs(action - steps).max() < 2 * 1.63 / np.sqrt(len(action))  # Kolmogorov-Smirnov at 1 %, on [-1, 1]
    np.testing.assert_allclose(dataset.rows.extras["log_prob"], -np.log(2), rtol=1e-6)
    assert [b["step"] for b in dataset.info["behaviours"]] == [None]

    def act(observation: jax.Array, key: Key) -> jax.Array:
        return 2 * jax.random.uniform(key, (len(observation), 1)) - 1

    returns = jax.jit(lambda: evaluate(envs.make(ENV), act, 64, jax.random.key(1_000_003)).returns)()
    assert dataset.info["random_return"] == pytest.approx(float(returns.mean()), rel=2e-3)
    assert dataset.info["behaviour_return"] == dataset.info["behaviours"][0]["return"] == dataset.info["random_return"]


def test_mixed_is_half_medium_and_half_expert(collected: Callable[..., Dataset]) -> None:
    mixed, medium, expert = collected("mixed", 501), collected("medium", 501), collected("expert", 501)
    for got, first, last in zip(*(jax.tree.leaves(each.rows) for each in (mixed, medium, expert)), strict=True):
        if got.dtype != bool:  # the two parts are the beginnings of the two sets, which are cut elsewhere
            np.testing.assert_array_equal(got[:251], first[:251])
            np.testing.assert_array_equal(got[251:], last[:250])
    assert mixed.rows.truncated[250]
    behaviours = medium.info["behaviours"] + expert.info["behaviours"]
    assert mixed.info["behaviours"] == [behaviour | {"share": 0.5} for behaviour in behaviours]
    assert mixed.info["behaviour_return"] == pytest.approx(np.mean([b["return"] for b in behaviours]))


def test_medium_is_nearest_to_a_third_of_the_way(run: Path, tmp_path: Path, collected: Callable[..., Dataset]) -> None:
    """Of the run as it was, and of returns written into its metrics; lines without a checkpoint do not count."""

    def pick(returns: list[float]) -> int:
        goal = random + (returns[-1] - random) / 3
        return STEPS[int(np.argmin([abs(value - goal) for value in returns]))]

    lines = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    returns = [line["eval/return_per_seed"][0] for line in lines if line["run_step"] in STEPS]
    random = collected("random", 1100).info["random_return"]
    assert collected("medium", 501).info["behaviours"][0]["step"] == pick(returns)
    written = [random + more for more in (-40, 10, 290, 80, 300)]
    assert pick(written) == 800
    folder = shutil.copytree(run, tmp_path / "run")
    with (folder / "metrics.jsonl").open("w") as file:
        for step, value in [*zip(STEPS, written, strict=True), (1300, random + 100)]:
            file.write(json.dumps({"run_step": step, "eval/return_per_seed": [value]}) + "\n")
    collector = RunCollector(folder, 501, 0, EXPLORING)
    assert collector.choose(["medium"], None) == [Behaviour("medium", 800)]
    assert collector.choose(["medium", "expert"], 400)[0] == Behaviour("medium", 400)
    assert collector.choose(["expert"], None) == [Behaviour("expert", 1000)]
    assert collector.choose(["expert"], 600) == [Behaviour("expert", 600)]


def test_medium_passes_over_evaluations_without_a_return(run: Path, tmp_path: Path) -> None:
    """As a run has them in which every episode diverged; the last finite one is the goal then."""
    folder = shutil.copytree(run, tmp_path / "run")
    source = RunCollector(folder, 501, 0, EXPLORING)
    random = source.mean_return(RANDOM)

    def choose(*returns: float | None) -> int | None:
        lines = [{"run_step": step, "eval/return_per_seed": [x]} for step, x in zip(STEPS, returns, strict=True)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return source.choose(["medium"], None)[0].step

    assert choose(None, random + 30, None, random + 90, None) == 400
    assert choose(random + 120, None, None, None, random + 300) == 200
    with pytest.raises(RlxError, match="no evaluation with a finite return; choose a policy by --step"):
        choose(None, None, None, None, None)


@pytest.mark.parametrize("recorded", [True, False, None])
def test_other_widths_of_numbers_are_said(recorded: bool | None, run: Path, tmp_path: Path, capsys: Capture) -> None:
    """Where a policy that was trained with JAX_ENABLE_X64 is read without; an older run recorded neither."""
    folder = shutil.copytree(run, tmp_path / "run")
    damage.edit_json(folder / "config.json", numerics=None if recorded is None else {"jax_enable_x64": recorded})
    capsys.readouterr()
    assert RunCollector(folder, 501, 0, EXPLORING).snapshot(LAST) is not None
    said = capsys.readouterr().err
    assert ("was trained with JAX_ENABLE_X64=1 and is evaluated with JAX_ENABLE_X64=0" in said) == bool(recorded)
    assert said.count("\n") == bool(recorded)


def test_equal_halves_are_refused_and_large_steps_have_keys_of_their_own(run: Path, monkeypatch: MonkeyPatch) -> None:
    """The medium policy is the last one in a run that was evaluated once; steps may take more than 32 bits."""
    source = RunCollector(run, 501, 0, EXPLORING)
    source.policies = source.policies[-1:]
    with pytest.raises(RlxError, match="two parts would be the same"):
        source.choose(["medium", "expert"], None)
    assert source.choose(["medium"], None)[0].step == STEPS[-1]
    policy = source.snapshot(LAST)
    monkeypatch.setattr(source, "snapshot", lambda behaviour: policy)
    sets = [source.collect(Behaviour("expert", step), 20) for step in (5, 2**32 + 5, 2**33 + 5)]
    assert len({dataset.rows.action.tobytes() for dataset in sets}) == 3


def test_shares_are_cut_from_whole_sets(run: Path, collected: Callable[..., Dataset], tmp_path: Path) -> None:
    """The first rows of each behaviour's own set, in the order of the kind."""
    out = tmp_path / "set-v0"
    assert cli.main(f"collect {run} --kind random=0.8,expert=0.2 --num-transitions 1000 --out {out}".split()) == 0
    dataset, random, expert = data.read(out), collected("random", 1100), collected("expert", 501)
    np.testing.assert_array_equal(dataset.rows.reward[:200], random.rows.reward[:200])
    np.testing.assert_array_equal(dataset.rows.reward[800:], expert.rows.reward[:200])
    shares = [(b["name"], b["share"]) for b in dataset.info["behaviours"]]
    assert shares == [("random", 0.8), ("expert", 0.2)]
    of_both = 0.8 * random.info["behaviour_return"] + 0.2 * expert.info["behaviour_return"]
    assert dataset.info["behaviour_return"] == pytest.approx(of_both)
    assert dataset.info["kind"] == "random=0.8,expert=0.2"


def test_replay_is_what_the_run_kept(run: Path, collected: Callable[..., Dataset], tmp_path: Path, say: Say) -> None:
    """The newest rows of each environment from old to new, one environment after the other; all if more are asked."""
    leaves = saved(run / "resume", 1000)
    ring = {name.split(".")[-1]: x for name, x in leaves.items() if name.startswith("['state'].replay.rows.")}
    assert len(ring) == 6
    assert (int(leaves["['state'].replay.cursor.head"]), int(leaves["['state'].replay.cursor.size"])) == (100, 150)
    said = say("collect", run, "--kind", "replay", "--out", tmp_path / "set")
    assert said.code == 0 and f"set ({tmp_path / 'set'}): 600 transitions" in said.out
    for dataset, steps in ((collected("replay", 501), 126), (data.read(tmp_path / "set"), 150)):
        for name, kept in ring.items():
            newest = np.roll(kept[0, 0], -100, axis=0).swapaxes(0, 1)[:, -steps:]  # [E, T, ...]
            expected = newest.reshape(-1, *newest.shape[2:])[: dataset.size].copy()
            if name == "truncated":
                expected[[*range(steps - 1, dataset.size, steps), -1]] = True
            np.testing.assert_array_equal(getattr(dataset.rows, name), expected)
        cut = 4 * steps - dataset.size  # the 200th step ends an episode
        assert data.episode_lengths(dataset).tolist() == [steps - 50, 50] * 3 + [steps - 50, 50 - cut]
        assert dataset.info["behaviours"] == [] and dataset.info["behaviour_return"] is None


def test_the_replays_return_is_of_whole_episodes() -> None:
    """Pieces that begin or end where a stretch of rows does are left out."""
    dataset = walk([3, 4, 3, 5, 2, 3, 1, 6, 2])  # stretches of ten rows
    returns = data.episode_returns(dataset)
    assert saved_replay._return_of_complete(dataset, 10) == pytest.approx(returns[[1, 4, 7]].mean())
    assert saved_replay._return_of_complete(walk([10, 10, 9]), 10) is None


def test_expert_return_is_what_eval_gives(run: Path, collected: Callable[..., Dataset], say: Say) -> None:
    info = collected("expert", 2100).info
    said = say("eval", run, "--episodes", 64)
    assert float(said.out.split("return ")[1].split()[0]) == pytest.approx(info["expert_return"], rel=2e-3)
    assert info["behaviours"][0]["greedy_return"] == info["expert_return"] != info["behaviours"][0]["return"]
    for kind, size in ALL:
        other = collected(kind, size).info
        same = ("random_return", "expert_return", "env", "agent", "episode_length")
        assert [other[name] for name in same] == [info[name] for name in same]
        assert (other["kind"], other["env"], other["episode_length"]) == (kind, ENV, 200)


def test_a_doubt_is_said_once_and_kept(run: Path, tmp_path: Path, say: Say) -> None:
    """Under the description, which gives the data's return and a random policy's, and in the set."""
    options = ["--num-transitions", 501, "--out", tmp_path / "set", "--kind", "medium", "--step", 200]
    said = say("collect", run, *options)
    kept = data.read(tmp_path / "set").info
    assert said.code == 0 and f"random_return {kept['random_return']:.1f}" in said.out
    assert not [line for line in said.out.splitlines() if line.strip() in ("env_params", "backend None")]
    assert f"behaviour_return {kept['behaviours'][0]['return']:.1f}" in said.out
    (note,) = kept["notes"]
    assert said.err.splitlines()[-1] == f"rlx: {note}" and note not in said.out
    assert f"{kept['random_return']:.1f}" in note and f"{kept['expert_return']:.1f}" in note


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("run --kind exprt", "--kind exprt: unknown; did you mean expert?"),
        ("run --num-transitions 0", "--num-transitions 0: must be at least 1"),
        ("run --num-transitions 1e12", " GiB of memory but "),
        ("run --num-transitions 1e99", "must be at least 1 and at most 1,000,000,000,000"),
        (
            "run --out bare/config.json/set",
            "bare/config.json/set: cannot be written (Not a directory); choose another --out",
        ),
        ("run --out /proc/set", "/proc/set: cannot be written (No such file or directory); choose another --out"),
        ("offline --kind replay", "offline: learned from data alone, so there is no replay; choose another --kind"),
        ("run --seed -1", "--seed -1: must be at least 0 and under 2^32"),
        ("run --num-transitions few", "--num-transitions few: must be an integer"),
        ("run --step 5", "has no step 5; it has 200, 400, 600, 800, 1000"),
        ("run --step 0", "has no step 0; it has 200, "),
        ("run --kind random --step 200", "--step 200: goes with --kind medium, expert or mixed"),
        ("run --kind replay --step 200", "--step 200: goes with --kind medium, expert or mixed"),
        ("run --kind random=1 --step 200 --num-transitions 9", "--step 200: goes with --kind medium, expert or mixed"),
        ("run --kind random=1 --noise 0.1 --num-transitions 9", "--greedy, --noise: say how policies act"),
        (
            "discrete --noise 0.1 --num-transitions 9",
            "--noise 0.1: is of continuous actions, and those here are discrete; leave it out",
        ),
        ("run --out bare", "bare: already exists; choose another --out"),
        ("run --env gymnax:MountainCarContinuous-v0", "the environment's sizes are not those of the run's"),
        (f"run --kind replay --env {ENV}", "--env, --backend, --env-args: replay is of the run's own environment"),
        ("run --steps 5", "unknown argument '--steps' of `rlx collect`: did you mean --num-transitions?"),
        ("nowhere", "does not exist"),
        ("bare", "bare: holds no policy; train the run first"),
        ("policies --kind replay", "policies: holds no replay of the fused driver"),
    ],
)
def test_refusals(arguments: str, words: str, run: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    for folder in ("bare", "policies"):
        (tmp_path / folder).mkdir()
        shutil.copy(run / "config.json", tmp_path / folder)
    shutil.copytree(run / "checkpoints", tmp_path / "policies" / "checkpoints")
    shutil.copytree(tmp_path / "policies", tmp_path / "offline")
    damage.edit_json(tmp_path / "offline" / "config.json", settings={"total_env_steps": 0, "offline_steps": 10})
    (tmp_path / "run").symlink_to(run)
    if arguments.startswith("discrete"):
        make_run(tmp_path / "discrete", "dqn", "gymnax:CartPole-v1", critic_hidden_sizes=[8])
    folder, *rest = arguments.split()
    assert words in refused("collect", folder, *rest, *([] if "--out" in rest else ["--out", "set"]))


def test_cloning_from_the_command_line(collected: Callable[..., Dataset], run: Path, say: Say) -> None:
    """The environment is the data set's own; the summary gives scores by its references, and of who collected it."""
    made = collected("mixed", 501)
    known = made.info | {"expert_return": made.info["random_return"] + 100.0}  # a policy after 600 steps is no expert
    data.write(made._replace(info=known), run.parent / "scored-v0")
    command = ["train", "bc", "--dataset", run.parent / "scored-v0", "--offline-steps", 20, "--num-seeds", 2]
    small = ["--eval-episodes", 4, "--eval-every", 20, "--actor-hidden-sizes", 8, "--batch-size", 8]
    said = say(*command, *small, "--run-dir", run.parent, "--run-name", "clone")
    assert said.code == 0 and "normalised score" in said.out
    summary = json.loads((run.parent / "clone" / "summary.json").read_text())
    assert (summary["env"], summary["env_steps"], summary["critic_steps"]) == (ENV, 0, 20)

    def score(value: float) -> Any:
        return pytest.approx(100 * (value - known["random_return"]) / 100, rel=1e-4)

    best = max(behaviour["greedy_return"] for behaviour in known["behaviours"])
    low, high = summary["eval_return_interval"]
    assert low < summary["eval_return_mean"] < high
    assert summary["behaviour_return"] == known["behaviour_return"] and summary["behaviour_greedy_return"] == best
    for name, value in (
        ("eval_score_mean", summary["eval_return_mean"]),
        ("behaviour_score", known["behaviour_return"]),
        ("behaviour_greedy_score", best),
    ):
        assert summary[name] == score(value)
    assert sorted(summary["eval_score_interval"]) == [score(low), score(high)]
    again = say("eval", run.parent / "clone")
    assert again.code == 0 and f"that collected the data returned {known['behaviour_return']:.1f}, the" in again.out
