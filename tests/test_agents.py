"""The registry of agents: presets, agents from outside, and what `rlx.fit` refuses."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx
from rlx import agents, config, envs
from rlx.errors import RlxError
from tests import probes
from tests.commands import Said, one_line


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module `mine`, imported from a file that is no part of rlx."""
    text = "from rlx.agents.bc import Config, Hypers, make\nPRESETS = {'*': {'actor_lr': 0.5}}\n"
    (tmp_path / "mine.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(agents, "REGISTRY", dict(agents.REGISTRY))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    import mine

    module: ModuleType = mine
    return module


def test_a_module_is_registered_under_the_last_part_of_its_name(outside: ModuleType) -> None:
    """But not without one of its parts, nor under a known name."""
    assert agents.register(outside) == agents.register(outside) == "mine"
    assert agents.load("mine") is outside and "actor_lr" in config.settings("mine")
    assert config.presets("mine", "brax:ant") == {"actor_lr": 0.5}
    del outside.PRESETS  # which are optional
    assert config.presets("mine", "brax:ant") == {}
    del agents.REGISTRY["mine"]
    outside.__name__ = "elsewhere.sac"
    with pytest.raises(RlxError, match=r"'sac' .*rename the file sac\.py$"):
        agents.register(outside)
    outside.__name__ = "mine"
    del outside.make
    with pytest.raises(RlxError, match=r"^mine .* no make; it needs Config, "):
        agents.register(outside)
    assert "mine" not in agents.REGISTRY and agents.REGISTRY["sac"] == "rlx.agents.sac"


def test_time_limit_in_the_driver() -> None:
    """Reward 1 a step, cut after every fifth: three-step windows cross the cuts, the value is still 1 / (1 - gamma)."""
    env, module = probes.EndlessReward(), agents.load("sac")
    result = rlx.fit(
        "sac", env, total_env_steps=1600, num_envs=4, warmup_env_steps=40, ratio="4:4", batch_size=32,
        n_step=3, pool_size=4, eval_episodes=1, eval_every=1600, log_every=1600,
        **dataclasses.asdict(probes.small(module.Config)),
        **vars(probes.quick(module.Hypers, alpha_init=1e-3, alpha_lr=0.0)),
    )  # fmt: skip
    assert result.evaluation.lengths.item() == 5
    nets = module.make_networks(result.config.network, env.spec)
    params = jax.tree.map(lambda x: x[0], result.state.critic.learner.params)
    actual = nets.critic.apply(params, jnp.zeros((1, 1)), jnp.zeros((1, 1)))
    np.testing.assert_allclose(actual, probes.FOR_EVER, rtol=0.03)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"agent": None}, "an agent is the name of one or a module, not NoneType: give the file's module"),
        ({"env": envs.to_gymnasium(envs.make("gymnax:Pendulum-v1"))}, "GymnasiumEnv is a Gymnasium environment, *"),
        ({"env": envs.vectorise(probes.EndlessReward(), 1, 1)}, "VectorEnv is no environment with rlx's spec, *"),
        ({"env": probes.EndlessReward}, "EndlessReward is a class: *"),
        ({"env": probes.EndlessReward(), "backend": "mjx"}, "EndlessReward has one physics only: leave out the *"),
        ({"progress": 3}, "progress: 3 is neither True, False nor a function*"),
        ({"preset": 4}, "preset=4: must be text"),
        ({"callbacks": 3}, "callbacks: 3 is no function; give functions of (metrics, state)"),
        ({"callbacks": lambda metrics: None}, "callbacks: * must take two arguments, (metrics, state)"),
        ({"num_envs": 0}, "num_envs=0: must be at least 1 and at most 1000000"),
        ({"split": "2,1", "driver": "pipelined"}, "split='2,1': must be 1, auto, or three integers *"),
        ({"batch_size": 500, "replay_capacity": 400}, "batch_size=500: is over replay_capacity=400; lower it *"),
        ({"total_env_steps": 0, "offline_steps": 9}, "missing dataset: offline_steps=9 learn from data; give one *"),
        ({"total_timesteps": 9}, "unknown setting 'total_timesteps' of sac: did you mean total_env_steps?"),
        ({"learning_rate": 9}, "unknown setting 'learning_rate' of sac: did you mean actor_lr and critic_lr?"),
        ({"buffer_size": 9}, "unknown setting 'buffer_size' of sac: did you mean replay_capacity?"),
        ({"discounting": 0.9}, "unknown setting 'discounting' of sac: did you mean gamma?"),
        ({"NUM_ENVS": 9}, "unknown setting 'NUM_ENVS' of sac: did you mean num_envs?"),
        ({"episode_length": 9}, "*did you mean env_args={'episode_length': N}?"),
        ({"box_mass": 9}, "*own goes in env_args={'box_mass': ...}*"),
        ({"verbose": 1}, "unknown setting 'verbose' of sac: did you mean progress?"),
        ({"tensorboard": True}, "tensorboard: is about a run folder; give run_dir, too, or leave it out"),
        ({"keep": 9}, "keep: is about a run folder; give run_dir, too, or leave it out"),
        ({"run_name": "a"}, "run_name: is about a run folder; give run_dir, too, or leave it out"),
        ({"run_dir": 3}, "run_dir: is of type int; give the folder that holds runs"),
        ({"env": None}, "missing env, as in env='brax:ant'; see `rlx list`"),
        ({"dataset": 3}, "dataset: is of type int, which holds no transitions; give a Dataset, *"),
    ],
)
def test_what_fit_cannot_take(settings: dict[str, Any], words: str) -> None:
    """Is said in one line, before anything is compiled."""
    with one_line(*words.split("*")):
        rlx.fit(**{"agent": "sac", "env": "gymnax:Pendulum-v1"} | settings)


