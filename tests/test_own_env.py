"""Environments and agents of the user's, by file and module, and runs from training to export."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx
from rlx import config, data, envs, user_code
from rlx.api import environments
from rlx.build import make_env
from rlx.commands import training
from rlx.envs import arguments
from rlx.errors import RlxError
from tests import processes
from tests.commands import TINY, Refused, flags, one_line
from tests.datasets import walk
from tests.pages import ROOT, blocks
from tests.test_resume import at_line
from tests.walk import Walk

pytestmark = pytest.mark.usefixtures("reuse_programs")

FILE = """
import jax.numpy as jnp
from tests.walk import Walk

class Mine(Walk):
    pass

def make(limit=6, noise=0.2):
    return Walk(limit, noise)

def broken(mass):
    return 1 / 0

bare, nothing = Mine(4, 0.0), 3
"""
ODD = """
from tests.walk import Walk

def leaves():
    raise SystemExit("bye")

class Odd(Walk):
    @property
    def spec(self):
        return 1 / 0

    def __init__(self):
        pass

def Endless():
    return Walk(10**20)
"""
AGENT = next(block.text for block in blocks(ROOT / "CONTRIBUTING.md") if block.text.startswith("# agents/ddpg.py"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with a file of environments, where the user is."""
    (tmp_path / "task.py").write_text(FILE)
    (tmp_path / "ddpg.py").write_text(AGENT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "task", raising=False)
    return tmp_path


@pytest.mark.parametrize("place", ["task.py", "./task.py", "task"])
def test_a_name_makes_a_class_a_function_and_an_object(place: str, folder: Path) -> None:
    for name, settings, limit in (("Mine", {"limit": 9}, 9), ("make", {"noise": 0.5}, 6), ("bare", {}, 4)):
        made = envs.make(f"{place}:{name}", **settings)
        assert made.spec.episode_length == limit
    wrapped = Walk(3).spec._replace(observation=jax.ShapeDtypeStruct((4,), jnp.float32))
    assert envs.make(f"{place}:bare", episode_length=3, wrappers=["history:2"]).spec == wrapped
    monkey = user_code.module("task.py")
    assert user_code.module("task.py") is monkey
    (folder / "task.py").write_text(FILE + "\nadded = Walk(7)")
    assert envs.make("task.py:added").spec.episode_length == 7, "a notebook's next fit uses the file as it is"


