"""A run's saved policies, loaded to act (for pages, export and data sets) and evaluated. Reads only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlx import config, data, json_files, normalize
from rlx.build import check_env_of_run, make_driver, setup
from rlx.config import RunConfig
from rlx.envs import arguments, no_env
from rlx.envs.env_params import of_members
from rlx.errors import RlxError, say, say_compiling
from rlx.runs import checkpoint, origin, summaries
from rlx.train import acting, report
from rlx.train.loop import Driver
from rlx.train.task import Task
from rlx.types import COUNT, Env

NO_TRAINING: dict[str, Any] = {  # settings under which evaluating a run needs no more memory than that takes
    "driver": "fused",
    "split": "1",
    "dataset": "",
    "offline_steps": 0,
    "total_env_steps": 100,
    "num_devices": 1,
    "members": "auto",
    "num_shards": 1,
    "num_envs": 1,
    "rollout_length": 1,
    "n_step": 1,
    "epochs": 0,
    "history_blocks": 1,
    "batch_size": 1,
    "replay_capacity": 1,
    "pool_size": 1,
    "warmup_env_steps": 0,
}


class SavedPolicy(NamedTuple):
    """What some members of a run saved at one step."""

    config: RunConfig
    members: list[dict[str, float]]  # seed and hyper-parameters of every member of the run
    step: int
    task: Task  # agent and environment; made for acting, not for training
    snapshot: Any  # agent and statistics of the chosen members, [M, ...]
    env_params: Any = None  # of the chosen members, [M, ...], where each has its own


def with_env_args(run_config: RunConfig, texts: Sequence[str]) -> RunConfig:
    """The configuration with these settings of the environment in place of its own, or added."""
    if not texts:
        return run_config
    merged = arguments.merge(run_config.train.env_args, texts)
    return replace(run_config, train=replace(run_config.train, env_args=merged))


def load(
    folder: Path, members: Sequence[int] = (0,), step: int | None = None, env_args: Sequence[str] = (), **train: Any
) -> SavedPolicy:
    """Loads policies of the run in `folder`, by default from its last checkpoint.

    `env_args` take the place of the run's, and `train` are settings of the evaluation, such as `eval_episodes`. Raises
    RlxError where there is no such run, checkpoint or member, or where the checkpoint cannot be read.
    """
    run_config = with_env_args(config.from_json(folder / "config.json"), env_args)
    every_member = config.members(run_config)
    for member in members:
        check_member(member, every_member, str(folder))
    step = checkpoint.choose(folder / "checkpoints", step)
    driver = acting_driver(run_config, folder=folder, **train)
    loaded = load_snapshot(folder, driver, step), of_members(driver.task.env)
    snapshot, env_params = jax.tree.map(lambda x: jnp.asarray(x[list(members)]), loaded)
    return SavedPolicy(run_config, every_member, step, driver.task, snapshot, env_params)


def check_member(member: int, members: Sequence[Any], name: str) -> None:
    """Raises RlxError for a member that the run called `name` has not."""
    if not 0 <= member < len(members):
        valid = f"0 to {len(members) - 1}" if len(members) > 1 else "0 alone"
        raise RlxError(f"--member {member}: {name} has {valid}; choose one of those")


def acting_driver(run_config: RunConfig, env: Env | None = None, folder: Path | None = None, **train: Any) -> Driver:
    """A driver that acts and evaluates with a run's policies, under changed settings `train`; it cannot train."""
    check_env_of_run(run_config, env, folder)
    acting = replace(run_config, train=replace(run_config.train, **NO_TRAINING | train))
    return make_driver(setup(acting, env, trains=False))


def checked(
    observation: Any, size: int, reader: str = "this policy", parts: str = "", what: str = "observations"
) -> jax.Array:
    """A raw observation `[..., size]` as an array. Raises RlxError, which names the `reader`, for another size."""
    try:
        rows = jnp.asarray(observation, jnp.float32)
    except (TypeError, ValueError) as error:
        raise RlxError(f"{what}: are no array of numbers ({str(error).splitlines()[0]}); give floats") from None
    if rows.shape[-1:] != (size,):
        raise RlxError(f"{what} are {list(rows.shape)}: {reader} reads {size} numbers, [..., {size}]{parts}")
    return rows


def greedy_action(
    task: Task, snapshot: Any, observation: Any, member: Any = 0, carry: Any = None, key: Any = None
) -> Any:
    """The greedy action `[..., A]` of a member of a snapshot `[M, ...]` at raw observations `[..., O]`.

    Of observations with parts it takes those of the actor. Of an agent with an acting state `(action, carry)`; None
    begins an episode. Raises RlxError for another size.
    """
    rows = checked(observation, task.env.spec.actor_size)
    one = jax.tree.map(lambda x: jnp.asarray(x)[member], snapshot)
    key = jax.random.key(0) if key is None else key
    if task.agent.carry is None:
        return acting.policy_action(task, one, rows, key)
    if carry is None:
        fresh = jax.tree.map(jnp.asarray, task.agent.carry())
        carry = jax.tree.map(lambda x: jnp.broadcast_to(x, (*rows.shape[:-1], *x.shape)), fresh)
    return acting.policy_action(task, one, rows, key, carry)


