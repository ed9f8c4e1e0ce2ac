"""`rlx.fit`, `rlx.load`, `rlx.sweep` and their results, as users of Python have them."""

import os
import pickle
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx
from rlx import json_files
from rlx.api.arguments import in_python
from rlx.errors import RlxError
from tests import probes
from tests.commands import Say, flags, one_line
from tests.datasets import d4rl_arrays, walk

pytestmark = pytest.mark.usefixtures("reuse_programs")

ENV = """
import jax, jax.numpy as jnp
from rlx.envs.base import advance, begin
from rlx.types import Spec

class Line:
    spec = Spec(jax.ShapeDtypeStruct((2,), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.float32), 10)
    def reset(self, key):
        return begin((), jax.random.uniform(key, (2,)))
    def step(self, state, action, key):
        observation = state.observation + 0.1 * action
        return advance(state, (), observation, -jnp.sum(observation**2), False, 10)
"""
SMALL: dict[str, Any] = {"batch_size": 8, "actor_hidden_sizes": [4], "critic_hidden_sizes": [4]}
ONLINE = SMALL | {"num_envs": 4, "ratio": "1:1", "warmup_env_steps": 16, "replay_capacity": 64, "pool_size": 4}
ONLINE |= {"eval_episodes": 2, "log_every": 16, "eval_every": 32, "num_seeds": 2}
OFFLINE = {"offline_steps": 20, "log_every": 10, "eval_every": 10, **SMALL}


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of an environment of the user's."""
    file = tmp_path_factory.mktemp("own") / "line.py"
    file.write_text(ENV)
    return f"{file}:Line"


@pytest.fixture(scope="module")
def short(line: str) -> rlx.Result:
    return rlx.fit("sac", line, total_env_steps=64, **ONLINE)


@pytest.fixture(scope="module")
def longer(line: str) -> rlx.Result:
    """Of a run that is longer from the start."""
    return rlx.fit("sac", line, total_env_steps=128, **ONLINE)


def same(one: rlx.Result, other: rlx.Result) -> bool:
    """To the bit: agents, statistics and what was measured."""
    trees = [(each.state, each.statistics, each.evaluation.returns) for each in (one, other)]
    steps = [[line["run_step"] for line in each.metrics] for each in (one, other)]
    return steps[0] == steps[1] and all(jax.tree.leaves(jax.tree.map(np.array_equal, *trees)))


def at(step: int, action: Callable[[], Any]) -> Callable[[dict[str, Any], Any], Any]:
    """A callback that does something at one step."""
    return lambda metrics, state: action() if metrics["run_step"] == step else None


def raise_interrupt() -> None:
    raise KeyboardInterrupt


def test_a_result_acts_evaluates_and_names_its_members(short: rlx.Result, tmp_path: Path) -> None:
    assert repr(short).startswith("Result(sac on ") and len(repr(short)) < 200 and "64 steps" in repr(short)
    assert short.labels == ["seed=0", "seed=1"] and 0 < short.metrics[0]["wall_time_s"] < 600
    observation = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    each = jax.jit(jax.vmap(short.policy, in_axes=(None, 0)))(observation, jnp.arange(2))
    np.testing.assert_allclose(each[1], short.act(observation, member=1), rtol=1e-5)
    assert each.shape == (2, 3, 1) and not np.allclose(each[0], each[1])
    values = short.q_value(observation, each[0])
    np.testing.assert_allclose(values[1], jax.jit(short.q_value)(observation[1], each[0, 1]), rtol=1e-5)
    for use, message in (
        (lambda: short.act(observation, member=2), "member 2: there are 0 to 1; choose one of those"),
        (lambda: short.act(observation, member=0.5), "member 0.5: there are 0 to 1"),
        (lambda: short.act("fast"), "observations: are no array of numbers (could not convert"),
        (lambda: short.q_value(observation, np.zeros((len(observation), 9))), "the critic reads 1 numbers"),
        (lambda: short.q_value(observation, each[0][:1]), "give one action for each observation"),
    ):
        with one_line(message):
            use()
    np.testing.assert_array_equal(short.evaluate().returns, short.evaluation.returns)
    more = short.evaluate(episodes=5, eval_seed=3)
    assert more.returns.shape == (2, 5) and "2 members, 5 episodes" in repr(more) and len(repr(more)) < 200
    assert "ShapeDtypeStruct" in repr(jax.eval_shape(lambda: more))
    assert short.export(str(tmp_path / "policy"), member=1) == tmp_path / "policy"
    np.testing.assert_allclose(rlx.export.policy.load(tmp_path / "policy")(observation), each[1], rtol=1e-4, atol=1e-6)


