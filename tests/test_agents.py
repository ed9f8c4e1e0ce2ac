"""Every agent in the registry: problems with known answers, the promises of its record, its presets."""

from __future__ import annotations

import dataclasses
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx
from rlx import agents, config, envs
from rlx.commands import main as cli
from rlx.errors import RlxError
from rlx.train.config import make_offline_plan, make_plan
from rlx.types import Agent, Key
from tests import probes

# Changes to an agent's Config for the tests, one set for each variant of it; the first makes it small.
VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "tqc": ({"num_critics": 3, "num_quantiles": 7},),
    "pql": ({}, {"distributional": True, "num_atoms": 41}),
    "idql": ({"score_width": 32, "score_blocks": 1, "time_features": 16},),
}
IMITATORS = {"bc"}  # who ask no value, and so cannot know what is best
SAMPLERS = {"idql"}  # who choose, greedily too, among actions drawn at random
CASES = [(name, variant) for name in agents.REGISTRY for variant in range(len(VARIANTS.get(name, [{}])))]
every_agent = pytest.mark.parametrize(("name", "variant"), CASES)

UPDATES, BATCH = 1000, 64


def make(name: str, variant: int) -> Agent:
    module = agents.load(name)
    return module.make(probes.small(module.Config, **VARIANTS.get(name, [{}])[variant]), probes.SPEC)


@cache
def learner(name: str, variant: int) -> Any:
    return probes.learner(make(name, variant))


def answers(name: str, variant: int, problem: str, **hypers: float) -> probes.Answers:
    probe = probes.PROBES[problem]
    data, asked = probes.batches(probe, UPDATES, BATCH), probes.questions(probe, BATCH)
    quick = probes.quick(agents.load(name).Hypers, **hypers)
    return jax.device_get(learner(name, variant)(quick, data, asked, jax.random.key(0)))


@every_agent
@pytest.mark.parametrize("problem", probes.PROBES)
def test_probe(name: str, variant: int, problem: str) -> None:
    found = answers(name, variant, problem)
    for i, query in enumerate(probes.PROBES[problem].queries):
        if found.value is not None:
            assert found.value[i] == pytest.approx(query.value, abs=0.05, rel=0.02)
        if query.best is not None and name not in IMITATORS:
            assert found.greedy[i] == pytest.approx(query.best, abs=0.1)


@every_agent
def test_reward_scale(name: str, variant: int) -> None:
    """The scale is part of the value and traced: the probes' program serves this one too."""
    found = answers(name, variant, "value", reward_scale=2.0)
    if found.value is not None:
        np.testing.assert_allclose(found.value, 2.0, atol=0.1)


@every_agent
def test_acting(name: str, variant: int) -> None:
    """One observation or a batch, actions in [-1, 1]; the greedy ones do not depend on the key but for samplers."""
    agent = make(name, variant)
    policy = agent.acting_params(agent.init(jax.random.key(0)))
    shapes = ((1,), (2, 3, 1))

    @jax.jit
    def act(key: Key) -> list[list[jax.Array]]:
        return [[a(policy, jnp.ones(shape), key)[0] for shape in shapes] for a in (agent.act, agent.act_greedy)]

    explored, greedy = act(jax.random.key(1))
    for actions in (explored, greedy):
        assert [action.shape for action in actions] == list(shapes)
        assert all(action.dtype == jnp.float32 and (jnp.abs(action) <= 1).all() for action in actions)
    for action, again in zip(greedy, act(jax.random.key(1 if name in SAMPLERS else 2))[1], strict=True):
        np.testing.assert_array_equal(action, again)


@every_agent
def test_state(name: str, variant: int) -> None:
    """Leaves share no memory (so they may be donated), have strong types, and hyper-parameters are in both halves."""
    agent, hypers = make(name, variant), agents.load(name).Hypers()
    state = agent.init(jax.random.key(0), hypers)
    leaves = jax.tree.leaves(state)
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)
    assert not any(leaf.weak_type for leaf in leaves)
    assert {"gamma", "reward_scale"} <= set(vars(hypers))
    changed = state.with_hypers(state.critic.hypers.replace(gamma=jnp.float32(0.5)))
    assert changed.critic.hypers.gamma == changed.actor.hypers.gamma == 0.5


@every_agent
def test_gradients_through_updates_are_finite(name: str, variant: int) -> None:
    """Of what three updates lead to, by the learning rate, also where a ReLU left a gradient at exactly 0."""
    agent, module = make(name, variant), agents.load(name)
    data = probes.batches(probes.PROBES["policy"], 3, 8)

    def loss(actor_lr: jax.Array) -> jax.Array:
        state = agent.init(jax.random.key(0), module.Hypers(actor_lr=actor_lr))
        _, metrics = jax.lax.scan(lambda s, batch: agent.update(s, batch, jax.random.key(1)), state, data)
        return metrics["actor_loss"][-1]

    assert jnp.isfinite(jax.jit(jax.grad(loss))(3e-3))


@every_agent
def test_update_of_many(name: str, variant: int) -> None:
    """A donated update of three seeds at once gives what each alone gives, and counts in both halves."""
    agent = make(name, variant)
    data = jax.tree.map(lambda x: x[0], probes.batches(probes.PROBES["policy"], 1, 8))
    keys = jax.random.split(jax.random.key(0), 3)
    states = jax.vmap(agent.init)(keys)
    alone = [jax.jit(agent.update)(jax.tree.map(lambda x, i=i: x[i], states), data, key) for i, key in enumerate(keys)]
    many = jax.jit(jax.vmap(agent.update, in_axes=(0, None, 0)), donate_argnums=0)
    together = many(states, data, keys)
    for i, one in enumerate(alone):
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-3, atol=2e-5), together, one)
    assert together[0].critic.step.tolist() == together[0].actor.step.tolist() == [1, 1, 1]


