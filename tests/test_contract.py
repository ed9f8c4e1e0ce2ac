"""What every agent must do, whoever wrote it: those of the registry, and those that the documentation writes. Numbers
of an agent's losses are in tests/test_NAME.py, and so is `CONTRACT = probes.Contract(...)` where the checks below need
to know something of it. One case compiles five small programs and one tiny run."""

import dataclasses
import importlib
import json
import re
import shutil
import sys
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import agents, config, envs
from rlx.commands import main as cli
from rlx.export import policy as export
from rlx.runs import checkpoint, policies
from rlx.train import acting
from rlx.train.plan import make_offline_plan, make_plan
from rlx.types import Agent, Key, State, Transition, as_arrays
from tests import kill, probes
from tests.kill_cases import write_dataset
from tests.loss_tools import near
from tests.pages import ROOT, blocks

pytestmark = pytest.mark.usefixtures("reuse_programs")

DOCUMENTED = ("CONTRIBUTING.md", "notebooks/5_new_agent.ipynb")  # each writes an agent
UPDATES, BATCH = 1000, 32
same = partial(near, rtol=1e-3, atol=2e-5)


class Case(NamedTuple):
    """An agent under test: a name of the registry or a page that writes one, and which of its variants."""

    agent: str
    variant: int = 0

    @property
    def is_documented(self) -> bool:
        return self.agent in DOCUMENTED

    @property
    def contract(self) -> probes.Contract:
        if self.is_documented or not (ROOT / "tests" / f"test_{self.agent}.py").exists():
            return probes.Contract()
        return getattr(importlib.import_module(f"tests.test_{self.agent}"), "CONTRACT", probes.Contract())

    @property
    def name(self) -> str:
        """In the registry."""
        return agents.register(written(self.agent)) if self.is_documented else self.agent

    @property
    def changes(self) -> dict[str, Any]:
        """To the agent's Config."""
        return self.contract.config | ({}, *self.contract.variants)[self.variant]


def written(page: str) -> ModuleType:
    """The module that a page writes."""
    if page.endswith(".md"):
        text = next(block.text for block in blocks(ROOT / page) if block.text.startswith("# agents/"))
        name = re.match(r"# agents/(\w+)\.py", text)
    else:
        cells = ["".join(cell["source"]) for cell in json.loads((ROOT / page).read_text())["cells"]]
        parts = [cell.partition("\n") for cell in cells if cell.startswith("%%writefile")]
        name, text = re.search(r"(\w+)\.py", parts[0][0]), "\n".join(part[2] for part in parts)
    assert name is not None
    return _module(f"written.{name[1]}", text)


@cache
def _module(name: str, text: str) -> ModuleType:
    module = sys.modules[name] = ModuleType(name)
    exec(compile(text, name, "exec", dont_inherit=True), module.__dict__)
    return module


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "REGISTRY", dict(agents.REGISTRY))


VARIANTS = [Case(name, i) for name in agents.REGISTRY for i in range(1 + len(Case(name).contract.variants))]
CASES = [*VARIANTS, *map(Case, DOCUMENTED)]


def parameters(cases: list[Case], quick: tuple[str, ...] = ()) -> Any:
    """One parameter for each case; where agents are named as `quick`, others are slow."""
    params = []
    for case in cases:
        marks = [pytest.mark.slow] * bool(quick and case.agent not in quick)
        params.append(pytest.param(case, marks=marks, id=f"{case.agent}-{case.variant}"))
    return pytest.mark.parametrize("case", params)


every_case, every_plain = parameters(CASES), parameters(CASES, quick=("sac",))
every_run = parameters([case for case in CASES if not case.variant], quick=("sac", "iql"))


def plain(case: Case, layers: int = 1, **changes: Any) -> Agent:
    """The agent, whose `act` begins an episode where exploration noise has a state."""
    module = agents.load(case.name)
    small, discrete = probes.small(module.Config, layers=layers, **case.changes | changes), case.contract.discrete
    agent: Agent = probes.choosing(module.make(small, probes.DISCRETE)) if discrete else module.make(small, probes.SPEC)
    make_noise, act = agent.noise, agent.act
    if make_noise is None:
        return agent

    def first(policy: Any, observation: jax.Array, key: Key) -> tuple[jax.Array, Any]:
        lead = observation.shape[:-1]
        noise = jax.tree.map(lambda x: jnp.broadcast_to(x, (*lead, *x.shape)), make_noise())
        action, info, new = act(policy, observation, key, noise)
        jax.tree.map(lambda x, y: np.testing.assert_equal((x.shape, x.dtype), (y.shape, y.dtype)), noise, new)
        return action, info

    return agent._replace(act=first)


