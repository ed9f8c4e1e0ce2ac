"""The command line as a user meets it, and what a run folder holds and is good for. (Mistakes: test_messages.py.)"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import rlx
from rlx import agents, config
from rlx.analysis.diff import numbers
from rlx.commands import main as cli
from rlx.commands.arguments import Parser
from rlx.errors import RlxError
from rlx.runs import checkpoint, metrics
from rlx.runs.console import Console
from tests import damage, processes
from tests.commands import Refused, Said, flags

pytestmark = pytest.mark.usefixtures("reuse_programs")

ROOT = Path(__file__).resolve().parents[1]
ENV = "gymnax:Pendulum-v1"
SETTINGS: dict[str, Any] = {"num_seeds": 2, "num_envs": 4, "total_env_steps": 600, "warmup_env_steps": 100}
SETTINGS |= {"log_every": 100, "eval_every": 300, "eval_episodes": 4, "ratio": "2:1", "batch_size": 8, "n_step": 1}
SETTINGS |= {"replay_capacity": 400, "pool_size": 4, "actor_hidden_sizes": [8], "critic_hidden_sizes": [8]}
SETTINGS |= {"actor_lr": 1e-3, "critic_lr": 1e-3, "alpha_lr": 1e-3, "tau": 0.01}


@pytest.mark.slow
@pytest.mark.parametrize("command", ["list", "--help", "train sac --help", "runs {run}"])
def test_a_reader_that_leaves_is_no_error(command: str, run: Path) -> None:
    """As `head` does; and a full disk is one line."""
    arguments = [sys.executable, "-m", "rlx", *command.format(run=run.parent).split()]
    pipe = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert pipe.stdout is not None and pipe.stderr is not None
    pipe.stdout.close()
    assert pipe.stderr.read() == "" and pipe.wait(120) in (0, 141)
    with open("/dev/full", "w") as full:
        done = subprocess.run(arguments, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (2, "rlx: the output: No space left on device; make room\n")


@pytest.mark.parametrize("command", [["scripts/train.py", "sca", "--env", ENV], ["-m", "rlx", "eval", "/nowhere"]])
def test_a_mistake_in_a_process_of_its_own(command: list[str]) -> None:
    done = processes.python(*command)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("rlx: ") and done.stderr.count("\n") == 1
    assert ("unknown agent 'sca'" in done.stderr) == (command[0] == "scripts/train.py")


def test_help_shows_every_setting(say: Callable[..., Said], capsys: pytest.CaptureFixture[str]) -> None:
    """`--resume` has no run here, which would otherwise be an error that names this very help."""

    def help(command: str) -> str:
        with pytest.raises(SystemExit) as exit:
            cli.main([*command.split(), "--help"])
        assert exit.value.code == 0
        return " ".join(capsys.readouterr().out.split())

    text = help("train sac")
    for name, setting in config.settings("sac").items():
        flag = f"--{name.replace('_', '-')}"
        assert flag in text and setting.help in text, flag
    assert "minibatch (default: 256)" in text and "(default: 256 256)" in text
    assert "rlx sweep --resume" in help("sweep --resume")
    text = help("train --resume")  # without flags a run keeps its own
    assert "rlx train --resume" in text and "--total-env-steps INT" in text and "the run's own" in text
    assert "(default: 1000000)" not in text
    assert say("train", "--help").code == 0 and (shown := say("--help")).code == 0
    assert all(line.endswith((".", "`")) for line in shown.out.splitlines()[3:]), "whole sentences"
    assert say("--version").out == f"rlx {rlx.__version__}\n"


def test_negative_values_are_no_flags_and_counts_are_whole_numbers() -> None:
    parser = Parser(prog="rlx play")
    parser.add_argument("--target", nargs="+")
    for name in ("--seed", "--episodes", "--step"):
        parser.add_argument(name, type=int)
    parser.add_argument("--member", type=int, nargs="+")
    for value in ("-1e-1", "-.5", "-2:-0.5"):
        parsed = parser.parse(["--target", value, "-0.5", "--seed", "1", "--episodes", "1e3", "--member", "0", "2.0"])
        assert (parsed.target, parsed.seed, parsed.member, parsed.step) == ([value, "-0.5"], 1, [0, 2], None)
        assert parsed.episodes == 1000 and type(parsed.episodes) is int


def test_list(say: Callable[..., Said]) -> None:
    said = say("list")
    assert (said.code, said.err) == (0, "")
    words = said.out.split()
    for word in (*agents.REGISTRY, "brax:ant", ENV):
        assert word in words
    for word in ("generalized", *agents.tuned_settings("sac"), *agents.STARTS):
        assert word in said.out


def test_where_to_start_names_agents_and_is_what_the_page_says() -> None:
    page = (ROOT / "docs" / "agents" / "index.md").read_text().split("## Where to start")[1].split("\n## ")[0]
    for task, names in agents.STARTS.items():
        (row,) = (line for line in page.splitlines() if line.startswith(f"| {task} |"))
        assert all(name in agents.REGISTRY and f"`{name}`" in row for name in names)


@pytest.fixture(scope="module")
def said() -> list[str | int]:
    """What the run was at, and its lines of metrics."""
    return []


@pytest.fixture(scope="module")
def run(said: list[str | int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of two seeds."""

    def noting(method: Callable[..., None], note: Callable[[Any], str | int]) -> Callable[..., None]:
        def noted(console: Console, about: Any) -> None:
            said.append(note(about))
            method(console, about)

        return noted

    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Console, "begin", noting(Console.begin, str))
        patch.setattr(Console, "show", noting(Console.show, lambda line: line["run_step"]))
        where = ["--run-dir", str(root), "--run-name", "first"]
        assert cli.main(["train", "sac", "--env", ENV, *where, *flags(**SETTINGS)]) == 0
    return root / "first"