@pytest.mark.parametrize("place", ["noisy.py", "noisy"])
def test_libraries_are_quiet_while_a_users_code_is_imported(
    place: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """MuJoCo's lines on warp are left out, the user's own prints are not."""
    for name in ("mujoco", "mujoco.mjx", "noisy"):
        monkeypatch.setitem(sys.modules, name, sys)  # put back in the end
        del sys.modules[name]
    (folder / "mujoco").mkdir()
    (folder / "mujoco" / "__init__.py").touch()
    (folder / "mujoco" / "mjx.py").write_text("print('Failed to import warp')")
    (folder / "noisy.py").write_text("from mujoco import mjx\nprint('mine')")
    monkeypatch.syspath_prepend(folder)
    user_code.module(place)
    assert capfd.readouterr().out == "mine\n"


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("gone.py:Mine", {}, r"gone\.py: there is no such file"),
        ("task.py:Min", {}, "has no Min; did you mean Mine"),
        ("task.py", {}, r"names a file only; .* task\.py:Mine"),
        ("task.py:Mine", {"mass": 1}, "has no setting 'mass'; it has limit, noise, episode_length"),
        ("task.py:bare", {"noise": 1}, "is an object and takes no setting 'noise'"),
        ("task.py:bare", {"backend": "mjx"}, "one physics only"),
        ("task.py:nothing", {}, "int is no environment"),
        ("task.py:broken", {}, "needs a value of 'mass'"),
        ("task.py:broken", {"mass": 1}, r"cannot be made of .*ZeroDivisionError, task\.py line 12"),
        ("bad.py:Mine", {}, r"bad\.py: cannot be imported \(NameError, bad\.py line 2"),
        ("typo.py:Mine", {}, r"cannot be imported \(SyntaxError in line 1"),
        ("exits.py:Mine", {}, r"exits\.py: cannot be imported \(SystemExit, exits\.py line 1: done"),
        ("odd.py:leaves", {}, r"odd\.py:leaves cannot be made: SystemExit, odd\.py line 5: bye"),
        ("odd.py:Odd", {}, r"Odd cannot be traced by JAX \(ZeroDivisionError, odd\.py line 10.*; look at its spec"),
        ("task.py:make", {"episode_length": 10**20}, "episode_length must be at most 2,147,483,647, not 100,"),
        ("odd.py:Endless", {}, "spec.episode_length must be at most 2,147,483,647"),
        ("maze:Mine", {}, r"'maze:Mine'; the nearest is .*, and what is in your maze\.py is named as maze\.py:Mine"),
        ("gymnax:Mine", {}, r"and what is in your gymnax/__init__\.py is named as gymnax/__init__\.py:Mine"),
        ("brax:Mine", {}, "no environment 'brax:Mine'; the nearest is 'brax:.*'$"),
        ("nowhere:Mine", {}, "no environment 'nowhere:Mine'"),
        ("nowhere.task:Mine", {}, "no environment 'nowhere.task:Mine'"),
        ("gymnax:Pendulum-v1", {"g": "x"}, "cannot be traced"),
    ],
)
def test_what_is_wrong_with_a_name(name: str, settings: dict[str, Any], message: str, folder: Path) -> None:
    (folder / "bad.py").write_text("\nx = undefined\n")
    (folder / "typo.py").write_text("def f(:\n")
    (folder / "odd.py").write_text(ODD)
    (folder / "exits.py").write_text("raise SystemExit('done')")
    (folder / "maze.py").write_text("Mine = 3")
    (folder / "gymnax").mkdir()
    (folder / "gymnax" / "__init__.py").touch()
    with pytest.raises(RlxError, match=message) as error:
        envs.make(name, **settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("line", "slip", "error"),
    [
        ("    return nets.actor.apply(policy.params", "    return observation @ observation, {}", "TypeError"),
        ("        value = -losses.ensemble_min(q)", "        value = q + jax.numpy.zeros(977)", "(Type|Value)Error"),
        ("    actor = networks.make_det", "    actor = spec.nothing", "AttributeError"),
    ],
)
def test_a_slip_in_an_agent_is_one_line_before_anything_is_written(
    line: str, slip: str, error: str, folder: Path
) -> None:
    lines = AGENT.splitlines()
    number = next(i for i, text in enumerate(lines) if text.startswith(line))
    (folder / "bad.py").write_text("\n".join([*lines[:number], slip, *lines[number + 1 :]]))
    with pytest.raises(RlxError, match=rf"^bad\.py: .*{error}, bad\.py line {number + 1}") as raised:
        rlx.fit("bad.py", "task.py:make", run_dir="runs", total_env_steps=400, **TINY)
    assert "\n" not in str(raised.value) and not list(folder.glob("runs/*/config.json"))


ACTED = "    return nets.actor.apply(policy.params, observation), {}"
LEARNED = "    return state.advance(learner=actor), metrics"
CRITICS = '    num_critics: int = setting(1, "critics in the ensemble; their minimum counts")'
PRESETS = "PRESETS: dict[str, dict[str, Any]] = "
MAKES = "    return Agent("


