"""From flags and presets to what runs: precedence, checks, plans, and config.json there and back."""

import dataclasses
import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from rlx import agents, config, settings
from rlx.errors import RlxError
from rlx.runs import saver
from rlx.train.config import MOST, TrainConfig
from rlx.train.plan import make_plan
from tests.commands import one_line

ENV = "gymnax:Pendulum-v1"


def test_given_over_preset_over_default(monkeypatch: pytest.MonkeyPatch) -> None:
    preset = {"num_envs": 7, "tau": 0.5, "critic_hidden_sizes": (9,), "backend": "spring"}
    monkeypatch.setattr(agents.load("sac"), "PRESETS", {ENV: preset}, raising=False)
    result = config.resolve("sac", ENV, gamma=0.5, num_envs=8)
    assert (result.train.num_envs, result.train.batch_size) == (8, TrainConfig.batch_size)
    assert result.network.critic_hidden_sizes == (9,) and result.network.actor_hidden_sizes == (256, 256)
    assert (result.hypers["gamma"], result.hypers["tau"], result.hypers["reward_scale"]) == ((0.5,), (0.5,), (1.0,))
    assert result.backend == "spring" and config.resolve("sac", ENV, "mjx").backend == "mjx"
    assert config.resolve("sac", "brax:ant").train.num_envs == TrainConfig.num_envs


def test_wrappers_of_a_preset_are_for_runs_without_a_data_set() -> None:
    def wrappers(**values: Any) -> tuple[str, ...]:
        return config.resolve("sac", "brax:walker2d", **values).train.wrappers

    assert wrappers() == ("action_repeat:4",)
    assert wrappers(dataset="data") == ()
    assert wrappers(dataset="data", wrappers=["history:2"]) == ("history:2",)


@pytest.mark.parametrize("name", agents.REGISTRY)
def test_every_setting_is_reached_by_one_name(name: str) -> None:
    """No two of the three dataclasses share a name, none is the command line's own, and each comes with a help text."""
    module = agents.load(name)
    fields = [f.name for cls in (TrainConfig, module.Config, module.Hypers) for f in dataclasses.fields(cls)]
    known = config.settings(name)
    assert sorted(fields) == sorted(known)
    assert not {"env", "backend", "preset", "run_dir", "run_name", "overwrite", "init_from", "quiet"} & set(known)
    assert all(setting.help and setting.type in (int, float, bool, str) for setting in known.values())


@pytest.mark.parametrize(
    ("name", "value", "result"),
    [
        ("total_env_steps", "2e5", 200_000),
        ("num_envs", 64.0, 64),
        ("noise_max", "0.5", 0.5),
        ("normalize_observations", False, False),
        ("critic_hidden_sizes", ["8", "16"], (8, 16)),
        ("critic_hidden_sizes", 8, (8,)),
        ("critic_lr", ["1e-4", 3e-4], (1e-4, 3e-4)),
        ("ratio", "8:4", "8:4"),
    ],
)
def test_values_become_their_types(name: str, value: Any, result: Any) -> None:
    flat = config.flat(config.resolve("sac", ENV, **{name: value}))
    assert flat[name] == result and type(flat[name]) is type(result)


