"""Policies to evaluate: those of runs, or functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlx import config
from rlx.config import RunConfig
from rlx.errors import RlxError
from rlx.runs import checkpoint
from rlx.runs import policies as saved
from rlx.train.task import Task, observed

ROWS = 2**13  # at once


class Policy(NamedTuple):
    """How a policy acts at raw observations, and how likely an action is under it.

    The functions are compiled once for all policies that share them, so parameters belong in `params`.
    """

    name: str
    sample: Callable[..., Any]  # (params, observation [B, O], key) -> action [B, A] in [-1, 1]
    log_prob: Callable[..., Any] | None = None  # (params, observation, action) -> [B]; None: it is deterministic
    params: Any = None
    env: str = ""  # its environment; empty where it may be any
    backend: str | None = None
    parts: dict[str, tuple[int, int]] = {}  # noqa: RUF012 -- of its environment's observations (see `Spec.parts`)
    sizes: tuple[int, int] | None = None  # numbers of an observation and of an action; None where they are not known


def from_run(
    folder: Path, steps: str | int | Sequence[int] = "last", member: int = 0, greedy: bool = False
) -> list[Policy]:
    """Policies of the run in `folder`: of its last checkpoint, of these `steps`, or of "all" of them.

    They act as they explore where the agent has a density, else greedily; `greedy` makes all act greedily. Exploration
    noise that is added on top does not count. Raises RlxError for a run, checkpoint or member that does not exist, and
    for an agent that carries an acting state or chooses among actions.
    """
    run_config = config.from_json(folder / "config.json")
    saved.check_member(member, config.members(run_config), str(folder))
    every = checkpoint.steps(folder / "checkpoints")
    if not every:
        raise RlxError(f"{folder}: holds no policy; train the run first")
    chosen = every if steps == "all" else [steps] if isinstance(steps, int) else steps
    chosen = [checkpoint.choose(folder / "checkpoints", None)] if chosen == "last" else list(chosen)  # type: ignore[arg-type]
    for step in chosen:
        checkpoint.choose(folder / "checkpoints", step)
    driver = saved.acting_driver(run_config, folder=folder)
    task, name = driver.task, folder.resolve().name
    if task.agent.carry or (task.agent.noise and not greedy):
        remedy = "it cannot be evaluated from data yet" if task.agent.carry else "evaluate it greedily (--greedy)"
        raise RlxError(f"{folder}: {run_config.agent} carries an acting state from step to step; {remedy}")

    labels = [name] if len(chosen) == 1 else [f"{name}@{step}" for step in chosen]
    snapshots = [saved.load_snapshot(folder, driver, step) for step in chosen]
    ones = [jax.tree.map(lambda x: jnp.asarray(x[member]), snapshot) for snapshot in snapshots]
    return from_snapshots(dict(zip(labels, ones, strict=True)), run_config, task, greedy)


def from_snapshots(
    snapshots: Mapping[str, Any], run_config: RunConfig, task: Task, greedy: bool = False
) -> list[Policy]:
    """Policies of agent and statistics of one member each, by name."""
    spec = task.env.spec
    if spec.num_actions:
        raise RlxError(
            f"{next(iter(snapshots))}: chooses among {spec.num_actions} actions; evaluation from data is of continuous"
            " actions so far, so simulate it: rlx eval"
        )
    functions = _functions(task, greedy or task.agent.log_prob is None)
    of_env: dict[str, Any] = {"env": run_config.env, "backend": run_config.backend, "parts": spec.parts}
    of_env |= {"sizes": (spec.observation_size, spec.action_size)}
    return [Policy(name, *functions, snapshot, **of_env) for name, snapshot in snapshots.items()]


def _functions(task: Task, greedy: bool) -> tuple[Callable[..., Any], Callable[..., Any] | None]:
    agent, log_prob = task.agent, task.agent.log_prob

    def bound(snapshot: Any, observation: jax.Array) -> tuple[Any, jax.Array]:
        return agent.acting_params(snapshot["agent"]), observed(task, snapshot["statistics"], observation)

    def sample(snapshot: Any, observation: jax.Array, key: Any) -> jax.Array:
        act = agent.act_greedy if greedy else agent.act
        return act(*bound(snapshot, observation), key)[0]

    def density(snapshot: Any, observation: jax.Array, action: jax.Array) -> jax.Array:
        assert log_prob is not None
        return log_prob(*bound(snapshot, observation), action)

    return sample, None if greedy else density


_compiled = lru_cache(maxsize=32)(jax.jit)


@lru_cache(maxsize=32)
def _draws(sample: Callable[..., Any]) -> Callable[..., Any]:
    """(params, observation, keys [K]) -> actions `[B, K, A]`; a network says once what it says of an observation."""
    return jax.jit(jax.vmap(sample, in_axes=(None, None, 0), out_axes=1))


def actions(policy: Policy, observation: np.ndarray, samples: int = 1, seed: int = 0) -> np.ndarray:
    """Actions of the policy at raw observations `[n, O]`: `[n, K, A]`; of a deterministic one K is 1."""
    draws, sample = (1 if policy.log_prob is None else samples), _draws(policy.sample)
    key, fold = jax.random.key(seed), jax.vmap(jax.random.fold_in, in_axes=(None, 0))

    def at(i: int, rows: np.ndarray) -> np.ndarray:
        return np.asarray(sample(policy.params, rows, fold(key, i * draws + np.arange(draws))))

    return in_blocks(at, observation)


def log_probs(policy: Policy, observation: np.ndarray, action: np.ndarray) -> np.ndarray:
    """log pi(a|s) of raw observations `[n, O]` and actions `[n, A]`: `[n]`."""
    assert policy.log_prob is not None
    density = _compiled(policy.log_prob)
    return in_blocks(lambda i, *rows: np.asarray(density(policy.params, *rows)), observation, action)


def in_blocks(function: Callable[..., np.ndarray], *rows: np.ndarray) -> np.ndarray:
    """`function(i, rows of block i)` of equal blocks, put together; the last one is filled up, so that one program
    serves all."""
    n = len(rows[0])
    size = min(ROWS, n)
    blocks = []
    for i, start in enumerate(range(0, n, size)):
        at = np.minimum(np.arange(start, start + size), n - 1)
        blocks.append(function(i, *(leaf[at] for leaf in rows)))
    return np.concatenate(blocks)[:n]


def named(candidates: Any, greedy: bool = False) -> list[Policy]:
    """Policies of run folders, results, `Policy`s, a list of these, or a dict from names to them.

    Raises RlxError for anything else, for none, and for two of one name.
    """
    if isinstance(candidates, Mapping):
        loaded = [_policy(candidate, greedy)._replace(name=str(name)) for name, candidate in candidates.items()]
    else:
        several = isinstance(candidates, Sequence) and not isinstance(candidates, (str, Policy))
        loaded = [_policy(candidate, greedy) for candidate in (candidates if several else [candidates])]
    names = [policy.name for policy in loaded]
    if not names:
        raise RlxError("policies: the list is empty; give folders of runs, results or rlx.ope.Policy")
    if twice := [name for name in names if names.count(name) > 1]:
        raise RlxError(f"policies: two are called {twice[0]!r}; name each once, in Python by a dict")
    return loaded


def _policy(candidate: Any, greedy: bool) -> Policy:
    if isinstance(candidate, Policy):
        return candidate
    if isinstance(candidate, (str, Path)):
        return from_run(Path(candidate), greedy=greedy)[0]
    if hasattr(candidate, "_snapshot"):  # rlx.Result, whose module is above this one
        one = jax.tree.map(lambda x: jnp.asarray(x[0]), candidate._snapshot)
        return from_snapshots({candidate.config.agent: one}, candidate.config, candidate._task, greedy)[0]
    raise RlxError(
        f"policies: {type(candidate).__name__} is no policy; give a run's folder, a result or a rlx.ope.Policy"
    )
