"""Collects data in an environment, whoever acts: rollouts, returns, and what the data set's info says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx.build import Setup, make_driver, make_env, setup
from rlx.config import RunConfig
from rlx.data import Dataset
from rlx.envs.base import Controller
from rlx.errors import RlxError
from rlx.evaluate import evaluate
from rlx.rollout import Act, add_noise, collect, derive
from rlx.runs import policies, saved_replay
from rlx.runs.behaviours import EXPLORING, Behaviour, Exploration
from rlx.train import acting
from rlx.train.task import ACT, COLLECT, POOL, Task, observed
from rlx.types import Key, Spec

ENVS, STRETCH = 64, 5  # the most environments stepped at once, and the episodes that should fit into what each gives
EPISODES = 64  # of every return that is measured
GREEDY = Exploration(greedy=True)
RANDOM = Behaviour("random", None)


class Collector:
    """Collects in an environment. A `snapshot` is what acts there: None for random actions."""

    names: tuple[str, ...]  # of the behaviours that there are

    def __init__(self, saved: RunConfig, size: int, seed: int, exploration: Exploration) -> None:
        self.saved, self.seed, self.exploration = saved, seed, exploration
        self.driver = make_driver(_collecting_setup(saved, size, seed))
        self.task: Task = self.driver.task._replace(axes=())
        self._returns: dict[tuple[Behaviour, Exploration], np.ndarray] = {}
        self._collect = jax.jit(self._rollout, static_argnames=("name", "exploration"))
        self._evaluate = jax.jit(self._episodes, static_argnames=("name", "exploration"))
        self._make_pool = jax.jit(self.task.batch.make_pool)

    def choose(self, names: Sequence[str], step: int | None) -> list[Behaviour]:
        """The behaviours of these names."""
        return [Behaviour(name, None) for name in names]

    def snapshot(self, behaviour: Behaviour) -> Any:
        """The arrays that it acts with."""
        return None

    def controller(self, name: str) -> Controller | None:
        """The environment's, where a behaviour is one."""
        return None

    def expert(self) -> Behaviour | None:
        """The behaviour whose return is the data set's expert return, if there is one."""
        raise NotImplementedError

    def origin(self) -> dict[str, Any]:
        """What the data set's info says of where the behaviours come from."""
        return {}

    def mismatches(self, behaviours: list[Behaviour]) -> list[str]:
        """A line where a behaviour is not what its name promises."""
        return []

    def returns(self, behaviour: Behaviour, exploration: Exploration = GREEDY) -> np.ndarray:
        """Returns from fixed starts, `[EPISODES]`."""
        exploration = self._own(behaviour.name, exploration)
        if (behaviour, exploration) not in self._returns:
            snapshot = self.snapshot(behaviour)
            self._returns[behaviour, exploration] = np.asarray(
                self._evaluate(snapshot, name=behaviour.name, exploration=exploration)
            )
        return self._returns[behaviour, exploration]

    def mean_return(self, behaviour: Behaviour, exploration: Exploration = GREEDY) -> float:
        return float(np.mean(self.returns(behaviour, exploration)))

    def collect(self, behaviour: Behaviour, size: int) -> Dataset:
        """`size` transitions; where the time is up in the middle of an episode, it is cut."""
        snapshot, blocks = self.snapshot(behaviour), []
        high, low = divmod(behaviour.step or 0, 2**32)
        key = derive(jax.random.key(self.seed), low, *[high] * bool(high))
        plain = self.task._replace(config=replace(self.task.config, normalize_rewards=False))  # rewards are as they are
        state = jax.jit(partial(acting.init_env, plain))(key, self._make_pool(derive(key, POOL)))
        state = state.replace(carry=self._fresh(behaviour.name, self.exploration, self.task.plan.shard_envs))
        for iteration in range(-(-size // self.task.plan.iteration_env_steps)):
            pool = self._make_pool(derive(key, POOL, iteration))
            arguments = (snapshot, state, pool, key, jnp.int32(iteration))
            state, rows = self._collect(*arguments, name=behaviour.name, exploration=self.exploration)
            blocks.append(jax.device_get(rows))
        dataset = saved_replay.columns(jax.tree.map(lambda *x: np.concatenate(x), *blocks), size)
        if not np.isfinite(dataset.rows.action).all():
            raise RlxError(f"{self.saved.env}: {behaviour.name} has acted with NaN; mend its act, nothing was written")
        return dataset

    def _rollout(
        self, snapshot: Any, state: Any, pool: Any, key: Key, iteration: jax.Array, name: str, exploration: Exploration
    ) -> Any:
        """One block."""
        task, keys = self.task, (derive(key, COLLECT, iteration), derive(key, ACT, iteration))
        length, index = task.config.rollout_length, acting.env_index(task)
        act, fresh = self._act(task, snapshot, name, exploration), self._fresh(name, exploration, len(index))
        held = None if name == "random" else acting.noise_keys(task, key, iteration * length)
        return collect(task.batch, act, state, pool, length, index, *keys, None, fresh, held)[:2]

    def _episodes(self, snapshot: Any, name: str, exploration: Exploration) -> jax.Array:
        """Returns of complete episodes, `[EPISODES]`."""
        act, carry = self._in_episodes(snapshot, name, exploration)
        key, most = jax.random.key(self.task.config.eval_seed), self.task.config.max_magnitude
        return evaluate(self.task.env, act, EPISODES, key, carry=carry, max_magnitude=most, nominal=False).returns

    def _in_episodes(self, snapshot: Any, name: str, exploration: Exploration) -> tuple[Callable[..., Any], Any]:
        """`_act` for `evaluate`, with the exploration noise spread over the episodes, and the state it begins with:
        steps so far [EPISODES], and the acting state."""
        plan = self.task.plan._replace(shard_envs=EPISODES)
        task = self.task._replace(plan=plan, config=replace(self.task.config, num_envs=EPISODES))
        behaviour, fresh = self._act(task, snapshot, name, exploration), self._fresh(name, exploration, EPISODES)
        held = None
        if name != "random":
            held = acting.noise_keys(task, jax.random.key(task.config.eval_seed), jnp.int32(0))

        def act(observation: jax.Array, key: Key, carry: Any) -> Any:
            steps, *state = carry
            env_keys = jax.random.split(key, EPISODES) if held is None else held(steps[0])
            action, _, *state = behaviour(observation, key, env_keys, *state)
            return action, (steps + 1, *state)

        return act, (jnp.zeros(EPISODES, jnp.int32), *([] if fresh is None else [fresh]))

    def _own(self, name: str, exploration: Exploration) -> Exploration:
        """What of it a behaviour has: random actions have none of it, and controllers are not greedy."""
        if name == "random":
            return EXPLORING
        return exploration._replace(greedy=False) if self.controller(name) else exploration

    def _act(self, task: Task, snapshot: Any, name: str, exploration: Exploration) -> Act:
        """How a behaviour acts."""
        if name == "random":
            return partial(_at_random, task.env.spec)
        controller = self.controller(name)
        act: Act
        if controller is not None:
            act = partial(_under_control, controller)
        elif exploration.greedy:
            act = partial(_greedily, task, snapshot)
        else:
            act = _exploring(task, snapshot)
        return partial(_with_noise, act, exploration.noise) if exploration.noise else act

    def _fresh(self, name: str, exploration: Exploration, count: int) -> Any:
        """The acting state that episodes begin with, `[count, ...]`; None where there is none."""
        controller = self.controller(name)
        if controller is not None:
            return acting.repeated(controller.carry, count)
        if name == "random":
            return None
        return (acting.fresh_carry if exploration.greedy else acting.fresh_acting_state)(self.task, count)

    def describe(self, behaviour: Behaviour, share: float) -> dict[str, Any]:
        """A behaviour as the data set's info has it."""
        returns = self.mean_return(behaviour, self.exploration), self.mean_return(behaviour)
        return behaviour._asdict() | {"share": share, "return": returns[0], "greedy_return": returns[1]}

    def info(self, kind: str, dataset: Dataset, behaviours: list[dict[str, Any]]) -> dict[str, Any]:
        """What is saved with the transitions."""
        mean = sum(b["share"] * b["return"] for b in behaviours) if behaviours else dataset.info["behaviour_return"]
        train, expert = self.saved.train, self.expert()
        settings = {name: list(getattr(train, name)) for name in ("env_args", "env_params", "wrappers", "randomize")}
        return {
            "kind": kind,
            "env": self.saved.env,
            "backend": self.saved.backend,
            **settings,
            "episode_length": self.task.env.spec.episode_length,
            "observation_parts": {name: list(columns) for name, columns in self.task.env.spec.parts.items()},
            **self.origin(),
            "seed": self.seed,
            **({"greedy": True} if self.exploration.greedy else {}),
            **({"noise": self.exploration.noise} if self.exploration.noise else {}),
            "random_return": self.mean_return(RANDOM),
            **({} if expert is None else {"expert_return": self.mean_return(expert)}),
            "behaviour_return": mean,
            "behaviours": behaviours,
        }


def _at_random(spec: Spec, observation: jax.Array, key: Key, env_keys: Key) -> tuple[jax.Array, dict[str, jax.Array]]:
    log_prob = jnp.broadcast_to(acting.random_log_prob(spec, observation), len(observation))
    return acting.random_action(spec, key, observation), {"log_prob": log_prob}


def _under_control(
    controller: Controller, observation: jax.Array, key: Key, env_keys: Key, carry: Any
) -> tuple[jax.Array, dict[str, jax.Array], Any]:
    """A controller at observations `[E, O]`, its actions in [-1, 1]; its densities are not known."""
    action, carry = jax.vmap(controller.act)(observation, jax.random.split(key, len(observation)), carry)
    return jnp.clip(jnp.asarray(action, jnp.float32), -1.0, 1.0), {}, carry


def _greedily(
    task: Task, snapshot: Any, observation: jax.Array, key: Key, env_keys: Key, *carry: Any
) -> tuple[Any, ...]:
    """A policy's greedy actions, which have no density."""
    found = acting.greedy_action(task, snapshot, observation, key, *carry)
    return (found[0], {}, *found[1:]) if carry else (found, {})


def _exploring(task: Task, snapshot: Any) -> Act:
    """A policy as it explores."""
    policy, statistics = task.agent.acting_params(snapshot["agent"]), snapshot["statistics"]
    explore, density = acting.behave(task, policy, statistics), task.agent.log_prob

    def act(observation: jax.Array, key: Key, env_keys: Key, *carry: Any) -> tuple[Any, ...]:
        action, info, *carried = explore(observation, key, env_keys, *carry)
        if "log_prob" in info and density is not None and task.agent.carry is None:
            # of the number that is stored, as other policies' densities are: tanh may have rounded it to +-1
            info = info | {"log_prob": density(policy, observed(task, statistics, observation), action)}
        return action, info, *carried

    return act


def _with_noise(
    act: Act, noise: float, observation: jax.Array, key: Key, env_keys: Key, *carry: Any
) -> tuple[Any, ...]:
    """With Gaussian noise on every action, whose densities are then not known."""
    action, _, *carried = act(observation, key, env_keys, *carry)
    count = len(observation)
    return add_noise(action, jnp.full(count, noise), jax.random.split(derive(key, ACT), count)), {}, *carried


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