@cache
def make(case: Case) -> Agent:
    """The agent with halves that are traced once for all tests, since their batches have one size."""
    agent = plain(case)
    return agent._replace(update_critic=jax.jit(agent.update_critic), update_actor=jax.jit(agent.update_actor))


def init(case: Case, agent: Agent) -> Any:
    """The agent's `init`, or one with rates so low that two updates are compared by their moments of the gradients."""
    slow = agents.load(case.name).Hypers(actor_lr=1e-6, critic_lr=1e-6) if case.contract.small_steps else None
    return lambda key: agent.init(key, slow)


def some_batches(agent: Agent, count: int) -> Transition:
    """`count` minibatches, with what the agent reads."""
    return probes.complete(agent, probes.batches(probes.PROBES["policy"], count, BATCH))


def hypers(case: Case, **changes: float) -> Any:
    return probes.quick(agents.load(case.name).Hypers, **case.contract.hypers | changes)


@every_case
def test_probes(case: Case) -> None:
    """Values and best actions of problems with known answers, all learnt by one vmapped program."""
    problems = [(name, 1.0) for name in probes.PROBES] + [("value", 2.0)]  # the scale of rewards is traced
    chosen = [probes.PROBES[name] for name, _ in problems]
    stack = lambda *trees: jax.tree.map(lambda *x: jnp.stack(x), *trees)  # noqa: E731
    agent = plain(case, layers=2, **case.contract.probed)
    drawn = (probes.batches(probe, UPDATES, BATCH, discrete=case.contract.discrete) for probe in chosen)
    data = stack(*(probes.with_reads(batch, agent.reads) for batch in drawn))
    questions = stack(*(probes.complete(agent, probes.questions(probe, BATCH)) for probe in chosen))
    numbers = jnp.array([probes.NUMBERS[name] for name, _ in problems])
    rates = hypers(case, reward_scale=jnp.array([scale for _, scale in problems]))
    rates = jax.tree.map(lambda x: jnp.broadcast_to(jnp.float32(x), len(problems)), rates)
    learn = jax.jit(jax.vmap(probes.learner(agent, case.contract.by_q_value), in_axes=(0, 0, 0, None, 0)))
    answers = jax.device_get(learn(rates, data, questions, jax.random.key(0), numbers))
    wrong = []
    for i, (problem, scale) in enumerate(problems):
        for j, query in enumerate(probes.PROBES[problem].queries):
            said = f"{problem}, rewards times {scale}, at {query.observation}: "
            if answers.value is None:
                continue  # an imitator knows no value, and so not what is best
            knows = query.best is None or agent.discrete or not agent.on_policy  # V is not of this action
            if knows and answers.value[i, j] != pytest.approx(scale * query.value, abs=0.05, rel=0.02):
                wrong.append(f"{said}value {answers.value[i, j]} instead of {scale * query.value}")
            if query.best is not None and answers.greedy[i, j] != pytest.approx(query.best, abs=0.1):
                wrong.append(f"{said}best action {answers.greedy[i, j]} instead of {query.best}")
    assert np.isfinite(answers.greedy).all() and not wrong


