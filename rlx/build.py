"""A configuration becomes environment, data and drivers, one driver for each part of the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from rlx import agent_checks, agents, data, envs, parallel, replay
from rlx.config import RunConfig, members, settings
from rlx.data import Dataset
from rlx.envs import arguments, env_params, no_env, wrappers
from rlx.envs import parts as observation_parts
from rlx.envs.env_params import of_members
from rlx.errors import RlxError
from rlx.settings import check
from rlx.train import autosplit, columns, memory, mirror, numerics
from rlx.train.compile import tracing
from rlx.train.datasets import prepare, to_tables
from rlx.train.fused import SEQUENTIAL, Fused
from rlx.train.loop import Driver
from rlx.train.offline import OFFLINE
from rlx.train.pipeline import LAGGED, OFFLINE_LAGGED
from rlx.train.pipelined import Pipelined
from rlx.train.placement import Placement, asked_split, axes_of, lay_out
from rlx.train.plan import Plan, make_offline_plan, make_plan
from rlx.train.task import Tables, Task
from rlx.train.threads import Threads
from rlx.types import Agent, Env, Key, Spec


class Setup(NamedTuple):
    """What a run is made of."""

    config: RunConfig
    env: Env
    data: Dataset | None = None  # of several data sets, one after the other
    sizes: tuple[int, ...] = ()  # the rows of each
    notes: tuple[str, ...] = ()  # what the user should know
    trains: bool = True  # or only acts, and then what learning reads may be missing


def setup(config: RunConfig, env: Env | None = None, trains: bool = True, datasets: Sequence[Dataset] = ()) -> Setup:
    """A configuration as it will run: with its environment, its data sets (read, unless in memory) and settings.

    Raises RlxError for a data set that cannot be read, or that does not fit the environment; where the run `trains`,
    also for a column that its agent reads but neither the run nor a data set provides.
    """
    numerics.check()
    check(config.train)
    check(config.network)
    final_plan(config)  # what cannot be is said before anything is made or read
    with tracing():
        env = make_env(config, env)
    if trains and no_env.is_none(env) and not config.train.offline_only:
        raise RlxError(f"--total-env-steps {config.train.total_env_steps}: there is no environment; leave it out")
    named = dict(zip(config.train.datasets, datasets, strict=True)) if datasets else {}
    prepared = [prepare(config.train, path, env.spec, named.get(path)) for path in config.train.datasets]
    sets, notes = [one for one, _ in prepared], tuple(note for _, notes in prepared for note in notes)
    dataset = data.concatenate(sets) if len(sets) > 1 else sets[0] if sets else None
    if dataset is not None:
        config = _scaled(config, dataset)
    config = _with_schedules(config)
    if config.train.driver == "pipelined" and config.train.split == "auto":
        config = _split(config, env)
    with agents.mistakes_in_one_line(config.agent):
        _check_acting(config, env.spec)
    if trains and no_env.is_none(env):
        defaults = {field.name: field.default for field in fields(config.train)}
        remedy = "; --offline-steps changes that" * (config.train.offline_steps == defaults["offline_steps"])
        updates = f"{config.train.offline_steps:,} updates follow{remedy}"
        notes = (f"there is no environment, so no policy is evaluated; {updates}", *notes)
    placement = lay_out(config.train, asked_split(config.train))
    train = replace(config.train, num_shards=placement.shards, members=_arranged(config, placement))
    run_setup = Setup(replace(config, train=train), env, dataset, tuple(one.size for one in sets), notes, trains)
    with agents.mistakes_in_one_line(config.agent):
        for offline in parts(run_setup.config):
            _task(run_setup, placement, offline)
    return run_setup


def _check_acting(config: RunConfig, spec: Spec) -> None:
    """Raises RlxError for an agent whose greedy action depends on parts of the observation that are not the actor's."""
    if spec.actor_size == spec.observation_size:
        return
    if acts_by_critics(agents.load(config.agent).make(config.network, spec, ()), spec):
        raise RlxError(
            f"--critic-observation {' '.join(spec.critic_parts)}: {config.agent} acts by its critics, which would read"
            " more than policies do; leave it out"
        )