def test_named_presets(monkeypatch: pytest.MonkeyPatch, say: Callable[..., Said]) -> None:
    """`*` is below the library's, that below the environment's; a named preset stands in place of the latter two."""
    impossible = ["--num-envs", "0"]  # ends the run here, should the preset's name be ignored
    said = say("train", "pql", "--env", "brax:ant", "--preset", "nothing", *impossible)
    assert said.code == 2 and "--preset nothing: unknown for pql on brax:ant; choose from 4096\n" in said.err
    assert "brax:ant@4096" in say("list").out
    presets = {
        "*": {"n_step": 3, "tau": 0.1, "gamma": 0.9},
        "brax:*": {"num_envs": 32, "gamma": 0.99},
        "brax:ant": {"num_envs": 64, "tau": 0.2},
        "*@large": {"num_envs": 4096},
        "brax:ant@large": {"reward_scale": 0.01},
        "brax:hopper@other": {},
    }
    monkeypatch.setattr(agents.load("pql"), "PRESETS", presets, raising=False)
    assert config.presets("pql", "gymnax:Pendulum-v1") == {"n_step": 3, "tau": 0.1, "gamma": 0.9}
    assert config.presets("pql", "brax:hopper") == {"n_step": 3, "tau": 0.1, "gamma": 0.99, "num_envs": 32}
    assert config.presets("pql", "brax:ant") == {"n_step": 3, "tau": 0.2, "gamma": 0.99, "num_envs": 64}
    large = {"n_step": 3, "tau": 0.1, "gamma": 0.9, "num_envs": 4096}
    assert config.presets("pql", "brax:hopper", "large") == large
    assert config.presets("pql", "brax:ant", "large") == large | {"reward_scale": 0.01}
    with one_line("--preset larger: unknown for pql on brax:ant; choose from large"):
        config.resolve("pql", "brax:ant", preset="larger")
    monkeypatch.setattr(agents.load("pql"), "PRESETS", {}, raising=False)
    with one_line("there are none: leave it out"):
        config.resolve("pql", "brax:ant", preset="large")
