"""Data sets from runs: a run's policies act in its environment, or its saved replay is taken."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlx import config, data, envs, machine
from rlx.config import RunConfig
from rlx.data import Dataset, limits
from rlx.errors import RlxError, say_compiling
from rlx.evaluate import evaluate
from rlx.experiment import Setup, make_driver, setup
from rlx.replay import Row
from rlx.rollout import Act, collect, derive
from rlx.runs import checkpoint, metrics, runner, saver
from rlx.train import steps
from rlx.train.steps import Task
from rlx.types import Key, Spec

KINDS = ("random", "medium", "expert", "mixed", "replay")
MEDIUM = 1 / 3  # of the way from the random to the expert return, as D4RL's medium policies (arXiv 2004.07219)
SHARES = {"medium": (MEDIUM / 2, (MEDIUM + 1) / 2), "expert": (1 / 2, np.inf)}  # nearer to there than to either end
CLEARLY = 2  # standard errors that a policy must be above random actions
ENVS, STRETCH = 64, 5  # the most environments stepped at once, and the episodes that should fit into what each gives
COPIES = 3  # of all rows, at most at once
EPISODES = 64  # of every return that is measured


class Behaviour(NamedTuple):
    """A policy that collects."""

    name: str
    step: int | None  # of the checkpoint; None acts at random


def make_dataset(
    folder: Path,
    kind: str,
    size: int,
    out: Path,
    seed: int = 0,
    step: int | None = None,
    env: str | None = None,
    backend: str | None = None,
) -> Dataset:
    """Writes `size` transitions of a run's environment to `out` as a Minari data set, and returns them.

    `kind` is random; expert, the last policy; medium, the policy a third of the way there; mixed, half of each; or
    replay, what the run itself collected, all of it where that is less. `step` chooses another checkpoint for medium
    (also in mixed) or expert; `env` and `backend` another environment of the same sizes. The set knows the random and
    the expert return in this very environment, and those of who collected; a note says where that is not what the kind
    promises. Raises RlxError for a run or kind that cannot be.
    """
    if kind not in KINDS:
        raise RlxError(f"--kind {kind}: must be {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    if size < 1:
        raise RlxError(f"--num-transitions {size}: must be at least 1")
    if step is not None and kind in ("random", "replay"):
        raise RlxError(f"--step {step}: goes with --kind medium, expert or mixed; leave it out")
    if out.exists():
        raise RlxError(f"{out}: is there already; choose another --out")
    if kind == "replay" and (env or backend):
        raise RlxError("--env, --backend: replay is of the run's own environment; leave them out")
    collector = Collector(folder, size, seed, env, backend)
    if step is not None:
        checkpoint.choose(folder / "checkpoints", step)
    if kind == "replay":
        found, behaviours, notes = collector.replay(size), [], []
        say_compiling(f"took {found.size:,} transitions of {folder}; judging random actions and its last policy")
    else:
        _check_memory(collector.task.env.spec, size)
        say_compiling(f"collecting {size:,} transitions of {folder}, {kind}")
        chosen = collector.choose(kind, step)
        shares = [size // len(chosen) + (i < size % len(chosen)) for i in range(len(chosen))]
        found = data.concatenate([collector.collect(b, n) for b, n in zip(chosen, shares, strict=True)])
        behaviours = [collector.told(behaviour) for behaviour in chosen]
        notes = collector.doubts(chosen)
    found = found._replace(info=collector.info(kind, found, behaviours) | {"name": out.name, "notes": notes})
    data.write(found, out)
    return found


class Collector:
    """A run to collect from; `learned` is agent and statistics of its first member, None for random actions."""

    def __init__(self, folder: Path, size: int, seed: int, env: str | None = None, backend: str | None = None) -> None:
        self.folder, self.seed = folder, seed
        self.saved = _elsewhere(config.from_json(folder / "config.json"), env, backend)
        self.policies = checkpoint.steps(folder / "checkpoints")
        if not self.policies:
            raise RlxError(f"{folder}: holds no policy; train the run first")
        self.driver = make_driver(_as_collector(self.saved, size, seed))
        self.task: Task = self.driver.task._replace(axes=())
        if self.task.agent.carry is not None:
            raise RlxError(
                f"{folder}: {self.saved.agent} acts with a state of its own, which is not collected with yet"
            )
        self._returns: dict[tuple[int | None, bool], np.ndarray] = {}
        self._collect = jax.jit(self._rollout)
        self._evaluate = jax.jit(self._episodes, static_argnames="greedy")
        self._make_pool = jax.jit(self.task.batch.make_pool)

    def choose(self, kind: str, step: int | None) -> list[Behaviour]:
        """Who collects."""
        if kind == "random":
            return [Behaviour("random", None)]
        if kind == "expert":
            return [Behaviour(kind, self.policies[-1] if step is None else step)]
        medium = Behaviour("medium", self._medium() if step is None else step)
        return [medium] if kind == "medium" else [medium, Behaviour("expert", self.policies[-1])]

    def _medium(self) -> int:
        """The evaluation whose return is nearest to a third of the way from random to the last."""
        lines = [x for x in metrics.read(self.folder / "metrics.jsonl") if x["run_step"] in self.policies]
        lines = [x for x in lines if (x.get("eval/return_per_seed") or [None])[0] is not None]
        if not lines:
            raise RlxError(f"{self.folder}: has no evaluation with a finite return; choose a policy by --step")
        returns = np.asarray([line["eval/return_per_seed"][0] for line in lines], float)
        goal = self.worth(None) + MEDIUM * (returns[-1] - self.worth(None))
        return int(lines[int(np.nanargmin(np.abs(returns - goal)))]["run_step"])

    def policy(self, step: int | None) -> Any:
        """What a checkpoint holds, None for random actions."""
        if step is None:
            return None
        return jax.tree.map(lambda x: x[0], runner.load(self.folder, self.driver, step))

    def returns(self, step: int | None, greedy: bool = True) -> np.ndarray:
        """Returns of a checkpoint, or of random actions, from fixed starts, `[EPISODES]`; greedy, or as it explores."""
        if (step, greedy) not in self._returns:
            self._returns[step, greedy] = np.asarray(self._evaluate(self.policy(step), greedy=greedy))
        return self._returns[step, greedy]

    def worth(self, step: int | None, greedy: bool = True) -> float:
        """Their mean."""
        return float(np.mean(self.returns(step, greedy)))

    def doubts(self, behaviours: list[Behaviour]) -> list[str]:
        """A line where somebody who collects is not what the kind promises."""
        references = self.returns(None), self.returns(self.policies[-1])
        found = (doubt(who, self.returns(who.step, greedy=False), *references) for who in behaviours)
        return [line for line in found if line][:1]

    def collect(self, behaviour: Behaviour, size: int) -> Dataset:
        """`size` transitions; where the time is up in the middle of an episode, it is cut there."""
        learned, blocks = self.policy(behaviour.step), []
        key = derive(jax.random.key(self.seed), behaviour.step or 0)
        state = jax.jit(partial(steps.init_env, self.task))(key, self._make_pool(derive(key, steps.POOL)))
        for iteration in range(-(-size // self.task.plan.iteration_env_steps)):
            pool = self._make_pool(derive(key, steps.POOL, iteration))
            state, rows = self._collect(learned, state, pool, key, jnp.int32(iteration))
            blocks.append(jax.device_get(rows))
        return _columns(jax.tree.map(lambda *x: np.concatenate(x), *blocks), size)

    def _explore(self, learned: Any, count: int) -> Act:
        def at_random(observation: jax.Array, key: Key, env_keys: Key) -> tuple[jax.Array, dict[str, jax.Array]]:
            shape = (len(observation), self.task.env.spec.action_size)
            log_prob = jnp.full(shape[0], -shape[1] * jnp.log(2.0))
            return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0), {"log_prob": log_prob}

        if learned is None:
            return at_random
        plan, settings = self.task.plan._replace(shard_envs=count), replace(self.task.config, num_envs=count)
        task = self.task._replace(plan=plan, config=settings)
        return steps.behave(task, task.agent.acting_params(learned["agent"]), learned["statistics"])

    def _rollout(self, learned: Any, state: Any, pool: Any, key: Key, iteration: jax.Array) -> Any:
        keys = derive(key, steps.COLLECT, iteration), derive(key, steps.ACT, iteration)
        length, index = self.task.config.rollout_length, steps.env_index(self.task)
        return collect(self.task.batch, self._explore(learned, len(index)), state, pool, length, index, *keys)[:2]

    def _episodes(self, learned: Any, greedy: bool) -> jax.Array:
        """Returns of whole episodes, `[EPISODES]`."""
        task, explore = self.task, self._explore(learned, EPISODES)

        def act(observation: jax.Array, key: Key) -> jax.Array:
            if learned is None or not greedy:
                return explore(observation, key, jax.random.split(key, len(observation)))[0]
            return steps.greedy_action(task, learned, observation, key)

        key, most = jax.random.key(task.config.eval_seed), task.config.max_magnitude
        return evaluate(task.env, act, EPISODES, key, max_magnitude=most).returns

    def replay(self, size: int) -> Dataset:
        """The newest `size` transitions of the saved replay of the run's first member, environment by environment."""
        train = replace(self.saved.train, dataset="", offline_steps=0)
        place = saver.place(self.saved, self.folder)
        saved = saver.find(place, runner.warn)
        driver = make_driver(setup(replace(self.saved, train=train)))
        if saved is None or not hasattr(driver.training_state_shapes["state"], "replay"):
            raise RlxError(f"{self.folder}: holds no replay of the fused driver; train it so, or choose another --kind")
        ring = saver.unpack(place, saved[0], driver).training_state["state"].replay
        count, head = int(ring.cursor.size), int(ring.cursor.head)
        if not count:
            raise RlxError(f"{self.folder}: was trained without saving replay; choose another --kind")
        order = (head - count + np.arange(count)) % ring.rows.reward.shape[2]
        rows = jax.tree.map(lambda x: x[0].swapaxes(0, 1)[order], ring.rows)  # [T, shards, E, ...]
        rows = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[3:]), rows)
        rows = rows._replace(reward=rows.reward - train.reward_shift)
        keep = min(count, -(-size // rows.reward.shape[1]))
        found = _columns(jax.tree.map(lambda x: x[-keep:], rows), size)
        return found._replace(info={"behaviour_return": _return_of_whole(found, keep)})

    def told(self, behaviour: Behaviour) -> dict[str, Any]:
        """What is known of who collected."""
        worth = {"return": self.worth(behaviour.step, greedy=False), "greedy_return": self.worth(behaviour.step)}
        return behaviour._asdict() | worth

    def info(self, kind: str, found: Dataset, behaviours: list[dict[str, Any]]) -> dict[str, Any]:
        """What is kept beside the transitions."""
        own = np.mean([behaviour["return"] for behaviour in behaviours]) if behaviours else None
        return {
            "kind": kind,
            "env": self.saved.env,
            "backend": self.saved.backend,
            "episode_length": self.task.env.spec.episode_length,
            "agent": self.saved.agent,
            "seed": self.seed,
            "random_return": self.worth(None),
            "expert_return": self.worth(self.policies[-1]),
            "behaviour_return": found.info["behaviour_return"] if own is None else float(own),
            "behaviours": behaviours,
        }


def doubt(who: Behaviour, returns: np.ndarray, random: np.ndarray, last: np.ndarray) -> str | None:
    """Why a policy with these returns `[N]`, as it explores, is not what its name promises; None where it is.

    It and the run's last policy must be clearly above random actions, and its share of the way from them to the last
    policy nearer to its name's own than to either end.
    """
    if who.name not in SHARES:
        return None
    mean, low, high = (float(x.mean()) for x in (returns, random, last))
    if not clearly_above(last, random):
        said = f"the run's last policy returns {high:.1f} and random actions {low:.1f}"
        return f"{said}, so there is no {who.name} policy; collect from a run that has learnt more"
    share, (least, most) = (mean - low) / (high - low), SHARES[who.name]
    if least <= share <= most and clearly_above(returns, random):
        return None
    said = f"the {who.name} policy, of step {who.step}, returns {mean:.1f} as it explores"
    way = f"{share:.0%} of the way from random actions' {low:.1f} to the last policy's {high:.1f}"
    return f"{said}, {way}; choose another by --step, or train with a smaller --eval-every"


def clearly_above(returns: np.ndarray, others: np.ndarray) -> bool:
    """Whether the mean of some returns `[N]` is over that of others `[M]` by more than chance would have it."""
    error = np.sqrt(returns.var(ddof=1) / len(returns) + others.var(ddof=1) / len(others))
    return bool(returns.mean() - others.mean() > CLEARLY * error)


def _elsewhere(saved: RunConfig, env: str | None, backend: str | None) -> RunConfig:
    """The run's configuration in another environment, if one is named. Raises RlxError where that has other sizes."""
    if env is None and backend is None:
        return saved
    there = replace(saved, env=env or saved.env, backend=backend or (saved.backend if env is None else None))
    own, other = (envs.make(c.env, backend=c.backend).spec for c in (saved, there))
    if (own.observation.shape, own.action.shape) != (other.observation.shape, other.action.shape):
        raise RlxError(f"--env {there.env}: the environment's sizes are not those of the run's; choose one like it")
    return there


def _check_memory(spec: Spec, size: int) -> None:
    """Raises RlxError for more transitions than memory holds: what comes off the device, whole columns, and the set."""
    row = 4 * (2 * spec.observation_size + spec.action_size + 3)  # reward, log-probability and flags
    wanted, free = COPIES * row * size, machine.free_memory()
    if free is not None and wanted > free:
        raise RlxError(
            f"--num-transitions {size}: needs {wanted / limits.GIB:,.1f} GiB of memory but {free / limits.GIB:,.1f} are"
            " free; collect fewer"
        )


def _as_collector(saved: RunConfig, size: int, seed: int) -> Setup:
    """The run's configuration with what collecting needs: some environments, and no learning.

    Each environment gives a stretch of consecutive rows; with few transitions there are few environments, so that
    nearly all episodes are whole.
    """
    env = envs.make(saved.env, backend=saved.backend)
    count, length = min(ENVS, max(1, size // (STRETCH * env.spec.episode_length))), min(100, env.spec.episode_length)
    few = {"num_envs": count, "pool_size": count, "rollout_length": length, "replay_capacity": count * length}
    rest = {"on_nonfinite": "reset-env", "seed": seed, "total_env_steps": 10 * count * length}
    return setup(replace(saved, train=replace(saved.train, **runner.NO_TRAINING | few | rest)), env, trains=False)


def _columns(rows: Row, size: int) -> Dataset:
    """Rows `[T, E, ...]` one environment after the other, `size` in all; the last row of each ends its episode."""
    last = np.arange(len(rows.reward)) == len(rows.reward) - 1
    rows = rows._replace(truncated=rows.truncated | (last[:, None] & ~rows.terminated))
    flat = jax.tree.map(lambda x: np.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])[:size], rows)
    return data.make_dataset({}, **flat._asdict())


def _return_of_whole(found: Dataset, stretch: int) -> float | None:
    """The mean return of the episodes that neither begin nor end where a stretch of rows does, None without any."""
    lengths, returns = data.episode_lengths(found), data.episode_returns(found)
    last = np.cumsum(lengths) - 1
    first = last - lengths + 1
    whole = (first % stretch > 0) & (last % stretch < stretch - 1) & (last < found.size - 1)
    return float(returns[whole].mean()) if whole.any() else None