def acts_by_critics(agent: Agent, spec: Spec) -> bool:
    """Whether greedy actions of an untrained agent depend on parts of the observation that are not the actor's."""

    def actions(key: Key) -> list[jax.Array]:
        policy, observation = agent.acting_params(agent.init(key)), jax.random.normal(key, (PROBES, spec.actor_size))
        carry = _carries(agent)
        return [agent.act_greedy(policy, spec.of_actor(observation, rest), key, *carry)[0] for rest in (0.0, 1.0, -1.0)]

    first, *others = jax.device_get(jax.jit(actions)(jax.random.key(0)))
    return any((first != other).any() for other in others)


def _carries(agent: Agent) -> list[Any]:
    """The acting states with which PROBES episodes begin, as the last arguments of `act`: none or one."""
    if agent.carry is None:
        return []
    return [jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * PROBES), agent.carry())]


PROBES = 64  # observations at which an untrained agent acts


def _arranged(config: RunConfig, placement: Placement) -> str:
    """Whether members are vmapped or run on threads. Raises RlxError where they cannot run on threads."""
    fits = not placement.split and len(placement.groups[0]) == 1
    if config.train.members == "threads" and not fits:
        raise RlxError("--members threads: goes with one device; leave it out, or use --num-devices 1")
    if config.train.members != "auto":
        return config.train.members
    return "threads" if fits and len(members(config)) > 1 and parallel.on_cpu() else "vmap"


def _scaled(config: RunConfig, dataset: Dataset) -> RunConfig:
    """The configuration with `--scale-rewards range` turned into a number."""
    if config.train.scale_rewards == "none":
        return config
    factor = 1000 / data.return_range(dataset)
    scales = tuple(scale * factor for scale in config.hypers["reward_scale"])
    train = replace(config.train, scale_rewards="none")
    return replace(config, train=train, hypers=config.hypers | {"reward_scale": scales})


def _with_schedules(config: RunConfig) -> RunConfig:
    """The configuration with the lengths of schedules that were left open: planned numbers of updates."""
    filled = {name: steps for name, steps in planned(config).items() if getattr(config.network, name) == 0}
    return replace(config, network=replace(config.network, **filled)) if filled else config


def planned(config: RunConfig) -> dict[str, int]:
    """By setting that declares a `plan`, how many such updates a run makes, both parts together, or an iteration."""
    known = [(name, setting.plan) for name, setting in settings(config.agent).items() if setting.plan]
    if not known:
        return {}
    plan = final_plan(config)
    learned = plan.iterations if plan.offline else plan.iterations - plan.warmup_iterations
    _, critic_updates, actor_updates = plan.steps(plan.iterations, learned)
    counts = {"critic_updates": critic_updates, "actor_updates": actor_updates}
    counts["half_actor_updates"] = actor_updates // 2
    counts["iteration_updates"] = plan.iteration_actor_steps
    return {name: counts[unit] for name, unit in known}


def _split(config: RunConfig, env: Env) -> RunConfig:
    """The configuration with `--split auto` replaced by the split that suits the roles' times here."""
    train, count = config.train, parallel.local_device_count()
    if count < 3:
        raise RlxError(f"--split auto: needs 3 devices but there are {count}; use --split 1")
    if train.offline_only:
        raise RlxError("--split auto: times roles in the environment, where this run makes no step; name a split")
    probe = replace(train, num_shards=0, split=f"1,1,{count - 2}")
    one_each = Placement([[device] for device in parallel.local_devices()[:3]], 1, True)
    driver = _make_driver(Setup(replace(config, train=probe), env), one_each, offline=False)
    times = autosplit.time_roles(cast(Pipelined, driver))

    def fits(split: tuple[int, int, int]) -> bool:
        try:
            make_plan(probe, lay_out(train, split).shards)
        except RlxError:
            return False
        return True

    chosen = ",".join(map(str, autosplit.choose(times, count, fits)))
    return replace(config, train=replace(train, split=parallel.agree(chosen)))


