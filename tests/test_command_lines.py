"""Command lines of the documentation parse, name what exists, and fit the machines that they are for."""

import contextlib
import io
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rlx import agents, build, config, envs, parallel
from rlx.commands import COMMANDS
from rlx.commands import main as cli
from rlx.config import RunConfig
from rlx.errors import RlxError
from rlx.ope.table import Table
from rlx.runs import folders
from rlx.statistics import Interval
from rlx.train.placement import parse_split
from rlx.train.plan import make_offline_plan, make_plan
from tests import datasets
from tests.pages import ROOT, blocks, every_page
from tests.test_launcher import LAUNCHER, launch

TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.M))
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def lines(page: Path) -> Iterator[str]:
    """Command lines: those of shell blocks, joined where they continue, and those in the text that name `rlx`."""
    for block in blocks(page):
        if block.language in ("bash", "sh"):
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


Asked = tuple[RunConfig, bool]  # what the parser made of a `rlx train` line, and whether it joins a cluster


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """`parse(arguments)` is the real command line up to where it would begin to work; returns what it would train."""
    asked: list[RunConfig] = []
    joined: list[Any] = []

    def put(value: Any, *names: str) -> None:
        for name in names:
            monkeypatch.setattr(f"rlx.{name}", lambda *given, **options: value)

    def collects(*given: Any) -> Any:  # after its kind, size and folder were found good
        raise SystemExit(0)

    put([], "analysis.diff.differences", "analysis.curves.read", "analysis.play.make", "visual.video.files")
    put([], "data.describe", "ope.from_run")
    put(Table([], [], Interval(0, 0, 0), 0, {}, []), "ope.evaluate")
    put("", "runs.policies.evaluate", "analysis.compare.text", "sweeps.running.begin")
    put(
        None,
        "analysis.compare.compare",
        "analysis.report.make",
        "sweeps.running.resume",
        "data.write",
    )
    put(datasets.walk([2]), "data.convert", "data.corrupt")
    put(None, "sweeps.studying.begin", "sweeps.studying.resume", "build.setup")
    put(SimpleNamespace(cells=[]), "sweeps.study.load")
    put("", "sweeps.study._digest")
    put({}, "runs.initial.digests")
    monkeypatch.setattr(
        "rlx.sweeps.study._with_init_from", lambda cell, init_from, sets: cell._replace(init_from=init_from)
    )
    put({}, "runs.runner.resume", "runs.runner.is_deterministic", "config.preset_file")
    put(contextlib.nullcontext(tmp_path), "runs.folders.new")
    put([folders.status(tmp_path)], "runs.folders.all_runs")
    put(SimpleNamespace(info={"env": "brax:hopper"}), "data.read")
    put(SimpleNamespace(base=config.resolve("sac", "brax:ant")), "sweeps.sweep.load")
    put({"agent": "", "env": "", "seed": 0, "run_step": 0, "members": 1, "files": {}}, "export.policy.save")
    for source in ("RunCollector", "EnvCollector"):
        monkeypatch.setattr(f"rlx.runs.collect_dataset.{source}", collects)
    monkeypatch.setattr("rlx.runs.runner.train", lambda run_config, *given, **options: asked.append(run_config))
    monkeypatch.setattr("rlx.sweeps.sweep._fitting", lambda base, count, chunk: count)
    monkeypatch.setattr(parallel, "join_cluster", lambda *arguments: joined.append(arguments))

    def parse(arguments: list[str]) -> Asked | None:
        asked.clear()
        joined.clear()
        try:
            assert cli._dispatch(arguments) == 0
        except SystemExit as stop:  # --help, or `collects`
            assert stop.code == 0
        return (asked[0], bool(joined)) if asked else None

    return parse


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


def check_make(command: list[str], parse: Any) -> None:
    targets = [word for word in command if "=" not in word and not word.startswith("-")]
    assert TARGETS.issuperset(targets) and targets, command
    for word in command:
        if word.startswith("ARGS=") and targets == ["train"]:
            parse(["train", "sac", "--env", "brax:ant", *shlex.split(word.removeprefix("ARGS="))])


def check_run(asked: Asked, line: str) -> None:
    """The environment is there and the sizes divide; pretended devices are as many as a split names."""
    result, joins = asked
    train = result.train
    playground = {f"playground:{name}": () for name in (*envs.CONTROL_SUITE, *envs.ROBOTS)}  # also where it is not
    backends = () if envs.is_user_code(result.env) else (envs.names() | playground)[result.env]
    assert result.backend is None or result.backend in backends
    pretended = re.search(r"host_platform_device_count=(\d+)", line)
    split = [1]
    if train.split not in ("1", "auto"):
        assert train.driver == "pipelined"
        split = [int(size) for size in train.split.split(",")]
        parse_split(train.split, int(pretended[1]) if pretended else sum(split))
    shards = np.lcm.reduce([*split, train.num_devices if train.spread == "data" else 1]).item()
    for offline in build.parts(result):
        (make_offline_plan if offline else make_plan)(train, shards)
    assert len(config.members(result)) % (train.num_devices if train.spread == "seeds" else 1) == 0
    assert joins == ("--distributed" in line or "launch_tpu_pod" in line)


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