@pytest.mark.parametrize(
    ("agent", "name", "value", "words"),
    [
        ("sac", "num_env", 3, "unknown setting 'num_env' of sac: did you mean num_envs?"),
        ("sac", "num_envs", "3.5", "--num-envs 3.5: must be an integer"),
        ("sac", "num_envs", True, "--num-envs True: must be an integer"),
        ("sac", "num_envs", "inf", "--num-envs inf: must be an integer"),
        ("sac", "num_envs", [1, 2], "--num-envs: takes one value, not 2"),
        ("sac", "keep", [], "--keep: takes one value, not 0"),  # --keep=--
        ("sac", "critic_lr", [], "--critic-lr: needs at least one value"),
        ("sac", "critic_lr", "nan", "--critic-lr nan: must be a finite number"),
        ("sac", "critic_lr", [1e-3, float("inf")], "--critic-lr inf: must be a finite number"),
        ("sac", "critic_lr", None, "--critic-lr None: must be a finite number"),
        ("sac", "normalize_observations", "yes", "--normalize-observations yes: must be true or false"),
        ("sac", "ratio", 8, "--ratio 8: must be text"),
        ("sac", "activation", "rleu", "--activation rleu: unknown; did you mean relu?"),
        ("sac", "critic_hidden_sizes", [64, 0], "--critic-hidden-sizes 0: must be at least 1 and at most 1000000"),
        ("sac", "critic_hidden_sizes", 10**9, "--critic-hidden-sizes 1000000000: must be at least 1 and at most"),
        ("sac", "num_seeds", "1e9", "--num-seeds 1000000000: must be at least 1 and at most 1000000"),
        ("sac", "pool_size", "1e9", "--pool-size 1000000000: must be at least 1 and at most 1000000"),
        ("sac", "reward_scale", 1e39, "--reward-scale 1e+39: is beyond float32"),
        ("sac", "reward_scale", 1e-60, "--reward-scale 1e-60: is beyond float32; give 0, or 1.2e-38 to 3.4e+38"),
        ("sac", "target_entropy_per_action", 0.7, "--target-entropy-per-action 0.7: must be at most 0.6931471806"),
        ("iql", "value_loss", "x", "--value-loss x: unknown; choose from expectile, quantile, exponential"),
        ("idql", "num_samples", 0, "--num-samples 0: must be at least 1"),
        ("idql", "time_features", 7, "--time-features 7: must be even, a cosine and a sine each"),
        ("idql", "dropout", 2, "--dropout 2: must be at least 0 and at most 0.999"),
        ("tqc", "drop_per_critic", -1, "--drop-per-critic -1: must be at least 0"),
        ("tqc", "drop_per_critic", 26, "--drop-per-critic 26: must be under --num-quantiles"),
        ("pql", "num_atoms", 1, "--num-atoms 1: must be at least 2"),
        ("td3_bc", "policy_delay", 0, "--policy-delay 0: must be at least 1"),
        ("bc", "actor_decay_steps", -2, "--actor-decay-steps -2: must be at least -1"),
    ],
)
def test_values_that_cannot_be(agent: str, name: str, value: Any, words: str) -> None:
    with one_line(words):
        config.resolve(agent, ENV, **{name: value})


def test_settings_that_contradict_each_other() -> None:
    """Every combination of hyper-parameters is looked at, and so is a record that never passes `resolve`."""
    resolve = partial(config.resolve, env=ENV)
    pql, tqc, iql = (agents.load(name) for name in ("pql", "tqc", "iql"))
    resolve("pql", v_min=[0, 2], v_max=[1, 3], paired=True)
    resolve("fast_td3", explore_min=0.4, explore_max=0.4)
    above = jnp.array([1.0, 3.0])
    settings.check(pql.Hypers(v_min=jnp.array([0.0, 2.0]), v_max=above))
    for words, wrong in {
        "--v-min 2.0: must be under --v-max 1.0": lambda: resolve("pql", v_min=[0, 2], v_max=[1, 3]),
        "--explore-min 0.5: must not be over --explore-max 0.4": lambda: resolve("fast_td3", explore_min=[0.1, 0.5]),
        "--noise-min 0.2: must not be over --noise-max 0.1": lambda: resolve("td3", noise_min=0.2),
        "--drop-per-critic 7: must be under": lambda: resolve("tqc", drop_per_critic=7, num_quantiles=7),
        " 1001000 runs": lambda: resolve("sac", num_seeds=1000, gamma=[0.5] * 1001),
        "must be under --v-max [1. 3.]": lambda: settings.check(pql.Hypers(v_min=np.array([0, 3.0]), v_max=above)),
        "--gamma 1.5: must be at least 0": lambda: settings.check(pql.Hypers(gamma=np.array([0.9, 1.5]))),
        "--drop-per-critic 9: must": lambda: settings.check(tqc.Config(drop_per_critic=9, num_quantiles=9)),
        "did you mean expectile?": lambda: settings.check(iql.Config(value_loss="expectil")),
        "--actor-hidden-sizes 2.5: must": lambda: settings.check(iql.Config(actor_hidden_sizes=(8, 2.5))),
    }.items():
        with one_line(words):
            wrong()