@every_case
def test_state_and_actions(case: Case) -> None:
    """A state can be donated and scanned; actions are in [-1, 1], for one observation or a batch; nothing is float64.
    Greedy actions do not depend on the key, but for agents that choose among samples."""
    agent = make(case)
    state, defaults = agent.init(jax.random.key(0)), agents.load(case.name).Hypers()
    for half in (state.critic, state.actor):
        assert type(half.hypers) is type(defaults)  # a variant's own, also when embedded
        jax.tree.map(np.testing.assert_array_equal, half.hypers, as_arrays(defaults))
    leaves = jax.tree.leaves(state)
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)  # no two share memory
    assert not any(leaf.weak_type for leaf in leaves)
    changed = state.with_hypers(state.critic.hypers.replace(gamma=jnp.float32(0.5)))
    assert changed.critic.hypers.gamma == changed.actor.hypers.gamma == 0.5 and state.critic.hypers.reward_scale == 1

    policy, shapes = agent.acting_params(state), ((1,), (2, 3, 1))

    @jax.jit
    def act(key: Key) -> list[list[jax.Array]]:
        return [[a(policy, jnp.ones(shape), key)[0] for shape in shapes] for a in (agent.act, agent.act_greedy)]

    explored, greedy = act(jax.random.key(1))
    for actions in (explored, greedy):
        assert [action.shape for action in actions] == list(shapes)
        assert all(action.dtype == jnp.float32 and (jnp.abs(action) <= 1).all() for action in actions)
    other = act(jax.random.key(1 if case.contract.samples else 2))[1]
    jax.tree.map(np.testing.assert_array_equal, greedy, other)

    types = {jnp.dtype(jnp.float32): np.float64}
    data = jax.tree.map(lambda x: np.asarray(x[0], types.get(x.dtype, x.dtype)), some_batches(agent, 1))
    with jax.enable_x64(True):
        shape = jax.eval_shape(agent.init, jax.random.key(0))
        assert {leaf.dtype for leaf in jax.tree.leaves(shape)} <= {jnp.dtype(jnp.float32), jnp.dtype(jnp.int32)}
        assert jax.eval_shape(agent.update, shape, data, jax.random.key(1))[0] == shape
        for function in (agent.act, agent.act_greedy):
            policy = jax.eval_shape(agent.acting_params, shape)
            action, _ = jax.eval_shape(function, policy, data.observation, jax.random.key(1))
            assert action.dtype == jnp.float32


@every_case
def test_strict_modes_of_jax(case: Case) -> None:
    """Ranks and types are never promoted silently and no tracer leaks, in a user's program that forbids it."""
    agent = plain(case)
    batch = jax.tree.map(lambda x: x[0], some_batches(agent, 1))
    start = as_arrays(agents.load(case.name).Hypers())

    def learn_and_act(key: Key) -> Any:
        state, metrics = agent.update(agent.init(key, start), batch, key)
        policy = agent.acting_params(state)
        return metrics, [act(policy, jnp.ones((BATCH, 1)), key)[0] for act in (agent.act, agent.act_greedy)]

    strict = jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"), jax.checking_leaks()
    with strict[0], strict[1], strict[2]:
        jax.eval_shape(learn_and_act, jax.random.key(0))


@every_plain
def test_update_without_jit(case: Case) -> None:
    agent = plain(case)
    data, key = jax.tree.map(lambda x: x[0], some_batches(agent, 1)), jax.random.key(0)
    state = jax.jit(init(case, agent))(key)
    with jax.debug_nans(True):
        updated = agent.update(state, data, key)
    same(updated, jax.jit(make(case).update)(state, data, key))


@every_case
def test_update_jitted_and_vmapped(case: Case) -> None:
    """A donated update of three seeds at once gives what each alone gives, and counts in both halves."""
    agent = make(case)
    data = jax.tree.map(lambda x: x[0], some_batches(agent, 1))
    keys = jax.random.split(jax.random.key(0), 3)

    @partial(jax.jit, donate_argnums=0)
    def both_ways(states: State, keys: Key) -> Any:
        each = lambda inputs: agent.update(inputs[0], data, inputs[1])  # noqa: E731
        return jax.vmap(agent.update, in_axes=(0, None, 0))(states, data, keys), jax.lax.map(each, (states, keys))

    together, alone = both_ways(jax.jit(jax.vmap(init(case, agent)))(keys), keys)
    same(together, alone)
    assert together[0].critic.step.tolist() == together[0].actor.step.tolist() == [1, 1, 1]


@every_case
def test_derivatives_through_updates(case: Case) -> None:
    """Of what three updates lead to, by the learning rate: finite, also at a ReLU's corner, and the same both ways."""
    agent, module = make(case), agents.load(case.name)
    half = "actor" if hasattr(module.Hypers(), "actor_lr") else "critic"
    data = some_batches(agent, 3)

    def loss(rate: jax.Array) -> jax.Array:
        state = agent.init(jax.random.key(0), module.Hypers(**{f"{half}_lr": rate}))
        _, metrics = jax.lax.scan(lambda s, batch: agent.update(s, batch, jax.random.key(1)), state, data)
        return metrics[f"{half}_loss"][-1]

    backward, forward = jax.jit(lambda x: (jax.grad(loss)(x), jax.jvp(loss, (x,), (1.0,))[1]))(3e-3)
    assert np.isfinite(backward) and np.isfinite(forward)
    if case.contract.small_steps:
        return  # such kernels have derivatives of rounding, too
    np.testing.assert_allclose(backward, forward, rtol=1e-3, atol=1e-6)