@every_agent
def test_float64_stays_outside(name: str, variant: int) -> None:
    """Under jax_enable_x64, and with data in float64, states scan and actions are float32 as without it."""
    agent = make(name, variant)
    data = jax.tree.map(lambda x: np.asarray(x[0], np.float64), probes.batches(probes.PROBES["policy"], 1, 8))
    with jax.enable_x64(True):
        state = jax.eval_shape(agent.init, jax.random.key(0))
        assert {leaf.dtype for leaf in jax.tree.leaves(state)} <= {jnp.dtype(jnp.float32), jnp.dtype(jnp.int32)}
        after, _ = jax.eval_shape(agent.update, state, data, jax.random.key(1))
        assert after == state
        for act in (agent.act, agent.act_greedy):
            policy = jax.eval_shape(agent.acting_params, state)
            action, _ = jax.eval_shape(act, policy, data.observation, jax.random.key(1))
            assert action.dtype == jnp.float32


def test_time_limit_in_the_driver() -> None:
    """Reward 1 a step, cut after every fifth: three-step windows cross the cuts, the value is still 1 / (1 - gamma)."""
    env, module = probes.EndlessReward(), agents.load("sac")
    result = rlx.fit(
        "sac", env, total_env_steps=1600, num_envs=4, warmup_env_steps=40, ratio="4:4", batch_size=32,
        n_step=3, pool_size=4, eval_episodes=1, eval_every=1600, log_every=1600,
        **dataclasses.asdict(probes.small(module.Config)), **vars(probes.quick(module.Hypers)),
    )  # fmt: skip
    assert result.evaluation.lengths.item() == 5
    critic = module.make_critic(result.config.network, env.spec)
    params = jax.tree.map(lambda x: x[0], result.state.critic.params)
    found = critic.apply(params, jnp.zeros((1, 1)), jnp.zeros((1, 1)))
    np.testing.assert_allclose(found, probes.FOR_EVER, rtol=0.03)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"agent": None}, "an agent is the name of one or a module, not NoneType: give the file's module"),
        (
            {"env": envs.to_gymnasium(envs.make("gymnax:Pendulum-v1"))},
            "env GymnasiumEnv: is no environment with rlx's spec, *",
        ),
        ({"env": envs.vectorise(probes.EndlessReward(), 1, 1)}, "env VectorEnv: is no environment with rlx's spec, *"),
        ({"env": probes.EndlessReward}, "env EndlessReward: is no environment with rlx's spec, *"),
        ({"env": probes.EndlessReward(), "backend": "mjx"}, "EndlessReward has one physics only: leave out the *"),
        ({"progress": True}, "progress True: must be a function of a line of metrics, such as print"),
        ({"preset": 4}, "--preset 4: must be text"),
    ],
)
def test_what_fit_cannot_take(given: dict[str, Any], message: str) -> None:
    """Is said in one line, before anything is compiled."""
    with pytest.raises(RlxError) as error:
        rlx.fit(**{"agent": "sac", "env": "gymnax:Pendulum-v1"} | given)
    assert fnmatchcase(str(error.value), message)


@pytest.mark.parametrize("name", agents.REGISTRY)
def test_presets(name: str) -> None:
    """Every preset is for an environment that is there, and holds settings that can be."""
    known = envs.names()
    for key in agents.load(name).PRESETS:
        env, _, preset = key.replace("*", "brax:ant").partition("@")
        found = config.resolve(name, env, preset=preset or None)
        if found.train.offline_steps:
            make_offline_plan(dataclasses.replace(found.train, dataset="there"), shards=1)
        if found.train.total_env_steps:
            make_plan(found.train, shards=1)
        assert found.backend is None or found.backend in known[env]


def test_named_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    """`*` is below everything; a named preset stands in place of the environment's own, and not on top of it."""
    presets = {
        "*": {"n_step": 3, "tau": 0.1},
        "brax:ant": {"num_envs": 64, "tau": 0.2},
        "*@large": {"num_envs": 4096},
        "brax:ant@large": {"reward_scale": 0.01},
        "brax:hopper@other": {},
    }
    monkeypatch.setattr(agents.load("pql"), "PRESETS", presets)
    assert config.presets("pql", "brax:hopper") == {"n_step": 3, "tau": 0.1}
    assert config.presets("pql", "brax:ant") == {"n_step": 3, "num_envs": 64, "tau": 0.2}
    large = {"n_step": 3, "tau": 0.1, "num_envs": 4096}
    assert config.presets("pql", "brax:hopper", "large") == large
    assert config.presets("pql", "brax:ant", "large") == large | {"reward_scale": 0.01}
    with pytest.raises(RlxError, match=r"--preset larger: unknown for pql on brax:ant; choose from large$"):
        config.resolve("pql", "brax:ant", preset="larger")
    monkeypatch.setattr(agents.load("pql"), "PRESETS", {})
    with pytest.raises(RlxError, match="there are none: leave it out"):
        config.resolve("pql", "brax:ant", preset="large")


def test_preset_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    impossible = ["--num-envs", "0"]  # ends the run here, should the preset's name be ignored
    assert cli.main(["train", "pql", "--env", "brax:ant", "--preset", "nothing", *impossible]) == 2
    assert capsys.readouterr().err == "rlx: --preset nothing: unknown for pql on brax:ant; choose from 4096\n"
    assert cli.main(["list"]) == 0
    assert "brax:ant@4096" in capsys.readouterr().out