def test_a_run_says_what_it_is_at(run: Path, said: list[str | int]) -> None:
    """From its first moment to its last, with the lines of metrics between."""
    parts = [("compiling", "warming up", 100), ("training", 104), ("training", 200), ("training", "evaluating", 300)]
    parts += [("saving", "training", 400), ("training", 500), ("training", "evaluating", 600), ("saving", "saving")]
    assert said == [*chain(*parts), "done"]


def read(path: Path) -> dict[str, Any]:
    """A JSON file in which every number is finite."""
    return json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(f"{path} holds {word}"))


def saved(run: Path, step: int | None = None) -> dict[str, np.ndarray]:
    """What a run's checkpoint holds, by path."""
    return damage.leaves(run / "checkpoints", step)


def test_run_folder(run: Path) -> None:
    written = {"config.json", "status.json", "metrics.jsonl", "summary.json", "curve.png", "rollout.html"}
    assert {path.name for path in run.iterdir()} == written | {"checkpoints", "resume", "lock"}
    assert (run / "curve.png").read_bytes().startswith(b"\x89PNG")
    page = (run / "rollout.html").read_text()
    assert "episode" in page and "http://" not in page and "https://" not in page
    assert checkpoint.steps(run / "checkpoints") == checkpoint.steps(run / "resume") == [300, 600]


def test_config_json(run: Path) -> None:
    """Enough to run it again, and where it was run."""
    content, decided = read(run / "config.json"), {"num_shards": 1, "members": "threads"}
    assert config.from_json(run / "config.json") == config.resolve("sac", ENV, **decided, **SETTINGS)
    assert {"jax", "flax", "brax", "python"} <= set(content["versions"])
    assert len(content["versions"].get("commit", "0" * 40).removesuffix("-dirty")) == 40
    assert content["hardware"]["platform"] == jax.devices()[0].platform