def test_a_result_continues_to_the_bits_of_a_longer_run(short: Any, longer: Any, line: str, tmp_path: Path) -> None:
    """In memory, after it was saved and loaded, and after it was stopped; pickled it still acts."""
    assert not same(short, longer) and same(short.continue_training(total_env_steps=128), longer)
    loaded = rlx.load(short.save(tmp_path / "saved"))
    assert same(loaded, short) and loaded.folder == tmp_path / "saved"
    assert same(loaded.continue_training(total_env_steps=128), longer)
    lines: list[dict[str, Any]] = []
    follow = {"callbacks": at(48, lambda: True), "progress": lines.append}
    stopped = rlx.fit("sac", line, total_env_steps=128, **ONLINE | follow)
    assert lines == stopped.metrics and lines[-1]["run_step"] == 48
    assert stopped.run_step == 48 and "callback" in stopped.stopped and same(stopped.continue_training(), longer)
    interrupted = rlx.fit("sac", line, total_env_steps=128, **ONLINE, callbacks=at(48, raise_interrupt))
    assert (interrupted.run_step, interrupted.stopped) == (48, "interrupted") and same(interrupted, stopped)
    copy = pickle.loads(pickle.dumps(short))
    assert same(copy, short) and repr(copy) == repr(short)
    np.testing.assert_array_equal(copy.act(np.ones(2)), short.act(np.ones(2)))
    for result, totals, words in (
        (copy, {"total_env_steps": 128}, "no training state"),
        (short, {}, "total_env_steps: the run is finished; give more than 64"),
        (short, {"total_env_steps": 32}, "total_env_steps=32: is less than the run's 64"),
    ):
        with pytest.raises(RlxError, match=words):
            result.continue_training(**totals)


def test_a_run_in_a_folder_is_resumed_by_the_command(longer: rlx.Result, line: str, tmp_path: Path, say: Say) -> None:
    """After Ctrl-C, and after a callback failed; the exception holds the result."""
    place: dict[str, Any] = {"total_env_steps": 128, "run_dir": tmp_path} | ONLINE
    interrupt = at(48, lambda: os.kill(os.getpid(), signal.SIGINT))
    result = rlx.fit("sac", line, **place, run_name="a", callbacks=interrupt)
    assert result.stopped == "interrupted" and 48 <= result.run_step < 128 and result.folder == tmp_path / "a"
    assert json_files.read(tmp_path / "a" / "status.json")["state"] == "interrupted"
    assert say("train", "--resume", tmp_path / "a", "--quiet").code == 0 and same(rlx.load(tmp_path / "a"), longer)
    with pytest.raises(ZeroDivisionError) as caught:
        rlx.fit("sac", line, **place, run_name="b", callbacks=at(32, lambda: 1 / 0))
    held: rlx.Result = caught.value.result  # type: ignore[attr-defined]
    assert held.run_step == 32 and same(held.continue_training(), longer)


