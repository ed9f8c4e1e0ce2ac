"""Data sets from runs: a run's policies act in its environment, or its saved replay is taken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlx import checkpoint, config, data, metrics, runs, wholes
from rlx.config import RunConfig
from rlx.data import Dataset
from rlx.evaluate import evaluate
from rlx.experiment import Setup, make_driver, setup
from rlx.replay import Row
from rlx.rollout import Act, collect, derive
from rlx.train import roles
from rlx.train.roles import Task
from rlx.types import Key, RlxError

KINDS = ("random", "medium", "expert", "mixed", "replay")
MEDIUM = 1 / 3  # of the way from the random to the expert return, as D4RL's medium policies (arXiv 2004.07219)
ENVS = 64  # stepped at once; each gives a stretch of consecutive rows
EPISODES = 64  # of every return that is measured


class Behaviour(NamedTuple):
    """A policy that collects."""

    name: str
    step: int | None  # of the checkpoint; None acts at random


def make_dataset(folder: Path, kind: str, size: int, out: Path, seed: int = 0, step: int | None = None) -> Dataset:
    """Writes `size` transitions of a run's environment to `out` as a Minari data set, and returns them.

    `kind` is random; expert, the last policy; medium, the policy a third of the way there; mixed, half of each; or
    replay, what the run itself collected. `step` chooses another checkpoint for medium or expert. The set knows the
    random and the expert return in this very environment, and those of who collected. Raises RlxError for a run or kind
    that cannot be.
    """
    if kind not in KINDS:
        raise RlxError(f"--kind {kind}: must be {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    if size < 1:
        raise RlxError(f"--num-transitions {size}: must be at least 1")
    if out.exists():
        raise RlxError(f"{out}: is there already; choose another --out")
    collector = Collector(folder, seed)
    if kind == "replay":
        found, behaviours = collector.replay(size), []
    else:
        chosen = collector.choose(kind, step)
        shares = [size // len(chosen) + (i < size % len(chosen)) for i in range(len(chosen))]
        found = data.concatenate([collector.collect(b, n) for b, n in zip(chosen, shares, strict=True)])
        behaviours = [collector.told(behaviour) for behaviour in chosen]
    found = found._replace(info=collector.info(kind, found, behaviours) | {"name": out.name})
    data.write(found, out)
    return found


class Collector:
    """A run to collect from."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.saved = config.from_json(folder / "config.json")
        self.given = _as_collector(self.saved, seed)
        self.driver = make_driver(self.given)
        self.task: Task = self.driver.task._replace(axes=())
        self._returns: dict[int | None, float] = {}
        self.policies = checkpoint.steps(folder / "checkpoints")
        if not self.policies:
            raise RlxError(f"{folder}: holds no policy; train the run first")
        self._collect = jax.jit(self._rollout, static_argnames="random")
        self._make_pool = jax.jit(self.task.batch.make_pool)

    def choose(self, kind: str, step: int | None) -> list[Behaviour]:
        """Who collects."""
        if kind == "random":
            return [Behaviour("random", None)]
        if kind == "expert":
            return [Behaviour(kind, step or self.policies[-1])]
        medium = Behaviour("medium", step or self._medium())
        return [medium] if kind == "medium" else [medium, Behaviour("expert", self.policies[-1])]

    def _medium(self) -> int:
        """The evaluation whose return is nearest to a third of the way from random to the last."""
        lines = [x for x in metrics.read(self.folder / "metrics.jsonl") if x.get("eval/return_per_seed")]
        returns = np.asarray([line["eval/return_per_seed"][0] for line in lines], float)
        goal = self.worth(None) + MEDIUM * (returns[-1] - self.worth(None))
        return int(lines[int(np.nanargmin(np.abs(returns - goal)))]["run_step"])

    def policy(self, step: int | None) -> Any:
        """Agent and statistics of the run's first member, None for random actions."""
        if step is None:
            return None
        return jax.tree.map(lambda x: x[0], runs.load(self.folder, self.driver, step))

    def worth(self, step: int | None) -> float:
        """The mean greedy return of a checkpoint, or of random actions, over fixed starts."""
        if step not in self._returns:
            learned = self.policy(step)

            def act(observation: jax.Array, key: Key) -> jax.Array:
                if learned is None:
                    shape = (len(observation), self.task.env.spec.action_size)
                    return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)
                seen = roles.observed(self.task, learned["statistics"], observation)
                return self.task.agent.act_greedy(self.task.agent.acting(learned["agent"]), seen, key)[0]

            key = jax.random.key(self.task.config.eval_seed)
            returns = jax.jit(lambda: evaluate(self.task.env, act, EPISODES, key).returns)()
            self._returns[step] = float(np.mean(returns))
        return self._returns[step]

    def collect(self, behaviour: Behaviour, size: int) -> Dataset:
        """`size` transitions; where the time is up in the middle of an episode, it is cut there."""
        learned, blocks = self.policy(behaviour.step), []
        key = derive(jax.random.key(self.seed), 1 if learned is None else behaviour.step)
        state = jax.jit(lambda: roles.init_env(self.task, key, self._make_pool(derive(key, roles.POOL))))()
        for tick in range(-(-size // (ENVS * self.task.config.rollout_length))):
            pool = self._make_pool(derive(key, roles.POOL, tick))
            state, rows = self._collect(learned, state, pool, key, jnp.int32(tick), random=learned is None)
            blocks.append(jax.device_get(rows))
        return _columns(jax.tree.map(lambda *x: np.concatenate(x), *blocks), size, {})

    def _rollout(self, learned: Any, state: Any, pool: Any, key: Key, tick: jax.Array, random: bool) -> Any:
        def at_random(observation: jax.Array, key: Key, env_keys: Key) -> tuple[jax.Array, dict[str, jax.Array]]:
            shape = (len(observation), self.task.env.spec.action_size)
            log_prob = jnp.full(shape[0], -shape[1] * jnp.log(2.0))
            return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0), {"log_prob": log_prob}

        act: Act = at_random
        if not random:
            act = roles.behave(self.task, self.task.agent.acting(learned["agent"]), learned["statistics"])
        keys = derive(key, roles.COLLECT, tick), derive(key, roles.ACT, tick)
        length, index = self.task.config.rollout_length, roles.env_index(self.task)
        return collect(self.task.batch, act, state, pool, length, index, *keys)[:2]

    def replay(self, size: int) -> Dataset:
        """The newest `size` transitions of the saved replay of the run's first member, environment by environment."""
        train = replace(self.saved.train, dataset="", offline_steps=0)
        place = wholes.place(self.saved, self.folder)
        found = wholes.find(place, runs.warn)
        driver = make_driver(setup(replace(self.saved, train=train)))
        if found is None or not hasattr(driver.shapes, "replay"):
            raise RlxError(f"{self.folder}: holds no replay of the fused driver; train it so, or choose another --kind")
        ring = wholes.unpack(place, found[0], driver).whole["state"].replay
        count, head = int(ring.cursor.size), int(ring.cursor.head)
        order = (head - count + np.arange(count)) % ring.rows.reward.shape[2]
        rows = jax.tree.map(lambda x: x[0].swapaxes(0, 1)[order], ring.rows)  # [T, shards, E, ...]
        rows = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[3:]), rows)
        rows = rows._replace(reward=rows.reward - train.reward_shift)
        keep = -(-size // rows.reward.shape[1])
        return _columns(jax.tree.map(lambda x: x[-keep:], rows), size, {})

    def told(self, behaviour: Behaviour) -> dict[str, Any]:
        """What is known of who collected."""
        return {**behaviour._asdict(), "greedy_return": self.worth(behaviour.step)}

    def info(self, kind: str, found: Dataset, behaviours: list[dict[str, Any]]) -> dict[str, Any]:
        """What is kept beside the transitions."""
        returns, lengths = data.episode_returns(found), data.episode_lengths(found)
        cut = found.rows.truncated[np.cumsum(lengths) - 1] & (lengths < self.task.env.spec.episode_length)
        return {
            "kind": kind,
            "env": self.saved.env,
            "backend": self.saved.backend,
            "episode_length": self.task.env.spec.episode_length,
            "agent": self.saved.agent,
            "seed": self.seed,
            "random_return": self.worth(None),
            "expert_return": self.worth(self.policies[-1]),
            "behaviour_return": float(returns[~cut].mean()) if (~cut).any() else None,
            "behaviours": behaviours,
        }


def _as_collector(saved: RunConfig, seed: int) -> Setup:
    """The run's configuration with what collecting needs: some environments, and no learning."""
    length = min(saved.train.total_env_steps or 1000, 100)
    few = {"num_envs": ENVS, "pool_size": ENVS, "rollout_length": length, "replay_capacity": ENVS * length}
    chosen = replace(saved.train, **runs.NO_TRAINING | few | {"seed": seed, "total_env_steps": 10 * ENVS * length})
    return setup(replace(saved, train=chosen))


def _columns(rows: Row, size: int, info: dict[str, Any]) -> Dataset:
    """Rows `[T, E, ...]` one environment after the other, `size` in all; the last row of each ends its episode."""
    last = np.arange(len(rows.reward)) == len(rows.reward) - 1
    rows = rows._replace(truncated=rows.truncated | (last[:, None] & ~rows.terminated))
    flat = jax.tree.map(lambda x: np.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])[:size], rows)
    return data.make_dataset(info, **flat._asdict())