@pytest.mark.parametrize("agent", agents.REGISTRY)
def test_numbers_lie_within_what_makes_sense(agent: str) -> None:
    """Every agent's discount is a share and its learning rates are not negative; the ends are included."""
    known = config.settings(agent)
    bounds = {name: (0.0, 1.0) for name in ("gamma", "tau", "expectile", "ema")}
    bounds |= {name: (0.0, math.inf) for name in known if name.endswith("_lr")}
    for name in bounds.keys() & known.keys():
        assert known[name].within == bounds[name]
    assert config.resolve(agent, ENV, gamma=(0, 1)).hypers["gamma"] == (0, 1)
    for value in (1.01, (0.5, -0.1)):
        with pytest.raises(RlxError, match=r"--gamma \S+: must be at least 0 and at most 1$"):
            config.resolve(agent, ENV, gamma=value)
    rate = "actor_lr" if "actor_lr" in known else "critic_lr"
    with pytest.raises(RlxError, match=rf"--{rate.replace('_', '-')} -1: must be at least 0$"):
        config.resolve(agent, ENV, **{rate: -1})


def test_members_are_every_value_with_every_seed() -> None:
    result = config.resolve("sac", ENV, seed=5, num_seeds=2, critic_lr=[1e-3, 1e-4], tau=[0.1, 0.2])
    members = [(m["critic_lr"], m["tau"], m["seed"]) for m in config.members(result)]
    assert members == [(lr, tau, seed) for tau in (0.1, 0.2) for lr in (1e-3, 1e-4) for seed in (5, 6)]
    assert all(set(m) == {*result.hypers, "seed"} for m in config.members(result))


def test_paired_values_go_together(tmp_path: Path) -> None:
    """The first of each, then the second; one value goes with all. config.json says so, and only then."""
    result = config.resolve("sac", ENV, num_seeds=2, critic_lr=[1e-3, 1e-4], tau=[0.1, 0.2], gamma=0.9, paired=True)
    members = [(m["critic_lr"], m["tau"], m["gamma"], m["seed"]) for m in config.members(result)]
    assert members == [(lr, tau, 0.9, seed) for lr, tau in ((1e-3, 0.1), (1e-4, 0.2)) for seed in (0, 1)]
    (tmp_path / "config.json").write_text(json.dumps(config.to_json(result)))
    assert config.from_json(tmp_path / "config.json") == result
    product = dataclasses.replace(result, paired=False)
    assert len(config.members(product)) == 8 and "paired" not in config.to_json(product)
    assert saver.identity(product) != saver.identity(result)
    with pytest.raises(RlxError, match=r"^paired hyper-parameters have 2 and 3 values: give as many each$"):
        config.resolve("sac", ENV, critic_lr=[1e-3, 1e-4], tau=[0.1, 0.2, 0.3], paired=True)
    assert len(config.members(config.resolve("sac", ENV, paired=True))) == 1