def test_a_run_of_an_object_needs_the_object_again(line: str, tmp_path: Path, say: Say) -> None:
    rlx.fit("sac", rlx.envs.make(line), total_env_steps=32, run_dir=tmp_path, run_name="a", **ONLINE)
    with pytest.raises(RlxError, match=r"Line was an object.*load\(folder, env=.*file\.py:Line"):
        rlx.load(tmp_path / "a")
    for env in (rlx.envs.make(line), line):
        assert rlx.load(tmp_path / "a", env).run_step == 32
    for command in (["eval"], ["play"], ["export", "--out", tmp_path / "p"], ["collect", "--out", tmp_path / "d"]):
        said = say(command[0], tmp_path / "a", *command[1:])
        assert said.code == 2 and "was an object" in said.err and said.err.count("\n") == 1, said.err
    resumed = say("train", "--resume", tmp_path / "a", "--total-env-steps", 64)
    assert resumed.code == 2 and "was an object" in resumed.err


def test_commands_name_members_by_their_hyper_parameters(line: str, tmp_path: Path, say: Say) -> None:
    place: dict[str, Any] = {"total_env_steps": 32, "run_dir": tmp_path, "run_name": "g"} | ONLINE | {"num_seeds": 1}
    rlx.fit("sac", line, critic_lr=[1e-3, 1e-2], **place)
    said = say("eval", tmp_path / "g")
    assert "per member critic_lr=0.001: " in said.out and "of 2 members" in said.err
    said = say("export", tmp_path / "g", "--out", tmp_path / "p", "--member", 1)
    assert "critic_lr=0.01 seed 0 (member 1 of 2" in said.out


def test_a_run_without_an_environment(tmp_path: Path, say: Say) -> None:
    """From arrays in memory and, by the command, from a file: the same bits; nothing is evaluated."""
    arrays = d4rl_arrays(walk([5] * 4))
    np.savez(tmp_path / "walk.npz", **arrays)
    result = rlx.fit("iql", dataset=arrays, **OFFLINE)
    command = ("train", "iql", "--no-env", "--dataset", tmp_path / "walk.npz", "--run-dir", tmp_path)
    said = say(*command, "--run-name", "a", *flags(**OFFLINE))
    assert said.code == 0 and "no policy is evaluated; 20 updates follow\n" in said.err and "critic_loss" in said.out
    loaded = rlx.load(tmp_path / "a")
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, loaded.state, result.state)))
    assert result.config.train.dataset == "the data set (in memory)"
    with pytest.raises(RlxError, match=r"rlx\.data\.write\(dataset, path\) \(rlx\.data\.from_arrays"):
        rlx.fit("iql", dataset=arrays, run_dir=tmp_path, **OFFLINE)
    assert result.config.env == "none:3x2" and result.act(np.zeros(3)).shape == (2,)
    assert result.continue_training(offline_steps=30).run_step == 30
    assert not [name for line in result.metrics for name in line if name.startswith("eval/")]
    with pytest.raises(RlxError, match="nothing to evaluate in"):
        result.evaluate()
    (tmp_path / "fits.py").write_text(
        ENV.replace("(2,)", "(3,)").replace("(1,)", "(2,)").replace("* action", "* action[0]")
    )
    fitting = rlx.load(tmp_path / "a", f"{tmp_path}/fits.py:Line", env_args={"episode_length": 3})
    assert (fitting.evaluate(episodes=2).lengths == 3).all()
    with pytest.raises(RlxError, match="an environment of its sizes"):
        rlx.load(tmp_path / "a", "gymnax:Pendulum-v1")
    with pytest.raises(RlxError, match="env_args: goes with the name"):
        rlx.load(tmp_path / "a", env_args={"limit": 4})
    assert "critic loss" in result.show(tmp_path / "page.html").body and say("runs", tmp_path).code == 0
    refused = [("eval", "a"), ("collect", "a", "--out", tmp_path / "d"), ("play", "a", "--out", tmp_path / "p.html")]
    refused += [("compare", "a")]
    for name, run, *rest in refused:
        said = say(name, tmp_path / str(run), *rest)
        assert said.code == 2 and "without an environment" in said.err and said.err.count("\n") == 1, said.err
    assert say("compare", tmp_path / "a", "--metric", "train/critic_loss").code == 0
    assert say("report", tmp_path / "a").code == 0