def test_metrics(run: Path) -> None:
    lines = metrics.read(run / "metrics.jsonl")
    # 25 iterations of warm-up, then 2 critic and 1 actor updates an iteration of 4 steps
    wanted = [(step, (step // 4 - 25) * 2, step // 4 - 25) for step in (100, 104, 200, 300, 400, 500, 600)]
    assert [(line["env_step"], line["critic_step"], line["actor_step"]) for line in lines] == wanted
    for line in lines:
        assert line["wall_time_s"] > 0 and line["train_s"] > 0
        assert line["evaluate_s"] > 0 or "eval/return_mean" not in line
        assert ("eval/return_mean" in line) == (line["env_step"] in (300, 600))
    last = lines[-1]
    assert lines[0]["compile_s"] > 0 and [line["compile_s"] for line in lines[1:3]] == [0, 0]
    assert sum(line[f"{what}_s"] for line in lines for what in ("compile", "train", "evaluate")) < last["wall_time_s"]
    assert last["eval/return_mean"] == pytest.approx(np.mean(last["eval/return_per_seed"]))
    assert last["eval/length_mean"] == 200
    for name in ("train/critic_loss", "train/alpha", "eval/return_per_seed"):
        assert len(last[name]) == 2 and last[name][0] != last[name][1]


def test_summary(run: Path) -> None:
    content, last = read(run / "summary.json"), metrics.read(run / "metrics.jsonl")[-1]
    assert (content["agent"], content["env"]) == ("sac", ENV)
    assert (content["env_steps"], content["critic_steps"], content["actor_steps"]) == (600, 250, 125)
    assert content["eval_return_per_seed"] == pytest.approx(last["eval/return_per_seed"])
    assert content["eval_return_mean"] == pytest.approx(last["eval/return_mean"])
    assert [member["seed"] for member in content["members"]] == [0, 1]
    assert content["compile_s"] > 0 and content["env_steps_per_s"] > 0 and content["updates_per_s"] > 0
    assert 0 < content["time_to_first_update_s"] <= last["wall_time_s"] <= content["wall_time_s"]
    assert content["device"]["platform"] == jax.devices()[0].platform


def test_eval_judges_on_the_same_starts(run: Path, say: Callable[..., Said]) -> None:
    """Without other wishes it finds the very returns of training, of the last checkpoint or another."""
    lines = {line["env_step"]: line for line in metrics.read(run / "metrics.jsonl")}
    for step, options in ((600, []), (300, ["--step", "300"])):
        said = say("eval", run, *options)
        mean, seeds = lines[step]["eval/return_mean"], lines[step]["eval/return_per_seed"]
        first, middle, last = said.out.splitlines()
        assert said.code == 0 and first == f"sac on {ENV}: 4 greedy episodes of each of 2 members"
        assert middle.startswith(f"  return {mean:.1f} (95 % interval over seeds and episodes ")
        assert last == f"  per member {', '.join(f'{value:.1f}' for value in seeds)}; mean length 200"
    said = say("eval", run, "--episodes", 7, "--eval-seed", 5)
    assert said.code == 0 and ": 7 greedy episodes of each" in said.out and f"return {mean:.1f}" not in said.out
    assert said.err.startswith(f"evaluating 7 episodes of each of 2 members of {run} (compiling takes ")
    assert said.err.count("\n") == 1
    for words in ("--episodes 0: must be at least 1", "--eval-seed -1: must be at least 0", "--step 5: has no step 5"):
        said = say("eval", run, *words.partition(":")[0].split())
        assert said.code == 2 and words.removeprefix("--step 5: ") in said.err


def train(run: Path, name: str, *more: str, **changes: Any) -> list[str]:
    """The command that trains next to `run`, into the folder `name`."""
    where = ["--run-dir", str(run.parent), "--run-name", name]
    return ["train", "sac", "--env", ENV, "--quiet", *where, *more, *flags(**SETTINGS | changes)]


def test_init_from(run: Path, say: Callable[..., Said]) -> None:
    """Starts from the other run's agent and statistics, under its own hyper-parameters: at rates of 0 nothing changes.

    Quiet, it prints its summary only; and --overwrite puts it in place of an older run.
    """
    older = shutil.copytree(run, run.parent / "older")
    (older / "left-over").touch()
    standing = {name: 0.0 for name in ("actor_lr", "critic_lr", "alpha_lr", "tau")}
    said = say(*train(run, "older", "--init-from", str(run), "--overwrite", **standing))
    assert said.code == 0 and "compiling" not in said.out and "greedy episodes" in said.out
    assert not (older / "left-over").exists() and read(older / "config.json")["settings"]["tau"] == [0.0]
    first, second = saved(run), saved(older)
    assert first.keys() == second.keys()
    for name, value in first.items():
        if ".params" in name or ".target_params" in name:
            np.testing.assert_array_equal(value, second[name], err_msg=name)
    for name, before, after in (
        ("['statistics'].count", 600, 1200),
        ("['agent'].critic.step", 250, 500),
        ("['agent'].critic.hypers.critic_lr", np.float32(1e-3), 0),
    ):
        assert (first[name] == before).all() and (second[name] == after).all(), name


OTHER_NETWORKS = "/checkpoints/600: ['agent'].critic", "the run has another agent or networks"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"critic_hidden_sizes": [16]}, OTHER_NETWORKS),
        ({"num_critics": 3}, OTHER_NETWORKS),
        ({"num_seeds": 3}, ["/first: holds 2 members but 3 are to start"]),
    ],
)
def test_init_from_what_does_not_fit(changes: dict[str, Any], words: Any, run: Path, refused: Refused) -> None:
    line = refused(*train(run, "other", "--init-from", str(run), **changes))
    assert all(word in line for word in words)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("policy=", "give a run, or of each part its name and run, as in policy=RUN"),
        ("=runs", "give a run, or of each part its name and run"),
        ("policy=a,", "give a run, or of each part its name and run"),
        ("policy=a,policy=b", "names policy twice; give each part once"),
    ],
)
def test_init_from_that_names_no_parts(named: str, message: str, run: Path, refused: Refused) -> None:
    assert message in refused(*train(run, "other", "--init-from", named))


def test_fit_is_the_same_run(run: Path) -> None:
    """In a notebook: the same configuration gives the same metrics, and a policy to act with."""
    seen: list[dict[str, Any]] = []
    result = rlx.fit("sac", ENV, callbacks=lambda metrics, state: seen.append(metrics), **SETTINGS)
    lines = metrics.read(run / "metrics.jsonl")
    assert result.metrics == seen and result.config == config.from_json(run / "config.json")
    assert [numbers(line) for line in seen] == [numbers(line) for line in lines]
    assert result.evaluation.returns.shape == (2, 4)
    observation = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, -3.0]])
    action = result.act(observation, member=1)
    assert action.shape == (2, 1) and (np.abs(action) <= 1).all()
    np.testing.assert_allclose(result.act(observation[1], member=1), action[1], rtol=1e-5)
    assert not np.allclose(result.act(observation), action)
    with pytest.raises(RlxError, match=r"^observations are \[2\]: this policy reads 3 numbers, \[..., 3\]$"):
        result.act([1.0, 0.0])
