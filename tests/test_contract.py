"""What every agent must do, whoever wrote it: those of the registry, and those that the documentation writes. Numbers
of an agent's losses are in tests/test_NAME.py, and so is `CONTRACT = probes.Contract(...)` where the checks below need
to know something of it. One case compiles two small programs and, where it is slow, one more and a tiny run."""

import dataclasses
import gc
import importlib
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import chex
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
from tests.probes import Learnt

pytestmark = pytest.mark.usefixtures("reuse_programs")

DOCUMENTED = ("CONTRIBUTING.md", "notebooks/5_new_agent.ipynb")  # each writes an agent
LAYERS, ACTOR_LAYERS, BATCH, FEW = 2, 1, 16, 2  # a critic's corners need two layers
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
    """One parameter for each case; variants are slow, and where agents are named as `quick`, all others."""
    params = []
    for case in cases:
        marks = [pytest.mark.slow] * bool(case.variant or (quick and case.agent not in quick))
        params.append(pytest.param(case, marks=marks, id=f"{case.agent}-{case.variant}"))
    return pytest.mark.parametrize("case", params)


every_case = parameters(CASES)
ALONE = ("sac", "td3", "dqn", "ppo", "iql", "fql")  # one of each kind
FAMILIES = (*ALONE, "tqc", "crossq", "pql", "reppo", "idql", "cql")
every_family = parameters([Case(name) for name in FAMILIES], quick=ALONE)
every_plain = parameters([Case(name) for name in FAMILIES])
some_cases = parameters([Case(name) for name in ("sac", "iql", "ppo")])
every_run = parameters([case for case in CASES if not case.variant])


@cache
def plain(case: Case) -> Agent:
    """The agent, whose `act` begins an episode where exploration noise has a state."""
    module = agents.load(case.name)
    small = probes.small(module.Config, layers=LAYERS, actor_layers=ACTOR_LAYERS, **case.changes)
    discrete = case.contract.discrete
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
    """The agent with functions that are traced once for all tests, since their batches have one size."""
    agent = plain(case)
    functions = {name: jax.jit(getattr(agent, name)) for name in ("init", "update_critic", "update_actor")}
    return agent._replace(**functions)


@cache
def drawn_batch() -> Transition:
    return jax.tree.map(lambda x: x[0], probes.batches(probes.PROBES["policy"], 1, BATCH))


@cache
def some_batch(case: Case) -> Transition:
    """A minibatch, with what the agent reads and records."""
    return jax.jit(partial(probes.complete, plain(case)))(drawn_batch())


def slow(case: Case) -> Any:
    """The agent's Hypers with rates so low, where it needs them, that updates are compared by moments of gradients."""
    return agents.load(case.name).Hypers(**{"actor_lr": 1e-6, "critic_lr": 1e-6} if case.contract.small_steps else {})


PROBLEMS = [(name, 1.0) for name in probes.PROBES] + [("value", 2.0)]  # the scale of rewards is traced
CORNER, POLICY = 0, 4  # of the problems: one that observes 0, where a ReLU has its corner, and the richest


@contextmanager
def strict() -> Iterator[None]:
    """As in a user's program that forbids ranks and types to be promoted silently."""
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield


class Programs(NamedTuple):
    """Two programs that are compiled of an agent: all problems vmapped, and one alone with its derivatives. A third,
    which initialises the agent, serves both."""

    together: Callable[..., Learnt]  # (updates, act_key=0): leaves [len(PROBLEMS), ...]
    alone: Callable[[int], tuple[Learnt, list[Any]]]  # (problem), after FEW updates; derivatives by the learning rate


