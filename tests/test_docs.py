"""What the documentation says is true: Python blocks run, command lines parse, links lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from rlx import agents, cli, collecting, config, data, diff, envs, experiment, folders, parallel, runs
from rlx.commands import COMMANDS
from rlx.config import RunConfig
from rlx.errors import RlxError
from rlx.train.settings import make_offline_plan, make_plan, parse_split
from tests import datasets, probes

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("docs/**/*.md"))]
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.M))
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
LAUNCHER = ROOT / "scripts" / "launch_tpu_pod.sh"

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))

# In place of what a reader would wait for: the same calls, with little to do.
QUICK = {
    "total_env_steps": 64,
    "warmup_env_steps": 16,
    "num_envs": 8,
    "batch_size": 8,
    "ratio": "1:1",
    "replay_capacity": 64,
    "pool_size": 8,
    "eval_episodes": 2,
    "actor_hidden_sizes": (8,),
    "critic_hidden_sizes": (8,),
}


class Block(NamedTuple):
    """What stands between two fences."""

    language: str
    line: int  # of its first line, from 1
    text: str


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text()
    assert text.count("\n```") % 2 == 0, f"{page}: a fence is not closed"
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S):
        yield Block(found[1], text[: found.start(2)].count("\n") + 1, found[2])


def pages_with(language: str) -> Any:
    pages = [page for page in PAGES if any(block.language == language for block in blocks(page))]
    return pytest.mark.parametrize("page", pages, ids=lambda page: str(page.relative_to(ROOT)))


# Python


def run_blocks(page: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Runs a page from top to bottom in one namespace; a block that begins with `# agents/x.py` becomes that module."""
    shared = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", shared)
    for block in blocks(page):
        if block.language != "python":
            continue
        module = shared
        if file := re.match(r"# (agents/\w+)\.py\n", block.text):
            module = ModuleType(f"rlx.{file[1].replace('/', '.')}")
            monkeypatch.setitem(sys.modules, module.__name__, module)
        code = compile("\n" * (block.line - 1) + block.text, str(page), "exec", dont_inherit=True)
        exec(code, module.__dict__)
    return shared


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """`rlx.fit` with `QUICK` settings, and a registry that a page may add to."""

    def fit(agent: str, env: str, **given: Any) -> Any:
        return experiment_fit(agent, env, **given | QUICK)

    experiment_fit = experiment.fit
    monkeypatch.setattr(experiment, "fit", fit)
    monkeypatch.setattr(agents, "REGISTRY", dict(agents.REGISTRY))