def test_a_result_is_shown_without_a_network(short: rlx.Result, tmp_path: Path) -> None:
    page = short.show(tmp_path / "page.html", member=1)
    text = (tmp_path / "page.html").read_text()
    assert page._repr_html_() in text and "<svg" in text and "srcdoc=" in text and "seed=1" in text
    assert not re.search(r"(src|href)=.https?:", text)


def test_a_sweep_is_the_command_s(line: str, tmp_path: Path) -> None:
    place = {"total_env_steps": 32, "run_dir": tmp_path, "run_name": "s"}  # two members, as in the fixtures' programs
    swept = rlx.sweep("sac", line, critic_lr=[1e-3, 1e-2], **ONLINE | place | {"num_seeds": 1})
    assert swept.folder == tmp_path / "s" and (tmp_path / "s" / "sweep.csv").is_file() and swept.confirmed is None
    assert [row["critic_lr"] for row in swept.results] in ([1e-3, 1e-2], [1e-2, 1e-3])
    assert swept.best["critic_lr"] == swept.results[0]["critic_lr"] and "IQM" in repr(swept)
    assert repr(rlx.resume_sweep(tmp_path / "s")) == repr(swept)
    with pytest.raises(RlxError, match=r"critic_lr: a range goes with random"):
        rlx.sweep("sac", line, critic_lr=rlx.Range(1e-5, 1e-3, log=True), run_dir=tmp_path)


@pytest.mark.parametrize(
    ("flags", "arguments"),
    [
        ("--num-envs 0: must be at least 1", "num_envs=0: must be at least 1"),
        ("--driver fuzed: unknown; did you mean fused?", "driver='fuzed': unknown; did you mean fused?"),
        ("--ratio 8: must be two, as 8:4", "ratio=8: must be two, as 8:4"),
        ("raise it or lower --num-envs", "raise it or lower num_envs"),
        ("raise --total-env-steps instead (--max-magnitude)", "raise total_env_steps instead (max_magnitude)"),
        ("or by --on-nonfinite skip", "or by on_nonfinite='skip'"),
        ("leave them by --no-normalize-observations", "leave them by normalize_observations=False"),
        ("go on with `rlx train --resume a --keep 1`", "go on with `rlx train --resume a --keep 1`"),
        ("--run-name '../x': use letters", "run_name='../x': use letters"),
    ],
)
def test_messages_speak_of_arguments(flags: str, arguments: str) -> None:
    assert in_python(flags) == arguments


@pytest.mark.parametrize("agent", ["sac", "tqc", "td3", "pql", "iql", "idql", "awac", "rebrac"])
def test_the_value_of_an_action_is_the_critics(agent: str) -> None:
    """The smaller of two critics' values; TQC's actor reads the mean of all quantiles."""
    module = rlx.agents.load(agent)
    spec = rlx.envs.make("none:3x2").spec
    config = probes.small(module.Config, width=4, num_critics=2)
    agent_record = module.make(config, spec)
    observation, action = (np.random.default_rng(0).normal(size=(5, size)).astype(np.float32) for size in (3, 2))

    @jax.jit
    def values(key: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        state = agent_record.init(key)
        learner = state.critic.learner
        doubled = [jax.tree.map(lambda x, i=i: jnp.stack([x[i], x[i]]), learner.params) for i in (0, 1)]  # i, twice
        halves = [state.critic.replace(learner=learner.replace(params=params)) for params in doubled]
        found, *each = (agent_record.q_value(half, observation, action) for half in (state.critic, *halves))
        return found, each

    found, each = values(jax.random.key(0))
    pooled = jnp.mean(jnp.stack(each), 0) if agent == "tqc" else jnp.minimum(*each)
    np.testing.assert_allclose(found, pooled, rtol=1e-5)
    assert each[0].shape == (5,) and not np.allclose(*each)


def test_the_package_lists_what_it_offers() -> None:
    offered = {"fit", "load", "sweep", "Result", "RlxError", "agents", "data", "envs"}
    assert offered <= set(dir(rlx)) and all(hasattr(rlx, name) for name in dir(rlx))