def make_driver(run_setup: Setup, offline: bool = False) -> Driver:
    """The driver of one part of a run, ready; nothing is compiled or allocated yet.

    Raises RlxError where memory cannot hold the run.
    """
    with tracing(), agents.mistakes_in_one_line(run_setup.config.agent):
        return _make_driver(run_setup, lay_out(run_setup.config.train, asked_split(run_setup.config.train)), offline)


def _make_driver(run_setup: Setup, placement: Placement, offline: bool) -> Driver:
    config, (groups, _, split) = run_setup.config, placement
    module, runs = agents.load(config.agent), members(config)
    if config.train.spread == "seeds" and len(runs) % len(groups[0]):
        raise RlxError(f"--spread seeds: {len(runs)} runs do not divide over {len(groups[0])} devices")
    task, table = _task(run_setup, placement, offline)
    if not module.__name__.startswith("rlx."):  # its slips are said before a run folder is written
        agent_checks.check_functions(config.agent, task.agent, task.env.spec, run_setup.trains)
    if task.agent.actor_reads:  # else it has none of the extras that its updates are traced with
        memory.check(task, len(runs), groups, table)
    hypers = {name: np.asarray([m[name] for m in runs], np.float32) for name in config.hypers}
    first, env_params = (np.asarray([m["seed"] for m in runs]), module.Hypers(**hypers)), of_members(task.env)
    sequential = config.train.driver == "fused"
    if split:
        return Pipelined(task, groups[1:] if offline else groups, *first, table, env_params)
    schedule = (OFFLINE if sequential else OFFLINE_LAGGED) if offline else (SEQUENTIAL if sequential else LAGGED)

    def fused(seeds: np.ndarray, hypers: Any, env_params: Any) -> Fused:
        return Fused(task, groups[0], seeds, hypers, schedule, table, env_params)

    threads = config.train.members == "threads" and len(runs) > 1
    return Threads(fused, *first, env_params) if threads else fused(*first, env_params)


def _task(run_setup: Setup, placement: Placement, offline: bool) -> tuple[Task, Tables | None]:
    """What the driver of a part needs, and the part's data sets."""
    config, env, dataset, sizes, _, trains = run_setup
    train, shards = config.train, placement.shards
    plan = make_offline_plan(train, shards) if offline else make_plan(train, shards)
    axes = axes_of(placement, train.spread == "data")
    mirror.check(train, env.spec)
    batch = envs.vectorise(
        env, plan.shard_envs, plan.shard_pool, train.on_nonfinite != "stop", max_magnitude=train.max_magnitude
    )
    agent = agents.load(config.agent).make(config.network, env.spec, axes)
    agent_checks.check_made(config.agent, agent)
    if agent.discrete != (env.spec.num_actions > 0):
        kinds = ("discrete", "continuous") if env.spec.num_actions else ("continuous", "discrete")
        raise RlxError(
            f"{config.env}: has {kinds[0]} actions, and {config.agent} {kinds[1]} ones; choose another agent"
        )
    if agent.discrete and train.noise_max:
        raise RlxError(f"--noise-max {train.noise_max}: {config.agent} chooses among actions, without noise; use 0")
    if trains and agent.on_policy != (train.epochs > 0):
        how, remedy = ("each new block alone", "give 4, say") if agent.on_policy else ("replay or data", "leave it out")
        raise RlxError(f"--epochs {train.epochs}: {config.agent} learns from {how}; {remedy}")
    if not trains and (agent.reads or agent.records or agent.window):
        agent = agent._replace(reads={}, records=None, window=0, actor_reads=())
    tables = [dataset.rows] if dataset is not None and any(plan.shard_offline) else []
    noise = train.noise_max > 0
    extra = columns.resolve(config.agent, agent, env.spec, not offline, tables, axes, noise)
    _check_reach(config, agent, plan, sizes if any(plan.shard_offline) else ())
    # so that each half is traced once, for the memory estimate and for the iteration
    agent = agent._replace(update_critic=jax.jit(agent.update_critic), update_actor=jax.jit(agent.update_actor))
    gammas = config.hypers.get("gamma", ())
    table = to_tables(dataset, sizes, train, extra, gammas) if dataset is not None and any(plan.shard_offline) else None
    return Task(agent, env, batch, train, plan, axes, extra), table