def greedy(task: Task, snapshot: Any) -> Callable[..., Any]:
    """`greedy_action` of a snapshot, compiled, with NumPy's arrays: `(observation, member=0, carry=None) -> action`."""
    compiled = jax.jit(partial(greedy_action, task), static_argnums=2)
    count = len(jax.tree.leaves(snapshot)[0])

    def act(observation: Any, member: int = 0, carry: Any = None) -> Any:
        if not isinstance(member, (int, np.integer)) or not -count <= member < count:  # JAX would take the nearest
            raise RlxError(f"member {member!r}: there are 0 to {count - 1}; choose one of those")
        checked(observation, task.env.spec.actor_size)
        return jax.tree.map(np.asarray, compiled(snapshot, np.asarray(observation, np.float32), member, carry))

    return act


def check_evaluates(run_config: RunConfig, name: str) -> None:
    """Raises RlxError for a run that has no environment."""
    if no_env.is_none(run_config.env):
        raise RlxError(
            f"{name}: was trained on data without an environment, so there is nothing to evaluate in; in"
            " Python give one of its sizes, rlx.load(folder, env=...)"
        )


def load_snapshot(folder: Path, driver: Driver, step: int | None = None) -> Any:
    """Agent and statistics `[M, ...]` that a run saved, for a driver of the same networks.

    One member serves for any number. Raises RlxError where the run's networks are not the driver's.
    """
    saved = config.from_json(folder / "config.json")
    count = len(config.members(saved))
    if count not in (1, driver.members):
        raise RlxError(f"{folder}: holds {count} members but {driver.members} are to start; use one, or as many")
    content = json_files.read(folder / "config.json")
    for note in filter(None, (origin.x64_note(content, folder), *origin.changed_files(content, saved))):
        say(f"rlx: {note}")
    shapes = driver.policy_snapshot_shapes
    place, statistics = folder / "checkpoints", shapes["statistics"].replace(returns=None)
    if any(name.startswith("['statistics'].returns.") for name in checkpoint.leaf_names(place, step)):
        wide = jax.vmap(lambda _: normalize.init_returns())
        statistics = statistics.replace(returns=jax.eval_shape(wide, np.zeros(count)))
    template = jax.tree.map(lambda x: np.zeros((count, *x.shape[1:]), x.dtype), shapes | {"statistics": statistics})
    snapshot = checkpoint.restore(place, template, step)
    snapshot = jax.tree.map(lambda x: np.broadcast_to(x, (driver.members, *x.shape[1:])), snapshot)
    return snapshot | {"statistics": normalize.with_returns_as(snapshot["statistics"], shapes["statistics"])}


def evaluate(
    folder: Path,
    episodes: int | None,
    eval_seed: int | None,
    step: int | None,
    env_args: Sequence[str] = (),
) -> str:
    """Evaluates a saved policy in its environment, with `env_args` in place of the run's; returns what to print."""
    saved = with_env_args(config.from_json(folder / "config.json"), env_args)
    if episodes is not None and not COUNT[0] <= episodes <= COUNT[1]:
        raise RlxError(f"--episodes {episodes}: must be at least {COUNT[0]} and at most {COUNT[1]}")
    changes: dict[str, Any] = {"eval_episodes": episodes, "eval_seed": eval_seed}
    if step is not None:
        checkpoint.choose(folder / "checkpoints", step)
    changes = {name: value for name, value in changes.items() if value is not None}
    check_evaluates(saved, str(folder))
    driver = acting_driver(saved, folder=folder, **changes)
    train = driver.task.config
    snapshot = driver.place(load_snapshot(folder, driver, step))
    each = f"each of {driver.members} members of " if driver.members > 1 else ""
    of_each = f" of each of {driver.members} members" if driver.members > 1 else ""
    say_compiling(f"evaluating {train.eval_episodes} episodes of {each}{folder}")
    evaluation = driver.fetch(driver.evaluate(snapshot))
    known = data.check_info(folder / "config.json", json_files.read(folder / "config.json").get("data") or {})
    results = summaries.results(evaluation.returns, saved, known, evaluation.nominal_returns)
    names = config.member_names(config.members(saved))
    values = zip(names, results["eval_return_per_seed"], strict=True)
    per_member = ", ".join(f"{name}: {value:.1f}".removeprefix(": ") for name, value in values)
    return "\n".join(
        [
            f"{saved.agent} on {saved.env}: {train.eval_episodes} greedy episodes{of_each}",
            *(f"  {line}" for line in summaries.in_words(results, "members" if any(names) else "seeds")),
            f"  per member {per_member}; mean length {evaluation.lengths.mean():.0f}",
            *([f"  {note}"] if (note := report.nonfinite_episodes(evaluation)) else []),
        ]
    )