SIZES = "--num-envs 4 --batch-size 8 --pool-size 4 --eval-episodes 1 --keep 9 --quiet"
REPLAY = f"{SIZES} --warmup-env-steps 16 --ratio 1:1 --replay-capacity 64 --checkpoint-every"
ONLINE = "16 --total-env-steps 64 --log-every 16 --eval-every 32 --offline-steps 0"
OFFLINE = f"{REPLAY} 4 --total-env-steps 0 --log-every 4 --eval-every 8 --offline-steps 16 --dataset"
ON_POLICY = f"{SIZES} --rollout-length 4 --epochs 2 --checkpoint-every {ONLINE}"
OFF_POLICY = f"{REPLAY} {ONLINE}"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "pendulum"
    write_dataset(folder)
    return folder


def flags(module: ModuleType, changes: dict[str, Any]) -> Iterator[str]:
    """A small Config's changes as a command line has them."""
    for name, value in vars(probes.small(module.Config, width=8, **changes)).items():
        if value != getattr(module.Config(), name):
            yield f"--{'no-' if value is False else ''}{name.replace('_', '-')}"
            if not isinstance(value, bool):
                yield from map(str, value if isinstance(value, tuple) else [value])


@every_run
def test_run_resume_export_and_eval(case: Case, dataset: Path, tmp_path: Path, capsys: Any) -> None:
    """A run, resumed from its middle, ends in the same bits; its exported policy acts as it does."""
    env = "gymnax:CartPole-v1" if case.contract.discrete else "gymnax:Pendulum-v1"
    preset = config.resolve(case.name, env).train  # as its presets learn
    words = f"{OFFLINE} {dataset}" if preset.offline_steps else ON_POLICY if preset.epochs else OFF_POLICY
    command = ["train", case.name, "--env", env, *words.split(), *flags(agents.load(case.name), case.changes)]
    folder, again = tmp_path / "run", tmp_path / "again"
    assert cli.main([*command, "--run-dir", str(tmp_path), "--run-name", "run"]) == 0, capsys.readouterr().err

    shutil.copytree(folder, again)
    (again / "summary.json").unlink()
    _, *later = checkpoint.steps(again / "resume")
    for run_step in later:
        shutil.rmtree(again / "resume" / str(run_step))
    assert later and cli.main(["train", "--resume", str(again), "--quiet"]) == 0
    assert kill.result(again) == kill.result(folder)

    assert cli.main(["export", str(folder), "--out", str(tmp_path / "policy")]) == 0
    saved = policies.load(folder)
    observation = np.random.default_rng(0).normal(size=(3, saved.task.env.spec.actor_size)).astype(np.float32)
    snapshot = jax.tree.map(lambda x: x[0], saved.snapshot)
    expected = [acting.greedy_action(saved.task, snapshot, row, jax.random.key(0)) for row in observation]
    np.testing.assert_allclose(export.load(tmp_path / "policy")(observation), np.stack(expected), atol=2e-5)
    assert cli.main(["eval", str(folder), "--episodes", "1"]) == 0


@every_case
def test_presets(case: Case) -> None:
    """Every preset is for a known environment, and its settings are valid."""
    known, name = envs.names(), case.name
    for key in agents.tuned_settings(name):
        env, _, preset = key.replace("*", "brax:ant").partition("@")
        resolved = config.resolve(name, env, preset=preset or None)
        if resolved.train.offline_steps:
            make_offline_plan(dataclasses.replace(resolved.train, dataset="some"), shards=1)
        if resolved.train.total_env_steps:
            make_plan(resolved.train, shards=1)
        assert resolved.backend is None or resolved.backend in known[env]


@pytest.mark.parametrize("name", agents.REGISTRY)
def test_a_page_and_tests_of_its_losses(name: str) -> None:
    page = ROOT / "docs" / "agents" / f"{name}.md"
    assert f"<!-- settings: {name} -->" in page.read_text()  # the table is made from the dataclasses
    assert f"{name}.md" in (ROOT / "docs" / "agents" / "index.md").read_text()
    assert "_loss" in (ROOT / "tests" / f"test_{name}.py").read_text()