@pages_with("python")
def test_python_blocks_run(page: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = run_blocks(page, monkeypatch)
    for name, value in vars(shared).items():
        if name.startswith("test_"):
            value()
    if page.name == "CONTRIBUTING.md":
        assert learns("ddpg")


def learns(name: str) -> bool:
    """Whether an agent solves the probe where the best action is half the observation, as in tests/test_agents.py."""
    module, probe = agents.load(name), probes.PROBES["policy"]
    agent = module.make(probes.small(module.Config), probes.SPEC)
    data, asked = probes.batches(probe, 1000, 64), probes.questions(probe, 64)
    answers = probes.learner(agent)(probes.quick(module.Hypers), data, asked, jax.random.key(0))
    return all(abs(x - query.best) < 0.1 for x, query in zip(answers.greedy, probe.queries, strict=True) if query.best)


def test_python_blocks_are_formatted(tmp_path: Path) -> None:
    """They are copied into files, which `make check` will look at."""
    for page in PAGES:
        for block in blocks(page):
            if block.language == "python":
                (tmp_path / f"{page.stem}_{block.line}.py").write_text(block.text)
    command = [
        sys.executable,
        "-m",
        "ruff",
        "format",
        "--diff",
        "--config",
        str(ROOT / "pyproject.toml"),
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_wrong_block_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("words\n\n```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n")
    with pytest.raises(AssertionError) as caught:
        run_blocks(page, monkeypatch)
    assert caught.traceback[-1].lineno == 7  # counted from 0


# Command lines


def lines(page: Path) -> Iterator[str]:
    """Command lines: those of shell blocks, joined where they continue, and those in the text that name `rlx`."""
    for block in blocks(page):
        if block.language == "bash":
            joined = block.text.replace("\\\n", " ")
            yield from (line for line in joined.splitlines() if line.strip() and not line.startswith("#"))
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    spans = (span for span in re.findall(r"`([^`\n]+)`", prose) if re.match(r"(\S+/)?rlx |make |\.venv/", span))
    yield from (span for span in spans if span.removeprefix("rlx ") not in COMMANDS)  # `rlx eval` is but a name


def words(line: str) -> list[list[str]]:
    """The commands of a line, each as its words."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    commands: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("&|;"):
            commands.append([])
        else:
            commands[-1].append(word)
    return [command for command in commands if command]


class Asked(NamedTuple):
    """What the parser made of a `rlx train` line."""

    config: RunConfig
    joins: bool


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """`parse(arguments)` is the real command line up to where it would begin to work; returns what it would train."""
    asked: list[RunConfig] = []
    joined: list[Any] = []
    monkeypatch.setattr(folders, "choose_folder", lambda *given: tmp_path)
    monkeypatch.setattr(folders, "all_runs", lambda *given: [folders.standing(tmp_path)])
    monkeypatch.setattr(diff, "differences", lambda *given: [])
    monkeypatch.setattr(runs, "is_deterministic", lambda *given: False)
    monkeypatch.setattr(runs, "resume", lambda *given: {})
    monkeypatch.setattr(collecting, "Collector", collects)
    monkeypatch.setattr(data, "read", lambda *given: SimpleNamespace(info={"env": "brax:hopper"}))
    monkeypatch.setattr(data, "convert", lambda *given: None)
    monkeypatch.setattr(data, "describe", lambda *given: [])
    monkeypatch.setattr(runs, "train", lambda run_config, *given, **options: asked.append(run_config))
    monkeypatch.setattr(runs, "judge", lambda *given: "")
    monkeypatch.setattr(parallel, "join_cluster", lambda *given: joined.append(given))

    def parse(arguments: list[str]) -> Asked | None:
        asked.clear()
        joined.clear()
        try:
            assert cli._dispatch(arguments) == 0
        except SystemExit as stop:  # --help, or `collects`
            assert stop.code == 0
        return Asked(asked[0], bool(joined)) if asked else None

    return parse


def collects(*given: Any) -> Any:
    """In place of what collects, after its kind, size and folder were found good."""
    raise SystemExit(0)


def check(line: str, parse: Any) -> None:
    """Raises if a command line names a make target, file, extra, flag, environment or size that cannot be."""
    for command in words(line):
        for word in command:
            if word.startswith("scripts/"):
                assert (ROOT / word).is_file(), word
            for extra in re.findall(r"\.\[(\w+)\]", word):
                assert extra in EXTRAS, extra
        if command[0] == "make":
            check_make(command[1:], parse)
        program = next((i for i, word in enumerate(command) if word.split("/")[-1] == "rlx"), None)
        if program is None or command[0] in ("gcloud", "make") or "..." in command:
            continue
        asked = parse(command[program + 1 :])
        if asked is not None:
            check_run(asked, line)


def check_make(given: list[str], parse: Any) -> None:
    targets = [word for word in given if "=" not in word and not word.startswith("-")]
    assert TARGETS.issuperset(targets) and targets, given
    for word in given:
        if word.startswith("ARGS=") and targets == ["train"]:
            parse(["train", "sac", "--env", "brax:ant", *shlex.split(word.removeprefix("ARGS="))])


def check_run(asked: Asked, line: str) -> None:
    """The environment is there and the sizes divide; pretended devices are as many as a split names."""
    found, train = asked.config, asked.config.train
    backends = envs.names()[found.env]
    assert found.backend is None or found.backend in backends
    pretended = re.search(r"host_platform_device_count=(\d+)", line)
    split = [1]
    if train.split not in ("1", "auto"):
        assert train.driver == "pipelined"
        split = [int(size) for size in train.split.split(",")]
        parse_split(train.split, int(pretended[1]) if pretended else sum(split))
    shards = np.lcm.reduce([*split, train.num_devices if train.spread == "data" else 1]).item()
    for offline in experiment.parts(found):
        (make_offline_plan if offline else make_plan)(train, shards)
    assert len(config.members(found)) % (train.num_devices if train.spread == "seeds" else 1) == 0
    assert asked.joins == ("--distributed" in line or "launch_tpu_pod" in line)


@every_page
def test_command_lines_parse(page: Path, parse: Any) -> None:
    for line in lines(page):
        if "launch_tpu_pod.sh" in line:
            line = launch(*shlex.split(line)[1:], "--dry-run", last=False)
            line = shlex.split(line)[-1] + "  # launch_tpu_pod"
        try:
            check(line, parse)
        except (AssertionError, RlxError, KeyError) as error:
            pytest.fail(f"{page.name}: {line}\n{error}")


@pytest.mark.parametrize(
    "line",
    [
        "rlx train sac --env brax:ant --num-evns 4",
        "X=1 rlx train scac --env brax:ant & wait",
        "rlx train sac --env brax:aunt",
        "rlx train sac --env brax:ant --num-devices 3",
        "srun rlx train pql --env brax:ant --driver pipelined --split 2,1",
        "X=--xla_force_host_platform_device_count=3 rlx train pql --env brax:ant --driver pipelined --split 2,1,1",
        "rlx evaluate runs/x",
        "rlx train iql --dataset data/x --preset locomotive",
        "rlx train iql --dataset data/x --offline-steps 1e5 --total-env-steps 2e5 --ratio 1",
        "rlx collect runs/x --kind middling --out data/x",
        "rlx data infos data/x",
        "rlx train --resume runs/x --critic-lr 1e-3",
        'make train ARGS="--num-evns 4"',
        "make trian",
        "scripts/lunch.sh a b",
        '.venv/bin/pip install -e ".[cdua]"',
    ],
)
def test_a_wrong_command_line_is_found(line: str, parse: Any) -> None:
    with pytest.raises((AssertionError, RlxError, KeyError)):
        check(line, parse)


@every_page
def test_flags_in_the_text_are_known(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = [["train", name, "--help"] for name in [*agents.REGISTRY, "--resume x"]]
    commands += [[name, "--help"] for name in COMMANDS if name != "train"]
    for command in commands:
        with pytest.raises(SystemExit):
            cli.main(" ".join(command).split())
    known = set(re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out + LAUNCHER.read_text()))
    assert set(re.findall(r"`(--[a-z][a-z-]*)", page.read_text())) <= known


@pytest.fixture
def d4rl_command() -> list[str]:
    """The line that trains on a D4RL file, the same in README.md and docs/offline.md, as arguments of `rlx`."""
    pages = ROOT / "README.md", ROOT / "docs" / "offline.md"
    found = [line for page in pages for line in lines(page) if "hopper_medium-v2.hdf5" in line]
    assert len(found) == 2 and found[0] == found[1]
    return shlex.split(found[0])[1:]


def test_the_d4rl_command_has_the_published_settings(d4rl_command: list[str], parse: Any) -> None:
    """Those of arXiv 2110.06169, section 5 and its appendix."""
    found = parse(d4rl_command).config
    assert (found.train.offline_steps, found.train.total_env_steps, found.train.batch_size) == (1_000_000, 0, 256)
    assert (found.train.ratio, found.train.scale_rewards, found.train.normalize_observations) == ("1:1", "range", False)
    assert found.network.actor_hidden_sizes == found.network.critic_hidden_sizes == (256, 256)
    assert (found.network.num_critics, found.network.value_loss, found.network.actor_decay_steps) == (2, "expectile", 0)
    published = {"expectile": 0.7, "beta": 3, "gamma": 0.99, "tau": 0.005, "actor_lr": 3e-4, "critic_lr": 3e-4}
    assert {name: found.hypers[name] for name in published} == {name: (x,) for name, x in published.items()}


def test_the_d4rl_command_trains(d4rl_command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of the same layout stands in for D4RL's, and there is little to do."""
    monkeypatch.chdir(tmp_path)
    rng, n = np.random.default_rng(0), 60
    states, rows = rng.normal(size=(n + 1, 11)).astype(np.float32), np.arange(n)
    arrays = {
        "observations": states[:-1],
        "actions": rng.uniform(-1, 1, size=(n, 3)).astype(np.float32),
        "rewards": np.arange(n, dtype=np.float32),
        "terminals": rows == 19,
        "timeouts": (rows == 39) | (rows == 59),
        "next_observations": states[1:],
    }
    (tmp_path / "data").mkdir()
    datasets.write_hdf5(tmp_path / "data" / "hopper_medium-v2.hdf5", arrays)
    little = "--offline-steps 2 --eval-every 2 --eval-episodes 1 --actor-hidden-sizes 8 --critic-hidden-sizes 8"
    assert cli.main([*d4rl_command, *little.split()]) == 0
    folder = tmp_path / "runs" / "iql-brax-hopper-s0"
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["env"], summary["env_steps"], summary["critic_steps"]) == ("brax:hopper", 0, 2)
    told = json.loads((folder / "config.json").read_text())
    assert (told["data"]["random_return"], told["data"]["expert_return"]) == (-20.272305, 3234.3)
    returns = [sum(range(20)), sum(range(20, 40)), sum(range(40, 60))]
    assert told["settings"]["reward_scale"] == pytest.approx([1000 / (returns[2] - returns[0])])
    assert "eval_score_mean" not in summary  # MuJoCo's references say nothing of returns in Brax


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    found = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    local = [link for link in found if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []


# The launcher of TPU pods


def launch(*arguments: str, last: bool = True, code: int = 0, **environment: str) -> str:
    """Runs the script and returns what it prints; `last=False` puts the last argument before the `--`."""
    given = list(arguments)
    if not last:
        given.insert(given.index("--"), given.pop())
    done = subprocess.run(
        ["bash", str(LAUNCHER), *given], env=environment or None, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == code, done.stderr
    return (done.stderr if code else done.stdout).rstrip("\n")


def as_shell_reads(line: str) -> list[str]:
    """The words that bash makes of a line."""
    read = ["bash", "-c", f"printf '%s\\0' {line}"]
    return subprocess.run(read, capture_output=True, text=True, check=True, timeout=30).stdout.split("\0")[:-1]


ODD = (
    "rlx",
    "train",
    "sac",
    "--env",
    "brax:ant",
    "--run-dir",
    'it\'s a "run" for $HOME; `ls`\nnext *',
    "--run-name",
    "",
)


def test_launcher_shows_its_command_line() -> None:
    plain = launch("my-pod", "us-central2-b", "--dry-run", "--", "rlx", "train", "sac", "--env", "brax:ant")
    assert plain == (
        "gcloud compute tpus tpu-vm ssh my-pod --zone us-central2-b --worker=all"
        " --command rlx\\ train\\ sac\\ --env\\ brax:ant\\ --distributed"
    )
    with_project = launch("--project", "mine", "my-pod", "--dry-run", "z", "--", "rlx/.venv/bin/rlx", "train", "sac")
    assert " --zone z --project mine --worker=all --command rlx/.venv/bin/rlx" in with_project


def test_launcher_adds_distributed_once() -> None:
    line = launch("pod", "zone", "--dry-run", "--", "rlx", "train", "sac", "--distributed", "--seed", "1")
    assert as_shell_reads(as_shell_reads(line)[-1]) == ["rlx", "train", "sac", "--distributed", "--seed", "1"]


def test_launcher_quotes_what_shells_would_take_apart() -> None:
    """Two shells read the line, the reader's own and the worker's: both give back the same words."""
    words = as_shell_reads(launch("my pod", "zone", "--dry-run", "--", *ODD))
    assert words[:6] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "my pod"]
    assert words[-2] == "--command"
    assert as_shell_reads(words[-1]) == [*ODD, "--distributed"]


def test_launcher_runs_what_it_shows(tmp_path: Path) -> None:
    gcloud = tmp_path / "gcloud"
    gcloud.write_text('#!/bin/bash\nprintf "%q " gcloud "$@"\necho\n')
    gcloud.chmod(0o755)
    arguments = ("pod", "zone", "--project", "mine", "--", *ODD)
    shown = launch(*arguments, "--dry-run", last=False)
    ran = launch(*arguments, PATH=f"{tmp_path}:/usr/bin:/bin")
    assert as_shell_reads(ran) == as_shell_reads(shown)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give the pod's NAME and ZONE"),
        (["pod", "--", "rlx", "train"], "give the pod's NAME and ZONE"),
        (["pod", "zone", "more", "--", "rlx", "train"], "give the pod's NAME and ZONE"),
        (["pod", "zone"], "no command: put -- and then rlx train"),
        (["pod", "zone", "--"], "must begin with rlx train"),
        (["pod", "zone", "--", "rlx", "eval", "runs/x"], "must begin with rlx train"),
        (["pod", "zone", "--", "python", "train"], "must begin with rlx train"),
        (["pod", "zone", "--projct", "p", "--", "rlx", "train"], "unknown option --projct"),
        (["pod", "zone", "--project", "--", "rlx", "train"], "--project: needs a name"),
    ],
)
def test_launcher_refuses_in_one_line(arguments: list[str], words: str) -> None:
    message = launch(*arguments, code=2)
    assert message.startswith("launch_tpu_pod.sh: ") and words in message and "\n" not in message


def test_launcher_without_gcloud(tmp_path: Path) -> None:
    (tmp_path / "bash").symlink_to("/bin/bash")
    done = launch("pod", "zone", "--", "rlx", "train", "sac", code=2, PATH=str(tmp_path))
    assert "gcloud is not on the path" in done