@cache
def programs(case: Case) -> Programs:
    """Few updates are made at the agent's own learning rates. Both programs are traced in `strict` mode."""
    agent, module = make(case), agents.load(case.name)
    chosen = [probes.PROBES[name] for name, _ in PROBLEMS]
    stack = lambda *trees: jax.tree.map(lambda *x: np.stack(x), *trees)  # noqa: E731
    updates = FEW if case.contract.probed_elsewhere else case.contract.updates
    sizes, discrete = (updates, case.contract.batch), case.contract.discrete
    drawn = (probes.batches(probe, *sizes, discrete=discrete) for probe in chosen)
    data = stack(*(probes.with_reads(batch, agent.reads) for batch in drawn))
    queries, numbers = stack(*map(probes.questions, chosen)), np.array([probes.NUMBERS[name] for name, _ in PROBLEMS])
    quick = probes.quick(module.Hypers, **case.contract.hypers)
    learn = probes.learner(agent)
    vmapped = jax.jit(jax.vmap(learn, in_axes=(0, 0, 0, None, None, None, 0)))

    init_key, key = jax.random.split(jax.random.key(0))

    def start(updates: int) -> State:
        """Of every problem, which differ in the scale of rewards."""
        state = jax.device_get(agent.init(init_key, as_arrays(slow(case) if updates == FEW else quick)))
        state = jax.tree.map(lambda x: np.broadcast_to(x, (len(PROBLEMS), *x.shape)), state)
        return probes.with_hypers(state, reward_scale=np.array([scale for _, scale in PROBLEMS], np.float32))

    @strict()
    def together(updates: int, act_key: int = 0) -> Learnt:
        assert updates <= sizes[0]
        return jax.device_get(vmapped(start(updates), data, queries, key, jax.random.key(act_key), updates, numbers))

    name = "actor_lr" if hasattr(quick, "actor_lr") else "critic_lr"

    @jax.jit
    def both(state: State, data: Any, query: Any, keys: Any, updates: int, number: int) -> tuple[Learnt, list[Any]]:
        def at(rate: jax.Array) -> Learnt:
            return learn(probes.with_hypers(state, **{name: rate}), data, query, *keys, updates, number)

        learnt, slopes = jax.jvp(at, (getattr(state.actor.hypers, name),), (jnp.float32(1),))
        return learnt, [slope for slope in jax.tree.leaves(slopes) if slope.dtype != jax.dtypes.float0]

    @cache
    @strict()
    def alone(problem: int) -> tuple[Learnt, list[Any]]:
        mine = jax.tree.map(lambda x: x[problem], (start(FEW), data, queries))
        return jax.device_get(both(*mine, (key, jax.random.key(0)), FEW, numbers[problem]))

    return Programs(together, alone)


@parameters(
    [case for case in CASES if not case.contract.probed_elsewhere],
    quick=tuple(case.agent for case in CASES if not case.contract.slow_probes),
)
def test_probes(case: Case) -> None:
    """Values and best actions of problems with known answers, all learnt by one vmapped program."""
    answers, wrong, tolerance = programs(case).together(case.contract.updates), [], case.contract.tolerance
    for i, (problem, scale) in enumerate(PROBLEMS):
        for j, query in enumerate(probes.PROBES[problem].queries):
            said = f"{problem}, rewards times {scale}, at {query.observation}: "
            if answers.value is None:
                continue  # an imitator knows no value, and so not what is best
            knows = query.best is None or make(case).discrete or not make(case).on_policy  # V is not of this action
            if knows and answers.value[i, j] != pytest.approx(
                scale * query.value, abs=0.05 * tolerance, rel=0.02 * tolerance
            ):
                wrong.append(f"{said}value {answers.value[i, j]} instead of {scale * query.value}")
            if query.best is not None and answers.greedy[i, j, 0] != pytest.approx(query.best, abs=0.1 * tolerance):
                wrong.append(f"{said}best action {answers.greedy[i, j, 0]} instead of {query.best}")
    assert np.isfinite(answers.greedy).all() and not wrong


@every_case
def test_few_updates(case: Case) -> None:
    """Nothing is NaN; updates count in both halves; actions are in [-1, 1], and greedy ones do not depend on the key,
    but for agents that choose among samples."""
    together, _ = programs(case)
    with jax.debug_nans(True):
        everything = together(FEW)
    assert set(everything.state.critic.step) == set(everything.state.actor.step) == {FEW}
    assert all((abs(actions) <= 1).all() for actions in (everything.greedy, everything.explored))
    other = together(FEW, act_key=0 if case.contract.samples else 1)
    np.testing.assert_array_equal(other.greedy, everything.greedy)


@parameters([Case(name) for name in ALONE])
def test_updates_vmapped_and_alone(case: Case) -> None:
    """Hyper-parameters at once get what each alone gets."""
    together, alone = programs(case)
    everything = together(FEW)
    for i in (CORNER, POLICY):
        same(jax.tree.map(lambda x, i=i: x[i], everything), alone(i)[0])


@every_family
def test_derivatives_through_updates(case: Case) -> None:
    """Of parameters, values and actions, by the learning rate: finite, also at a ReLU's corner."""
    for i in (CORNER, POLICY):
        slopes = programs(case).alone(i)[1]
        assert all(np.isfinite(slope).all() for slope in slopes) and any(slope.any() for slope in slopes)


@pytest.mark.slow
@every_case
def test_updates_have_derivatives_forward(case: Case) -> None:
    """By the learning rate, of all that an update returns; traced, since numbers are checked for each family."""
    agent, batch, key = make(case), some_batch(case), jax.random.key(1)
    hypers = as_arrays(agents.load(case.name).Hypers())
    name = "actor_lr" if hasattr(hypers, "actor_lr") else "critic_lr"

    def slopes(state: State, rate: jax.Array) -> Any:
        return jax.jvp(lambda x: agent.update(probes.with_hypers(state, **{name: x}), batch, key), (rate,), (rate,))[1]

    state = jax.eval_shape(agent.init, key, hypers)
    updated, _ = jax.eval_shape(slopes, state, jnp.float32(1))
    chex.assert_trees_all_equal_structs(updated, state)