@pytest.mark.parametrize(
    ("line", "other", "message"),
    [
        (ACTED, "    return None", "act must return (action, info)"),
        (ACTED, ACTED.replace(")", ")[..., :0]", 1), "act's action is [8, 0] at 8 observations; it must be [8, "),
        (ACTED, ACTED.replace("{}", "1"), "act's info is of type int; return a dictionary"),
        (LEARNED, "    return None", "update_actor must return (half, metrics), metrics a dictionary"),
        (LEARNED, "    return {}, metrics", "update_actor returns another half than it was given"),
        (LEARNED, '    return state, {"x": jax.numpy.ones(3)}', "update_actor's metric x is [3]; metrics are scalars"),
        (MAKES, f"    return None\n{MAKES}", "make returns NoneType; return an rlx.types.Agent"),
        (MAKES, f'{MAKES}reads={{"x": 3}}, ', "reads must be a mapping of names to rlx.types.Read"),
        (CRITICS, "    widths: int = 3", "Config.widths is no setting; declare it as = rlx.types.setting(default"),
        (CRITICS, '    seed: int = setting(1, "x")', "Config.seed is the name of another setting, too; rename it"),
        ("@dataclass(frozen=True)\nclass Config(halves.Config):", "class Config:", "Config is no dataclass; derive it"),
        (
            "jax.Array = setting(1e-4,",
            'jax.Array = setting("few",',
            "Hypers.actor_lr is 'few'; hyper-parameters are num",
        ),
        (PRESETS, f"{PRESETS}[3]\nother = ", "PRESETS must map environments, or *, to dictionaries of settings"),
    ],
)
def test_an_agent_that_returns_something_else_is_one_line(line: str, other: str, message: str, folder: Path) -> None:
    assert line in AGENT
    (folder / "odd.py").write_text(AGENT.replace(line, other))
    with one_line("odd.py", message):
        rlx.fit("odd.py", "task.py:make", run_dir="runs", total_env_steps=400, **TINY)
    assert not list(folder.glob("runs/*/config.json"))


def test_settings_are_text_and_back() -> None:
    texts = ["g=9.81", "n=3", "kind=sparse", "flag=True", "sizes=[1, 2]", 'word="5"']
    values = {"g": 9.81, "n": 3, "kind": "sparse", "flag": True, "sizes": [1, 2], "word": "5"}
    assert arguments.parse(texts) == values == arguments.parse(arguments.texts(values))
    assert arguments.parse(arguments.texts({"x": np.float32(0.5), "y": np.arange(2)})) == {"x": 0.5, "y": [0, 1]}
    assert arguments.merge(["a=1", "b=2"], ["b=3"]) == ("a=1", "b=3")
    for wrong in (["g"], ["1=2"], ["g=1", "g=2"], ["g=1e400"], ["g=[NaN]"], [f"g={10**30}"], ['g={"a": 1, "a": 2}']):
        with pytest.raises(RlxError, match="--env-args"):
            arguments.parse(wrong)
    with pytest.raises(RlxError, match="f is of type function"):
        arguments.texts({"f": lambda: None})


@pytest.mark.parametrize("own", ["env", "randomize"])
def test_code_that_a_data_set_names_runs_only_if_the_user_names_it(own: str, folder: Path, refused: Refused) -> None:
    """Anybody's file may name a function of any module; its settings would be arguments."""
    code = "evil.py:Mine"
    (folder / "evil.py").write_text("open('ran', 'w').close()")
    info: dict[str, Any] = {"env": code} if own == "env" else {"env": "gymnax:Pendulum-v1", "randomize": [code]}
    info |= {"name": "set", "env_args": ["limit=3"]}
    data.write(walk([6, 3])._replace(info=info), folder / "set")
    line = f"set: was collected with {code}, code that runs only if you name it: give --env {info['env']}, or another"
    assert refused("train", "bc", "--dataset", "set").startswith(line)
    assert refused("study", "bc", "--dataset", "set").startswith(line)
    with one_line(f"set: was collected with {code}"):
        rlx.fit("bc", dataset="set", offline_steps=1)
    assert not (folder / "ran").exists()
    settings = {"env_args": ["limit=3"]} if own == "env" else {}
    assert training.environment(info["env"], None, "set") == (info["env"], None, settings)
    assert environments.environment(info["env"], None, ["set"]) == environments.Named(info["env"], settings=settings)
    elsewhere = "task.py:make"
    assert training.environment(elsewhere, None, "set") == (elsewhere, None, {})
    assert environments.environment(elsewhere, None, ["set"]) == environments.Named(elsewhere)


