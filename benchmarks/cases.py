"""rlx's side of every comparison, and the bounds': `python benchmarks/cases.py fused --env brax:ant` and so on.

Every case is a worker (see `benchmarks/worker.py`): it compiles, then runs as many units as it is asked for and returns
when all of the state that they make is there. A unit is one update, one vector step, one call.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be run from anywhere

import rlx
from benchmarks import bounds
from benchmarks.worker import again, say, scanned, serve
from rlx import agents, config, envs, replay
from rlx import data as datasets
from rlx.build import make_driver, setup
from rlx.replay import Row
from rlx.train.memory import estimate as of_run
from rlx.types import Spec, Transition

Run = Callable[[int], None]
GAMMA: Any = 0.99  # of replay's windows


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """What `--set` names."""

    def value(text: str) -> Any:
        return text.split(",") if "," in text else {"true": True, "false": False}.get(text, text)

    return {name: value(text) for name, text in (pair.split("=", 1) for pair in args.set)}


def make_agent(args: argparse.Namespace) -> tuple[Any, Any, Spec]:
    """The agent's functions, the configuration of its networks, and what it knows of an environment."""
    sizes = bounds.Sizes(*args.sizes)
    observation, action = (jax.ShapeDtypeStruct((size,), jnp.float32) for size in sizes)
    network = config.resolve(args.agent, "none", **settings(args)).network
    spec = Spec(observation, action, 1000)
    return agents.load(args.agent).make(network, spec), network, spec


def make_batch(spec: Spec, shape: tuple[int, ...], agent: Any = None) -> Transition:
    """Made-up transitions, `[*shape, ...]`; for an agent with the extras that it reads, in windows of its length."""
    keys = jax.random.split(jax.random.key(1), 4)
    if agent is not None and agent.window:
        shape = (*shape, agent.window)
    observation, following = (jax.random.normal(key, (*shape, spec.observation_size)) for key in keys[:2])
    action = jnp.tanh(jax.random.normal(keys[2], (*shape, spec.action_size)))
    rows = Transition(observation, action, jax.random.normal(keys[3], shape), jnp.ones(shape), following)
    extras = {name: getattr(rows, read.column) for name, read in (agent.reads if agent else {}).items()}
    if agent is not None and agent.window:
        extras["mask"] = jnp.ones(shape, bool)
    return rows._replace(extras=extras)


def update(args: argparse.Namespace) -> tuple[Run, float]:
    """`agent.update`, the state donated and all of it returned; with `--scan` so many of them in one program."""
    agent, _, spec = make_agent(args)
    key = jax.random.key(2)
    shape: tuple[int, ...] = (args.batch,)

    def step(state: Any, *rest: Any) -> Any:
        return agent.update(state, *rest)[0]

    if args.scan:
        shape, key, step = (args.scan, *shape), jax.random.split(key, args.scan), scanned(step)
    state = jax.jit(agent.init)(jax.random.key(0))
    return again(jax.jit(step, donate_argnums=0), jax.block_until_ready, state, make_batch(spec, shape, agent), key)


def chain(args: argparse.Namespace) -> tuple[Run, float]:
    """The update's matrix products alone."""
    _, network, _ = make_agent(args)
    function, rest = bounds.make_chain(bounds.passes(args.agent, network, bounds.Sizes(*args.sizes)), args.batch)
    return again(function, jax.block_until_ready, *rest)


def act(args: argparse.Namespace) -> tuple[Run, float]:
    """Exploring actions for `--batch` observations."""
    agent, _, spec = make_agent(args)
    policy = agent.acting_params(jax.jit(agent.init)(jax.random.key(0)))
    observation = jax.random.normal(jax.random.key(1), (args.batch, spec.observation_size))
    step = jax.jit(lambda _, *rest: agent.act(*rest)[0])
    return again(
        step, jax.block_until_ready, jnp.zeros((args.batch, spec.action_size)), policy, observation, jax.random.key(2)
    )


def bare(args: argparse.Namespace) -> tuple[Run, float]:
    """The environment alone, under random actions, many vector steps a call as in training."""
    env = envs.make(args.env)
    batch = envs.vectorise(env, args.num_envs, 128)
    pool = jax.jit(batch.make_pool)(jax.random.key(0))
    state = jax.jit(batch.init)(pool, jax.random.split(jax.random.key(1), args.num_envs))
    shape = (args.num_envs, env.spec.action_size)

    def steps(carry: Any, pool: Any, count: jax.Array) -> Any:
        def one(_: jax.Array, carry: Any) -> Any:
            state, key = carry
            key, action_key, env_key = jax.random.split(key, 3)
            action = jax.random.uniform(action_key, shape, minval=-1.0)
            return batch.step(state, action, pool, jax.random.split(env_key, args.num_envs))[0], key

        return jax.lax.fori_loop(0, count, one, carry)

    begun = time.perf_counter()
    compiled = jax.jit(steps, donate_argnums=0).lower((state, jax.random.key(2)), pool, jnp.int32(1)).compile()
    compile_s = time.perf_counter() - begun
    held = [(state, jax.random.key(2))]

    def run(units: int) -> None:
        held.append(jax.block_until_ready(compiled(held.pop(), pool, jnp.int32(units))))

    return run, compile_s