@pytest.mark.parametrize("name", agents.REGISTRY)
def test_json_and_back(name: str, tmp_path: Path) -> None:
    """Every preset, with lists and settings of every type changed, comes back as it was."""
    changes = {"seed": 3, "noise_max": 0.25, "normalize_observations": False, "gamma": [0.9, 0.99], "ratio": "3:2"}
    cases: list[Any] = [(ENV, None, None, changes), ("brax:ant", "generalized", None, {})]
    for key in agents.tuned_settings(name):
        env, _, preset = key.replace("*", "brax:ant").partition("@")
        cases.append((env, None, preset or None, {}))
    for env, backend, preset, settings_of_user in cases:
        result = config.resolve(name, env, backend, preset, **settings_of_user)
        (tmp_path / "config.json").write_text(json.dumps(config.to_json(result)))
        assert config.from_json(tmp_path / "config.json") == result


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("[1, 2]", "list indices"),
        ("\x00\xff", "Expecting value"),
        ('{"agent": "sa', "Unterminated string"),
        ({"env": None}, "'env' is missing"),
        ({"agent": ["sac"]}, "unhashable"),
        ({"settings": 3}, "mapping"),
        ({"settings": {"tua": 1}}, "unknown setting 'tua' of sac: did you mean tau?"),
        ({"settings": {"tau": "x"}}, "--tau x: must be a finite number"),
    ],
)
def test_a_damaged_config(content: Any, words: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    if isinstance(content, dict):
        content_of_run = config.to_json(config.resolve("sac", ENV)) | content
        content = json.dumps(
            {name: value for name, value in content_of_run.items() if value is not None or name == "backend"}
        )
    path.write_text(content)
    with one_line(f"{path}: is damaged (", words, "; restore it from a copy"):
        config.from_json(path)


SMALL = TrainConfig(num_envs=8, rollout_length=2, total_env_steps=1000, warmup_env_steps=100, replay_capacity=500)


def plan(shards: int = 1, **changes: Any) -> Any:
    train = dataclasses.replace(SMALL, **changes)
    settings.check(train)
    return make_plan(train, shards)


def test_plan() -> None:
    """Iterations of 16 environment steps: rounded up, the ring down to whole blocks, evaluations to log points."""
    result = plan(ratio="8:4", log_every=100, eval_every=150)
    assert (result.critic_updates, result.actor_updates, result.iteration_env_steps) == (8, 4, 16)
    assert (result.iterations, result.warmup_iterations, result.slots) == (63, 7, 62)
    assert (result.log_iterations, result.eval_iterations) == (7, 14)
    assert (result.shard_envs, result.shard_batch, result.shard_pool) == (8, 256, 128)
    sharded = plan(shards=4)
    assert (sharded.shards, sharded.shard_envs, sharded.shard_batch, sharded.shard_pool) == (4, 2, 64, 32)
    shortest = plan(warmup_env_steps=0, n_step=5)
    assert shortest.warmup_iterations == 3  # until a window of five is there
    assert (shortest.log_iterations, shortest.eval_iterations) == (1, 6)  # a fiftieth and a tenth of the run
    often = plan(total_env_steps=16_000, eval_every=32, checkpoint_every=48)  # more often than fifty times
    assert (often.log_iterations, often.eval_iterations, often.checkpoint_iterations) == (2, 2, 4)
    # a report's sums are of float32, where 2^24 and 1 is 2^24
    longest = plan(num_envs=1, rollout_length=1, total_env_steps=2**30, log_every=2**29, eval_every=2**29)
    assert longest.iterations == 2**30 and longest.log_iterations == 2**24
    assert longest.eval_iterations == longest.checkpoint_iterations == 2**29


OFFLINE = {"dataset": "some", "offline_steps": 10**12}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_envs": 0}, "--num-envs 0: must be at least 1 and at most 1000000"),
        ({"eval_episodes": -1}, "--eval-episodes -1: must be at least 1 and at most 1000000"),
        ({"noise_max": float("nan")}, "--noise-max nan: must be a finite number"),
        ({"observation_clip": 0.0}, "--observation-clip 0: must be at least 1e-06"),
        ({"seed": 2**32 - 1, "num_seeds": 2}, "--seed 4294967295: must stay under 2^32"),
        ({"replay_dtype": "int8"}, "--replay-dtype int8: unknown; choose from float32, bfloat16, float64"),
        ({"driver": "fussed"}, "--driver fussed: unknown; did you mean fused?"),
        ({"spread": "both"}, "--spread both: unknown; choose from data, seeds"),
        ({"depth": 1}, "--depth 1: must be at least 2 and at most 4"),
        ({"replay_dtype": "float64"}, "--replay-dtype float64: must be float32 or bfloat16 without jax_enable_x64"),
        ({"num_envs": 8.5}, "--num-envs 8.5: must be an integer"),
        ({"keep": True}, "--keep True: must be an integer"),
        ({"batch_size": 501}, "--batch-size 501: is over --replay-capacity 500"),
        ({"replay_capacity": 15}, "--replay-capacity 15: must hold a block of 16 transitions; raise it or lower"),
        ({"n_step": 64}, "--replay-capacity 500: must hold a block of 512 transitions"),
        ({"warmup_env_steps": 1000}, "--total-env-steps 1000: ends before the first update, after 1008 steps"),
        ({"total_env_steps": 10**11}, f"--total-env-steps 100000000000: more than {MOST} vector steps"),
        ({"replay_capacity": 10**11}, f"--replay-capacity 100000000000: more than {MOST} vector steps"),
        (OFFLINE, f"--offline-steps 1000000000000: more than {MOST} iterations"),
        ({"shards": 2, "num_envs": 9}, "--num-envs 9: must be divisible by the 2 shards"),
        ({"shards": 2, "batch_size": 255}, "--batch-size 255: must be divisible by the 2 shards"),
        ({"shards": 2, "pool_size": 127}, "--pool-size 127: must be divisible by the 2 shards"),
        *(
            ({"ratio": text}, f"--ratio {text}: must be two integers")
            for text in ("8", "8:", ":8", "8:4:2", "0:0", "-1:1", "1.5:1", "a:b", "²:1", "8/4")
        ),
    ],
)
def test_plans_that_cannot_be(changes: dict[str, Any], words: str) -> None:
    with one_line(words):
        plan(**changes)
