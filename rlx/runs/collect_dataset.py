"""Data sets from runs: a run's policies act in its environment, or its saved replay is taken. The run is only read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx import config, data
from rlx.build import Setup, check_env_of_run, make_driver, make_env, setup
from rlx.config import RunConfig
from rlx.data import Dataset, limits
from rlx.envs.env_params import of_members
from rlx.errors import RlxError, say_compiling
from rlx.evaluate import evaluate
from rlx.parallel import machine
from rlx.rollout import Act, collect, derive
from rlx.runs import checkpoint, metrics, policies, saved_replay
from rlx.runs.behaviours import MEDIUM, Behaviour, mismatch
from rlx.train import acting
from rlx.train.task import ACT, COLLECT, POOL, Task, observed
from rlx.types import Key, Spec

KINDS = ("random", "medium", "expert", "mixed", "replay")
ENVS, STRETCH = 64, 5  # the most environments stepped at once, and the episodes that should fit into what each gives
COPIES = 3  # of all rows, at most at once
EPISODES = 64  # of every return that is measured


def make_dataset(
    folder: Path,
    kind: str,
    size: int,
    out: Path,
    seed: int = 0,
    step: int | None = None,
    env: str | None = None,
    backend: str | None = None,
    env_args: Sequence[str] = (),
) -> Dataset:
    """Writes `size` transitions of a run's environment to `out` as a Minari data set, and returns them.

    `kind` is random; expert, the last policy; medium, the policy a third of the way there; mixed, half of each; or
    replay, what the run itself collected, all of it where that is less. `step` chooses another checkpoint for medium
    (also in mixed) or expert; `env`, `backend` and `env_args` another environment of the same sizes. The set's info has
    the random and the expert return in this environment, and those of its behaviours; a note says where a
    behaviour is not what the kind promises. Raises RlxError for an impossible run or kind.
    """
    if kind not in KINDS:
        raise RlxError(f"--kind {kind}: must be {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    if size < 1:
        raise RlxError(f"--num-transitions {size}: must be at least 1")
    if not 0 <= seed < 2**32:
        raise RlxError(f"--seed {seed}: must be at least 0 and under 2^32")
    if step is not None and kind in ("random", "replay"):
        raise RlxError(f"--step {step}: goes with --kind medium, expert or mixed; leave it out")
    if out.exists():
        raise RlxError(f"{out}: already exists; choose another --out")
    if kind == "replay" and (env or backend or env_args):
        raise RlxError("--env, --backend, --env-args: replay is of the run's own environment; leave them out")
    source = Source(folder, size, seed, env, backend, env_args)
    if step is not None:
        checkpoint.choose(folder / "checkpoints", step)
    if kind == "replay":
        dataset, behaviours, notes = saved_replay.read(source.saved, folder, size), [], []
        say_compiling(f"took {dataset.size:,} transitions of {folder}; evaluating random actions and its last policy")
    else:
        _check_memory(source.task.env.spec, size)
        say_compiling(f"collecting {size:,} transitions of {folder}, {kind}")
        chosen = source.choose(kind, step)
        shares = [size // len(chosen) + (i < size % len(chosen)) for i in range(len(chosen))]
        dataset = data.concatenate([source.collect(b, n) for b, n in zip(chosen, shares, strict=True)])
        behaviours = [source.describe(behaviour) for behaviour in chosen]
        notes = source.mismatches(chosen)
    dataset = dataset._replace(info=source.info(kind, dataset, behaviours) | {"name": out.name, "notes": notes})
    data.write(dataset, out)
    return dataset


class Source:
    """A run whose policies act; a `snapshot` is agent and statistics of its first member, None for random actions."""

    def __init__(
        self,
        folder: Path,
        size: int,
        seed: int,
        env: str | None = None,
        backend: str | None = None,
        env_args: Sequence[str] = (),
    ) -> None:
        self.folder, self.seed = folder, seed
        saved = config.from_json(folder / "config.json")
        check_env_of_run(saved, None, folder)
        self.saved = _elsewhere(saved, env, backend, env_args)
        policies.check_evaluates(self.saved, str(folder))
        self.policies = checkpoint.steps(folder / "checkpoints")
        if not self.policies:
            raise RlxError(f"{folder}: holds no policy; train the run first")
        self.driver = make_driver(_collecting_setup(self.saved, size, seed))
        self.task: Task = self.driver.task._replace(axes=())
        if of_members(self.task.env) is not None:
            raise RlxError(f"{folder}: its members have --env-params of their own; collect from a run with one set")
        self._returns: dict[tuple[int | None, bool], np.ndarray] = {}
        self._collect = jax.jit(self._rollout)
        self._evaluate = jax.jit(self._episodes, static_argnames="greedy")
        self._make_pool = jax.jit(self.task.batch.make_pool)

    def choose(self, kind: str, step: int | None) -> list[Behaviour]:
        """The policies that collect. Raises RlxError where the halves of a mixed set would have the same one."""
        if kind == "random":
            return [Behaviour("random", None)]
        if kind == "expert":
            return [Behaviour(kind, self.policies[-1] if step is None else step)]
        medium = Behaviour("medium", self._medium() if step is None else step)
        if kind == "mixed" and medium.step == self.policies[-1]:
            remedy = "choose another --kind or --step, or train with a smaller --eval-every"
            raise RlxError(
                f"--kind mixed: {self.folder}'s medium policy is its last, of step {medium.step}, so both halves would"
                f" be the same; {remedy}"
            )
        return [medium] if kind == "medium" else [medium, Behaviour("expert", self.policies[-1])]

    def _medium(self) -> int:
        """The evaluation whose return is nearest to a third of the way from random to the last."""
        lines = [x for x in metrics.read(self.folder / "metrics.jsonl") if x.get("run_step") in self.policies]
        lines = [x for x in lines if isinstance(x.get("eval/return_per_seed"), list)]
        lines = [x for x in lines if isinstance((x["eval/return_per_seed"] or [None])[0], (int, float))]
        if not lines:
            raise RlxError(f"{self.folder}: has no evaluation with a finite return; choose a policy by --step")
        returns = np.asarray([line["eval/return_per_seed"][0] for line in lines], float)
        goal = self.mean_return(None) + MEDIUM * (returns[-1] - self.mean_return(None))
        return int(lines[int(np.nanargmin(np.abs(returns - goal)))]["run_step"])

    def policy(self, step: int | None) -> Any:
        """A checkpoint's snapshot, None for random actions."""
        if step is None:
            return None
        return jax.tree.map(lambda x: x[0], policies.load_snapshot(self.folder, self.driver, step))

    def returns(self, step: int | None, greedy: bool = True) -> np.ndarray:
        """Returns of a checkpoint, or of random actions, from fixed starts, `[EPISODES]`; greedy, or as it explores."""
        if (step, greedy) not in self._returns:
            self._returns[step, greedy] = np.asarray(self._evaluate(self.policy(step), greedy=greedy))
        return self._returns[step, greedy]

    def mean_return(self, step: int | None, greedy: bool = True) -> float:
        return float(np.mean(self.returns(step, greedy)))

    def mismatches(self, behaviours: list[Behaviour]) -> list[str]:
        """A line where a behaviour is not what the kind promises."""
        references = self.returns(None), self.returns(self.policies[-1])
        lines = (mismatch(b, self.returns(b.step, greedy=False), *references) for b in behaviours)
        return [line for line in lines if line][:1]

    def collect(self, behaviour: Behaviour, size: int) -> Dataset:
        """`size` transitions; where the time is up in the middle of an episode, it is cut."""
        snapshot, blocks = self.policy(behaviour.step), []
        high, low = divmod(behaviour.step or 0, 2**32)
        key = derive(jax.random.key(self.seed), low, *[high] * bool(high))
        plain = self.task._replace(config=replace(self.task.config, normalize_rewards=False))  # rewards are as they are
        state = jax.jit(partial(acting.init_env, plain))(key, self._make_pool(derive(key, POOL)))
        for iteration in range(-(-size // self.task.plan.iteration_env_steps)):
            pool = self._make_pool(derive(key, POOL, iteration))
            state, rows = self._collect(snapshot, state, pool, key, jnp.int32(iteration))
            blocks.append(jax.device_get(rows))
        return saved_replay.columns(jax.tree.map(lambda *x: np.concatenate(x), *blocks), size)

    def _for_envs(self, count: int) -> Task:
        """The task with `count` environments, over which the exploration noise is spread."""
        plan, settings = self.task.plan._replace(shard_envs=count), replace(self.task.config, num_envs=count)
        return self.task._replace(plan=plan, config=settings)

    def _rollout(self, snapshot: Any, state: Any, pool: Any, key: Key, iteration: jax.Array) -> Any:
        """One block of the policy as it explores, or of random actions."""
        task, keys = self.task, (derive(key, COLLECT, iteration), derive(key, ACT, iteration))
        length, index = task.config.rollout_length, acting.env_index(task)
        arguments = (task.batch, _behaviour(task, snapshot), state, pool, length, index, *keys)
        if snapshot is None:
            return collect(*arguments)[:2]
        fresh = acting.fresh_acting_state(task, len(index))
        return collect(*arguments, None, fresh, acting.noise_keys(task, key, iteration * length))[:2]

    def _episodes(self, snapshot: Any, greedy: bool) -> jax.Array:
        """Returns of complete episodes, `[EPISODES]`."""
        task, key = self._for_envs(EPISODES), jax.random.key(self.task.config.eval_seed)
        act: Callable[..., Any] = partial(acting.greedy_action, task, snapshot)
        carry = acting.fresh_carry(task, EPISODES)
        if snapshot is None or not greedy:
            act, carry = _exploring(task, snapshot, key)
        most = task.config.max_magnitude
        return evaluate(task.env, act, EPISODES, key, carry=carry, max_magnitude=most, nominal=False).returns

    def describe(self, behaviour: Behaviour) -> dict[str, Any]:
        """A behaviour as the data set's info has it; a policy is identified by the digest of its checkpoint."""
        returns = self.mean_return(behaviour.step, greedy=False), self.mean_return(behaviour.step)
        known = behaviour._asdict() | {"return": returns[0], "greedy_return": returns[1]}
        if behaviour.step is None:
            return known
        return known | {"digest": checkpoint.manifest(self.folder / "checkpoints", behaviour.step)["digest"]}

    def info(self, kind: str, dataset: Dataset, behaviours: list[dict[str, Any]]) -> dict[str, Any]:
        """What is saved with the transitions."""
        mean = np.mean([behaviour["return"] for behaviour in behaviours]) if behaviours else None
        return {
            "kind": kind,
            "env": self.saved.env,
            "backend": self.saved.backend,
            "env_args": list(self.saved.train.env_args),
            "env_params": list(self.saved.train.env_params),
            "wrappers": list(self.saved.train.wrappers),
            "randomize": list(self.saved.train.randomize),
            "episode_length": self.task.env.spec.episode_length,
            "observation_parts": {name: list(columns) for name, columns in self.task.env.spec.parts.items()},
            "agent": self.saved.agent,
            "run": self.folder.resolve().name,
            "seed": self.seed,
            "random_return": self.mean_return(None),
            "expert_return": self.mean_return(self.policies[-1]),
            "behaviour_return": dataset.info["behaviour_return"] if mean is None else float(mean),
            "behaviours": behaviours,
        }


def _behaviour(task: Task, snapshot: Any) -> Act:
    """How a snapshot acts as it explores; None acts at random."""

    def at_random(observation: jax.Array, key: Key, env_keys: Key) -> tuple[jax.Array, dict[str, jax.Array]]:
        spec = task.env.spec
        log_prob = jnp.broadcast_to(acting.random_log_prob(spec, observation), len(observation))
        return acting.random_action(spec, key, observation), {"log_prob": log_prob}

    if snapshot is None:
        return at_random
    policy, statistics = task.agent.acting_params(snapshot["agent"]), snapshot["statistics"]
    explore, density = acting.behave(task, policy, statistics), task.agent.log_prob

    def act(observation: jax.Array, key: Key, env_keys: Key, *carry: Any) -> tuple[Any, ...]:
        action, info, *carried = explore(observation, key, env_keys, *carry)
        if "log_prob" in info and density is not None and task.agent.carry is None:
            # of the number that is stored, as other policies' densities are: tanh may have rounded it to +-1
            info = info | {"log_prob": density(policy, observed(task, statistics, observation), action)}
        return action, info, *carried

    return act


def _exploring(task: Task, snapshot: Any, key: Key) -> tuple[Callable[..., Any], Any]:
    """`act` of `_behaviour` for `evaluate`, and the state it begins with: steps so far [E], and the acting state."""
    behaviour, count = _behaviour(task, snapshot), task.plan.shard_envs
    held = None if snapshot is None else acting.noise_keys(task, key, jnp.int32(0))
    fresh = None if snapshot is None else acting.fresh_acting_state(task, count)

    def act(observation: jax.Array, key_now: Key, carry: Any) -> Any:
        steps, *state = carry
        env_keys = jax.random.split(key_now, count) if held is None else held(steps[0])
        action, _, *state = behaviour(observation, key_now, env_keys, *state)
        return action, (steps + 1, *state)

    return act, (jnp.zeros(count, jnp.int32), *([] if fresh is None else [fresh]))


def _elsewhere(saved: RunConfig, env: str | None, backend: str | None, env_args: Sequence[str]) -> RunConfig:
    """The run's configuration in another environment, if one is named. Raises RlxError where that has other sizes."""
    if env is None and backend is None and not env_args:
        return saved
    chosen = replace(saved, env=env or saved.env, backend=backend or (saved.backend if env is None else None))
    if env is not None:  # the run's settings are those of another class
        chosen = replace(chosen, train=replace(chosen.train, env_args=(), env_params=()))
    chosen = policies.with_env_args(chosen, env_args)
    old, new = (make_env(c).spec for c in (saved, chosen))
    if (old.observation.shape, old.action.shape) != (new.observation.shape, new.action.shape):
        raise RlxError(f"--env {chosen.env}: the environment's sizes are not those of the run's; choose one like it")
    return chosen


def _check_memory(spec: Spec, size: int) -> None:
    """Raises RlxError for more transitions than memory holds: blocks off the device, joined columns, the set."""
    row = 4 * (2 * spec.observation_size + spec.action_size + 3)  # reward, log-probability and flags
    needed, free = COPIES * row * size, machine.free_memory()
    if free is not None and needed > free:
        raise RlxError(
            f"--num-transitions {size}: needs {needed / limits.GIB:,.1f} GiB of memory but {free / limits.GIB:,.1f} are"
            " free; collect fewer"
        )


def _collecting_setup(saved: RunConfig, size: int, seed: int) -> Setup:
    """The run's configuration for collecting: some environments, and no learning.

    Each environment gives a stretch of consecutive rows; with few transitions there are few environments, so that
    nearly all episodes are complete.
    """
    env = make_env(saved)
    count, length = min(ENVS, max(1, size // (STRETCH * env.spec.episode_length))), min(100, env.spec.episode_length)
    few: dict[str, Any] = {
        "num_envs": count,
        "pool_size": count,
        "rollout_length": length,
        "replay_capacity": count * length,
    }
    few |= {"on_nonfinite": "reset-env", "seed": seed, "total_env_steps": 10 * count * length}
    # the environment that is made has them
    few |= dict.fromkeys(
        ("env_args", "env_params", "wrappers", "randomize", "actor_observation", "critic_observation"), ()
    )
    train = replace(saved.train, **policies.NO_TRAINING | few)
    return setup(replace(saved, backend=None, train=train), env, trains=False)