def fused(args: argparse.Namespace) -> tuple[Run, float]:
    """Training: vector steps with their updates, dispatched as in a run of any length; evaluations left out."""
    warmup = max(args.num_envs, 2048)
    common = {"num_envs": args.num_envs, "num_seeds": args.seeds, "ratio": "1:1", "batch_size": args.batch}
    sizes = {"warmup_env_steps": warmup, "total_env_steps": 2 * warmup, "replay_capacity": 2**17}
    chosen = common | sizes | plain(args.agent) | settings(args)
    resolved = config.resolve(args.agent, args.env, backend(args.env), **chosen)
    return iterations(make_driver(setup(resolved)))


def blocks(args: argparse.Namespace) -> None:
    """On-policy training, with the settings that are given: environment steps, in whole iterations."""
    resolved = config.resolve(args.agent, args.env, backend(args.env), **settings(args))
    run, compile_s = iterations(make_driver(setup(resolved)))
    serve(run, round(compile_s, 2), block=resolved.train.num_envs * resolved.train.rollout_length)


def backend(env: str) -> str | None:
    """The physics that peers use, too, whatever a preset says."""
    return "spring" if env.startswith("brax:") else None


def plain(agent: str) -> dict[str, Any]:
    """The networks that papers and peers use, whatever an environment's preset says, and no preset's tricks."""
    known = config.settings(agent)
    widths = {f"{half}_hidden_sizes": (256, 256) for half in ("actor", "critic")}
    return {name: size for name, size in widths.items() if name in known} | {"n_step": 1, "rollout_length": 1}


def offline(args: argparse.Namespace) -> tuple[Run, float]:
    """Updates on a made-up data set of `--capacity` transitions, by the offline driver."""
    env = envs.make("brax:halfcheetah")
    rows = jax.tree.map(np.asarray, make_batch(env.spec, (args.capacity,)))
    flag: Any = np.zeros(args.capacity, bool)
    content = Row(rows.observation, rows.action, rows.reward, flag, flag, rows.next_observation)._asdict()
    with tempfile.TemporaryDirectory() as folder:
        made_up = datasets.make_dataset({"name": "bench/made-up-v0"}, **content)
        datasets.write(made_up, Path(folder) / "data")
        common: dict[str, Any] = {
            "dataset": str(Path(folder) / "data"),
            "offline_steps": 10**6,
            "ratio": "1:1",
            "total_env_steps": 0,
            "batch_size": args.batch,
        }
        resolved = config.resolve(args.agent, "brax:halfcheetah", **(common | settings(args)))
        return iterations(make_driver(setup(resolved, env), offline=True))


def iterations(driver: Any) -> tuple[Run, float]:
    """A driver's iterations, past the warm-up."""
    begun = time.perf_counter()
    for program in driver.programs[:-1]:
        program.compiled()
    compile_s = time.perf_counter() - begun
    state, totals = driver.advance(driver.init(), driver.zeros(), driver.task.plan.warmup_iterations)
    held = [jax.block_until_ready((state, totals))]

    def run(units: int) -> None:
        held.append(jax.block_until_ready(driver.advance(*held.pop(), units)))

    return run, compile_s


def ring(args: argparse.Namespace) -> tuple[Run, float]:
    """Replay: adds a block of `--num-envs` transitions and samples a minibatch."""
    memory, block = _ring(args)

    def step(carry: Any, block: Row, key: Any) -> Any:
        memory, _ = carry
        memory = replay.add(memory, block)
        return memory, replay.sample(memory, jax.random.fold_in(key, memory.cursor.head), (args.batch,), 1, GAMMA)

    first = jax.jit(lambda m, b: (m, replay.sample(m, jax.random.key(0), (args.batch,), 1, GAMMA)))(memory, block)
    return again(jax.jit(step, donate_argnums=0), jax.block_until_ready, first, block, jax.random.key(3))


def copies(args: argparse.Namespace) -> tuple[Run, float]:
    """The bytes of that block and that minibatch, copied bare: rows taken as they lie, no drawing, no arithmetic."""
    memory, block = _ring(args)

    def step(carry: Any, block: Row) -> Any:
        memory, _ = carry
        memory = replay.add(memory, block)
        head = memory.cursor.head // 2
        rows = args.batch // args.num_envs

        def take(ring: jax.Array) -> jax.Array:
            part = jax.lax.dynamic_slice_in_dim(ring, head, rows)
            return jax.lax.optimization_barrier(part.reshape(args.batch, *ring.shape[2:]))

        return memory, jax.tree.map(take, memory.rows)

    first = jax.jit(lambda m, b: step((m, None), b))(memory, block)
    return again(jax.jit(step, donate_argnums=0), jax.block_until_ready, first, block)