WRONG = """rlx train sac --env brax:ant --num-evns 4
X=1 rlx train scac --env brax:ant & wait
rlx train sac --env brax:aunt
rlx train sac --env brax:ant --num-devices 3
srun rlx train pql --env brax:ant --driver pipelined --split 2,1
X=--xla_force_host_platform_device_count=3 rlx train pql --env brax:ant --driver pipelined --split 2,1,1
rlx evaluate runs/x
rlx train iql --dataset data/x --preset locomotive
rlx train iql --dataset data/x --offline-steps 1e5 --total-env-steps 2e5 --ratio 1
rlx collect runs/x --kind middling --out data/x
rlx data infos data/x
rlx train --resume runs/x --critic-lr 1e-3
make train ARGS="--num-evns 4"
make trian
scripts/lunch.sh a b
.venv/bin/pip install -e ".[cdua]\""""


@pytest.mark.parametrize("line", WRONG.splitlines())
def test_a_wrong_command_line_is_found(line: str, parse: Any) -> None:
    with pytest.raises((AssertionError, RlxError, KeyError)):
        check(line, parse)


@pytest.fixture(scope="module")
def known_flags() -> set[str]:
    """All that help texts and the launcher name."""
    commands = [["train", name] for name in [*agents.REGISTRY, "--resume x"]] + [["sweep", "sac"]]
    commands += [[name] for name in COMMANDS if name not in ("train", "sweep")]
    out = io.StringIO()
    for command in commands:
        with pytest.raises(SystemExit), contextlib.redirect_stdout(out):
            cli.main([*" ".join(command).split(), "--help"])
    return set(re.findall(r"--[a-z][a-z-]*", out.getvalue() + LAUNCHER.read_text()))


@every_page
def test_flags_in_the_text_are_known(page: Path, known_flags: set[str]) -> None:
    assert set(re.findall(r"`(--[a-z][a-z-]*)", page.read_text())) <= known_flags


@pytest.fixture
def d4rl_command() -> list[str]:
    """The line that trains on a D4RL file, the same in README.md and docs/offline.md, as arguments of `rlx`."""
    pages = ROOT / "README.md", ROOT / "docs" / "offline.md"
    result = [line for page in pages for line in lines(page) if "hopper_medium-v2.hdf5" in line]
    assert len(result) == 2 and result[0] == result[1]
    return shlex.split(result[0])[1:]


def test_the_d4rl_command_has_the_published_settings(d4rl_command: list[str], parse: Any) -> None:
    """Those of arXiv 2110.06169, section 5 and its appendix."""
    result, _ = parse(d4rl_command)
    assert (result.train.offline_steps, result.train.total_env_steps, result.train.batch_size) == (1_000_000, 0, 256)
    assert (result.train.ratio, result.train.scale_rewards, result.train.normalize_observations) == (
        "1:1",
        "range",
        False,
    )
    assert result.network.actor_hidden_sizes == result.network.critic_hidden_sizes == (256, 256)
    assert (result.network.num_critics, result.network.value_loss, result.network.actor_decay_steps) == (
        2,
        "expectile",
        0,
    )
    published = {"expectile": 0.7, "beta": 3, "gamma": 0.99, "tau": 0.005, "actor_lr": 3e-4, "critic_lr": 3e-4}
    assert {name: result.hypers[name] for name in published} == {name: (x,) for name, x in published.items()}


@pytest.mark.slow
def test_the_d4rl_command_trains(d4rl_command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of the same layout stands in for D4RL's, and there is little to do."""
    monkeypatch.chdir(tmp_path)
    rng, n = np.random.default_rng(0), 60
    states, rows = rng.normal(size=(n + 1, 11)).astype(np.float32), np.arange(n)
    arrays = {"observations": states[:-1], "next_observations": states[1:], "rewards": rows.astype(np.float32)}
    arrays |= {"actions": rng.uniform(-1, 1, size=(n, 3)).astype(np.float32), "terminals": rows == 19}
    arrays |= {"timeouts": (rows == 39) | (rows == 59)}
    (tmp_path / "data").mkdir()
    datasets.write_hdf5(tmp_path / "data" / "hopper_medium-v2.hdf5", arrays)
    little = "--offline-steps 2 --eval-every 2 --eval-episodes 1 --actor-hidden-sizes 8 --critic-hidden-sizes 8"
    assert cli.main([*d4rl_command, *little.split()]) == 0
    folder = tmp_path / "runs" / "iql-brax-hopper-s0"
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["env"], summary["env_steps"], summary["critic_steps"]) == ("brax:hopper", 0, 2)
    content = json.loads((folder / "config.json").read_text())
    assert (content["data"]["random_return"], content["data"]["expert_return"]) == (-20.272305, 3234.3)
    returns = [sum(range(20)), sum(range(20, 40)), sum(range(40, 60))]
    assert content["settings"]["reward_scale"] == pytest.approx([1000 / (returns[2] - returns[0])])
    assert "eval_score_mean" not in summary  # MuJoCo's references say nothing of returns in Brax