@pytest.mark.slow
@some_cases
def test_derivatives_both_ways(case: Case) -> None:
    """What two updates lead to, by the learning rate: backward as forward."""
    agent, module = make(case), agents.load(case.name)
    data = jax.tree.map(lambda x: jnp.stack([x] * 2), some_batch(case))

    def loss(actor_lr: jax.Array) -> jax.Array:
        state = agent.init(jax.random.key(0), module.Hypers(actor_lr=actor_lr))
        _, metrics = jax.lax.scan(lambda s, batch: agent.update(s, batch, jax.random.key(1)), state, data)
        return metrics["actor_loss"][-1]

    backward, forward = jax.jit(lambda x: (jax.grad(loss)(x), jax.jvp(loss, (x,), (1.0,))[1]))(3e-3)
    np.testing.assert_allclose(backward, forward, rtol=1e-3, atol=1e-6)


@every_case
def test_state_and_types(case: Case) -> None:
    """A state can be donated and scanned; a variant has its own hyper-parameters, also when embedded; a program in
    float64 gets float32, for one observation or a batch."""
    agent, defaults, key = make(case), agents.load(case.name).Hypers(), jax.random.key(1)
    with strict():
        program = agent.init.trace(key, as_arrays(defaults))  # type: ignore[attr-defined]
    assert all(type(half.hypers) is type(defaults) for half in (program.out_info.critic, program.out_info.actor))
    traced = program.jaxpr.jaxpr.outvars
    assert len({id(var) for var in traced}) == len(traced)  # no two leaves share memory
    assert not any(var.aval.weak_type for var in traced)

    types = {jnp.dtype(jnp.float32): np.float64}
    data = jax.eval_shape(partial(probes.complete, plain(case)), drawn_batch())
    data = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, types.get(x.dtype, x.dtype)), data)
    with jax.enable_x64(True):
        shape = jax.eval_shape(agent.init, key)
        assert {leaf.dtype for leaf in jax.tree.leaves(shape)} <= {jnp.dtype(jnp.float32), jnp.dtype(jnp.int32)}
        assert jax.eval_shape(agent.update, shape, data, key)[0] == shape
        policy = jax.eval_shape(agent.acting_params, shape)
        for act in (agent.act, agent.act_greedy):
            for lead in ((), (2, 3)):
                action, _ = jax.eval_shape(act, policy, np.ones((*lead, 1)), key)
                assert (action.shape, action.dtype) == ((*lead, 1), jnp.float32)


@pytest.mark.slow
@every_case
def test_no_tracer_leaks(case: Case) -> None:
    """The check traces everything anew."""
    agent, batch = make(case), some_batch(case)
    start = as_arrays(agents.load(case.name).Hypers())

    def learn_and_act(key: Key) -> Any:
        state, metrics = agent.update(agent.init(key, start), batch, key)
        policy = agent.acting_params(state)
        return metrics, [act(policy, jnp.ones((BATCH, 1)), key)[0] for act in (agent.act, agent.act_greedy)]

    gc.freeze()  # the check collects garbage again and again: of this test's objects alone, not of all tests'
    try:
        with strict(), jax.check_tracer_leaks():
            jax.eval_shape(learn_and_act, jax.random.key(0))
    finally:
        gc.unfreeze()


@pytest.mark.slow
@every_plain
def test_update_without_jit(case: Case) -> None:
    agent, data, key = plain(case), some_batch(case), jax.random.key(0)
    state = jax.jit(agent.init)(key, slow(case))
    with jax.debug_nans(True):
        updated = agent.update(state, data, key)
    same(updated, jax.jit(make(case).update)(state, data, key))


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


@pytest.mark.slow
@every_run
def test_run_resume_and_export(case: Case, dataset: Path, tmp_path: Path, capsys: Any) -> None:
    """A run, resumed from its middle, ends in the same bits; its exported policy acts as it does."""
    env = "gymnax:CartPole-v1" if case.contract.discrete else "gymnax:Pendulum-v1"
    preset = config.resolve(case.name, env).train  # as its presets learn
    on_policy = f"{ON_POLICY} --history-blocks {min(preset.history_blocks, 2)}"
    words = f"{OFFLINE} {dataset}" if preset.offline_steps else on_policy if preset.epochs else OFF_POLICY
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
    assert (ROOT / "tests" / f"test_{name}.py").exists()
    module = agents.load(name)
    for loss in vars(module).values():
        if getattr(loss, "__module__", "") == module.__name__ and getattr(loss, "__name__", "").endswith("_loss"):
            assert any(loss.__name__ in path.read_text() for path in ROOT.glob("tests/test_*.py")), loss.__name__