def rows(args: argparse.Namespace) -> tuple[Run, float]:
    """That block, and as many rows of the ring, at places known beforehand: drawing and arithmetic are left out."""
    memory, block = _ring(args)
    slots, envs = replay.length(memory), args.num_envs
    keys = jax.random.split(jax.random.key(4))
    places = [
        jax.random.randint(key, (4096, args.batch), 0, most) for key, most in zip(keys, (slots, envs), strict=True)
    ]

    def step(carry: Any, block: Row, of_slots: jax.Array, of_envs: jax.Array) -> Any:
        memory, _ = carry
        memory = replay.add(memory, block)
        slot, env = (x[memory.cursor.head % len(x)] for x in (of_slots, of_envs))
        return memory, jax.tree.map(lambda ring: ring.at[slot, env].get(mode="promise_in_bounds"), memory.rows)

    first = jax.jit(lambda m, *rest: step((m, None), *rest))(memory, block, *places)
    return again(jax.jit(step, donate_argnums=0), jax.block_until_ready, first, block, *places)


def _ring(args: argparse.Namespace) -> tuple[Any, Row]:
    spec = make_agent(args)[2]
    rows = make_batch(spec, (1, args.num_envs))
    flag = jnp.zeros((1, args.num_envs), bool)
    block = Row(rows.observation, rows.action, rows.reward, flag, flag, rows.next_observation)
    example = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[2:], x.dtype), block)
    memory = replay.init(example, args.capacity // args.num_envs, args.num_envs)
    return memory.replace(cursor=memory.cursor.replace(size=jnp.int32(replay.length(memory)))), block


def memory(args: argparse.Namespace) -> None:
    """The most bytes that training held, with a replay of `--capacity` transitions, all of them written.

    A device that keeps count is held against what rlx had estimated; a process holds more than the device's part.
    """
    sizes = {"num_envs": args.num_envs, "replay_capacity": args.capacity, "warmup_env_steps": 2048}
    common = {"ratio": "1:1", "batch_size": args.batch, "total_env_steps": 4096}
    resolved = config.resolve(args.agent, args.env, backend(args.env), **(common | sizes | plain(args.agent)))
    driver: Any = make_driver(setup(resolved))
    run, _ = iterations(driver)
    run(8)
    spec = driver.task.env.spec
    stored = 4 * (2 * spec.observation_size + spec.action_size + 1) + 2  # and two flags
    stats = jax.local_devices()[0].memory_stats() or {}
    peak = stats.get("peak_bytes_in_use", 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    groups = [driver.devices] * 3  # each role's
    estimate = {"estimated_bytes": of_run(driver.task, driver.members, groups).total} if stats else {}
    say(peak_bytes=peak, capacity=args.capacity, stored_bytes=stored, **estimate)


def start(args: argparse.Namespace) -> None:
    """From the start of the process to the end of the first stretch that learns, as somebody who calls rlx.fit sees it.

    `--steps` vector steps with one update each, after the warm-up; said the moment that its log line is there.
    """

    def progress(line: dict[str, Any], state: Any) -> None:
        if line["env_step"] >= env_steps and line["critic_step"] > 0:
            say(first_epoch=True)
            os._exit(0)  # what follows, an evaluation, is nobody's first epoch

    warmup = 2048 // args.num_envs * args.num_envs
    env_steps = warmup + args.steps * args.num_envs
    sizes = {"warmup_env_steps": warmup, "total_env_steps": 100 * env_steps, "log_every": env_steps}
    common = {"num_envs": args.num_envs, "ratio": "1:1", "batch_size": args.batch, "replay_capacity": 2**17}
    chosen = common | sizes | plain(args.agent) | settings(args)
    rlx.fit(args.agent, args.env, backend(args.env), callbacks=progress, **chosen)


CASES: dict[str, Callable[[argparse.Namespace], Any]] = {
    case.__name__: case
    for case in (update, chain, act, bare, fused, blocks, offline, ring, rows, copies, memory, start)
}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--agent", default="sac")
    parser.add_argument("--env", default="brax:inverted_pendulum")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--num-envs", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--capacity", type=int, default=100_000)
    parser.add_argument("--scan", type=int, default=0, help="updates in one program, of `update`; 0: one, and no loop")
    parser.add_argument("--steps", type=int, default=200, help="vector steps that learn, of `start`")
    parser.add_argument("--sizes", type=int, nargs=2, default=list(bounds.Sizes()), help="of observation and action")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings as of `rlx train`")
    return parser.parse_args(arguments)


def main() -> None:
    args = parse()
    made = CASES[args.case](args)
    if made is not None:
        run, compile_s = made
        serve(run, round(compile_s, 2), device=jax.devices()[0].device_kind)


if __name__ == "__main__":
    main()