def test_pythons_own_modules_are_no_environments(folder: Path) -> None:
    (folder / "random.py").touch()
    for name, hint in (("os:system", "'os:system'; the nearest is "), ("random:Mine", "is named as random.py:Mine")):
        with one_line("no environment", hint):
            envs.make(name, command="touch ran")
    assert not (folder / "ran").exists()


def test_settings_keep_the_preset_of_the_name() -> None:
    plain = config.resolve("td3", "brax:ant")
    other = config.resolve("td3", "brax:ant", env_args={"episode_length": 500}, wrappers=["history:2"])
    differing = {name for name, value in config.flat(plain).items() if config.flat(other)[name] != value}
    assert differing == {"env_args", "wrappers"}
    assert other.train.env_args == ("episode_length=500",)
    made = make_env(config.resolve("sac", "gymnax:Pendulum-v1", env_args={"episode_length": 50, "m": 2.0}))
    assert made.spec.episode_length == 50


SMALL = flags(**TINY | {"log_every": 80, "eval_every": 80, "total_env_steps": 400, "actor_hidden_sizes": [8]})
OWN = "--env task.py:make --env-args limit=9 --wrappers action_repeat:2 history:3".split()


@pytest.mark.slow
def test_a_run_of_ones_own_agent_and_environment(say: Any, folder: Path) -> None:
    """Everything that a run of rlx's own names can do, from a folder that holds two files."""
    assert say("train", "ddpg.py", *OWN, *SMALL).code == 0
    run = Path("runs/ddpg-task-make-s0")
    content = json.loads((run / "config.json").read_text())
    assert content["env"] == "task.py:make" and content["settings"]["wrappers"] == ["action_repeat:2", "history:3"]
    assert content["files"]["env"] == user_code.source("task.py:make")
    assert content["files"]["agent"]["path"] == str(folder / "ddpg.py")

    with at_line(160, lambda: os.kill(os.getpid(), signal.SIGTERM)):
        assert say("train", "ddpg.py", *OWN, *SMALL, "--run-name", "cut").code == 143
    (folder / "task.py").write_text(FILE + "\n# changed\n")
    resumed = say("train", "--resume", "runs/cut")
    assert resumed.code == 0 and "task.py: has changed since the run began" in resumed.err
    digests = [json.loads((each / "summary.json").read_text())["digest"] for each in (run, Path("runs/cut"))]
    assert digests[0] == digests[1]

    longer = say("eval", run, "--env-args", "noise=0", "--episodes", 2)
    assert longer.code == 0 and "mean length" in longer.out
    assert say("play", run, "--episodes", 1).code == say("report", run).code == 0
    assert say("export", run, "--out", "policy", "--bundle").code == 0
    assert processes.python(folder / "policy" / "run_policy.py", "numpy").returncode == 0
    about = json.loads(Path("policy/policy.json").read_text())
    assert about["wrappers"] == ["action_repeat:2", "history:3"] and about["observation"]["shape"] == ["B", 6]
    assert say("collect", run, "--num-transitions", 60, "--out", "data").code == 0
    offline = "--total-env-steps 0 --offline-steps 8 --log-every 0 --eval-every 0".split()
    learnt = say("train", "iql", "--dataset", "data", "--env", "task.py:make", *SMALL, *offline)
    assert learnt.code == 0, learnt.err
    assert json.loads(Path("runs/iql-task-make-s0/config.json").read_text())["settings"]["env_args"] == ["limit=9"]
    loaded = rlx.load(run)
    assert loaded.evaluate(episodes=2).returns.shape == (1, 2) and loaded.act(np.zeros(6)).shape == (1,)
    assert loaded.q_value(np.zeros((3, 6)), np.zeros((3, 1))).shape == (3,)
    swept = say("sweep", "ddpg.py", *OWN, *SMALL, "--actor-lr", "1e-3", "1e-4")
    assert swept.code == 0 and "rlx train ddpg.py --env task.py:make" in swept.out

    for name in ("task.py", "ddpg.py"):
        shutil.move(name, "away")
        for command in ("eval", "play"):
            said = say(command, run)
            assert said.code == 2 and f"{name}: there is no such file" in said.err and "damaged" not in said.err
        shutil.move("away", name)