def _check_reach(config: RunConfig, agent: Agent, plan: Plan, sizes: Sequence[int]) -> None:
    """Raises RlxError where replay or data set cannot hold the consecutive steps that a sample depends on."""
    train = config.train
    if agent.window and train.n_step > 1:
        raise RlxError(f"--n-step {train.n_step}: {config.agent} learns from windows of 1-step ones; leave it out")
    steps = replay.reach(agent.reads, train.n_step, agent.window)
    if not plan.offline and plan.slots < steps:
        need = -(-steps // train.rollout_length) * train.rollout_length * train.num_envs
        raise RlxError(
            f"--replay-capacity {train.replay_capacity}: {config.agent} learns from {need} transitions; raise it"
        )
    if not plan.offline and not train.epochs and (plan.iterations - 1) * train.rollout_length < steps:
        raise RlxError(f"--total-env-steps {train.total_env_steps}: ends before the first update; raise it")
    if min(sizes, default=steps) < steps:
        raise RlxError(f"--dataset {train.dataset}: {config.agent} reads {steps} rows in a row; one has {min(sizes)}")


def most_members(run_setup: Setup, unit: int, most: int) -> int:
    """How many members, in steps of `unit` and up to `most`, a device can hold at once with some room to spare."""
    placement = lay_out(run_setup.config.train, asked_split(run_setup.config.train))
    tasks = (_task(run_setup, placement, offline) for offline in parts(run_setup.config))
    return min(memory.most_members(task, unit, most, placement.groups, table) for task, table in tasks)


def parts(config: RunConfig) -> list[bool]:
    """The parts of a run in order, each as whether it is the offline one."""
    return [True] * (config.train.offline_steps > 0) + [False] * (not config.train.offline_only)


def final_plan(config: RunConfig) -> Plan:
    """The plan of the last part."""
    make = make_offline_plan if config.train.offline_only else make_plan
    return make(config.train, max(1, config.train.num_shards))


def make_env(config: RunConfig, env_object: Any = None) -> Env:
    """The environment of a configuration, or an object in its place, with all that its settings change in it.

    Raises RlxError for a name, a setting or a wrapper that cannot be, and for an object that is no environment.
    """
    wrappers.parse(config.train.wrappers)  # says at once what is misspelt
    settings = arguments.parse(config.train.env_args)
    if "backend" in settings and config.env.startswith("brax:"):
        raise RlxError(f"--env-args backend={settings['backend']}: use --backend {settings['backend']}")
    length = settings.pop("episode_length", None)
    train = config.train
    if env_object is None:
        env = envs.make(config.env, config.backend, length, **settings)
    elif config.backend is not None:
        raise RlxError(f"{config.env} has one physics only: leave out the backend {config.backend!r}")
    elif settings:
        raise RlxError(f"env_args: {config.env} is an object and takes no setting {next(iter(settings))!r}")
    else:
        env = envs.wrap(env_object, length)
        envs.quick(env)
    env = env_params.with_params(env, train.env_params, len(members(config)))
    if train.randomize and env_params.of_members(env) is not None:
        raise RlxError("--env-params: goes with --randomize where all members have one set; leave one of them out")
    env = wrappers.apply(envs.randomize(env, train.randomize), train.wrappers)
    return observation_parts.choose(env, train.actor_observation, train.critic_observation)


def check_env_of_run(config: RunConfig, env: Env | None, folder: Any = "") -> None:
    """Raises RlxError for a saved run whose environment was an object, unless it is passed: only its class is saved."""
    if env is None and config.env.isidentifier():  # names of environments have a colon
        raise RlxError(
            f"{folder or 'this run'}: its environment {config.env} was an object, which no folder holds; in Python"
            f" give it again, rlx.load(folder, env=...), and to use the command line train with file.py:{config.env}"
        )
