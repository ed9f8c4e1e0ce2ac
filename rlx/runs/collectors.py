"""Where data sets come from: a run, whose policies act, or an environment with controllers of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlx import config
from rlx.build import check_env_of_run, make_env
from rlx.config import RunConfig
from rlx.envs import checks, no_env
from rlx.envs.base import Controller
from rlx.envs.env_params import of_members
from rlx.envs.wrapped import Wrapped
from rlx.errors import RlxError
from rlx.runs import checkpoint, metrics, policies
from rlx.runs.behaviours import EXPLORING, MEDIUM, OF_RUNS, Behaviour, Exploration, mismatch
from rlx.runs.collector import RANDOM, Collector
from rlx.types import Env


class RunCollector(Collector):
    """A run whose policies act; a `snapshot` is agent and statistics of its first member."""

    names = OF_RUNS

    def __init__(
        self,
        folder: Path,
        size: int,
        seed: int,
        exploration: Exploration,
        env: str | None = None,
        backend: str | None = None,
        env_args: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        saved = config.from_json(folder / "config.json")
        check_env_of_run(saved, None, folder)
        saved = _elsewhere(saved, env, backend, env_args)
        policies.check_evaluates(saved, str(folder))
        self.policies = checkpoint.steps(folder / "checkpoints")
        if not self.policies:
            raise RlxError(f"{folder}: holds no policy; train the run first")
        super().__init__(saved, size, seed, exploration)
        if of_members(self.task.env) is not None:
            raise RlxError(f"{folder}: its members have --env-params of their own; collect from a run with one set")

    def choose(self, names: Sequence[str], step: int | None) -> list[Behaviour]:
        """`step` is that of the medium policy, or of the expert where there is no medium one.

        Raises RlxError where two parts of a data set would have the same policy.
        """
        asked = "medium" if "medium" in names else "expert"

        def of(name: str) -> Behaviour:
            if name == "random":
                return RANDOM
            if name == asked and step is not None:
                return Behaviour(name, step)
            return Behaviour(name, self.policies[-1] if name == "expert" else self._medium())

        chosen = list(map(of, names))
        if len({b.step for b in chosen}) < len(chosen):
            remedy = "choose another --kind or --step, or train with a smaller --eval-every"
            raise RlxError(
                f"--kind: {self.folder}'s medium policy is its last, of step {self.policies[-1]}, so two parts would be"
                f" the same; {remedy}"
            )
        return chosen

    def _medium(self) -> int:
        """The evaluation whose return is nearest to a third of the way from random to the last."""
        lines = [x for x in metrics.read(self.folder / "metrics.jsonl") if x.get("run_step") in self.policies]
        lines = [x for x in lines if isinstance(x.get("eval/return_per_seed"), list)]
        lines = [x for x in lines if isinstance((x["eval/return_per_seed"] or [None])[0], (int, float))]
        if not lines:
            raise RlxError(f"{self.folder}: has no evaluation with a finite return; choose a policy by --step")
        returns = np.asarray([line["eval/return_per_seed"][0] for line in lines], float)
        goal = self.mean_return(RANDOM) + MEDIUM * (returns[-1] - self.mean_return(RANDOM))
        return int(lines[int(np.nanargmin(np.abs(returns - goal)))]["run_step"])

    def snapshot(self, behaviour: Behaviour) -> Any:
        if behaviour.step is None:
            return None
        return jax.tree.map(lambda x: x[0], policies.load_snapshot(self.folder, self.driver, behaviour.step))

    def expert(self) -> Behaviour:
        return Behaviour("expert", self.policies[-1])

    def mismatches(self, behaviours: list[Behaviour]) -> list[str]:
        references = self.returns(RANDOM), self.returns(self.expert())
        lines = (mismatch(b, self.returns(b, EXPLORING), *references) for b in behaviours)
        return [line for line in lines if line][:1]

    def describe(self, behaviour: Behaviour, share: float) -> dict[str, Any]:
        """With the digest of its checkpoint, which identifies a policy."""
        known = super().describe(behaviour, share)
        if behaviour.step is None:
            return known
        return known | {"digest": checkpoint.manifest(self.folder / "checkpoints", behaviour.step)["digest"]}

    def origin(self) -> dict[str, Any]:
        return {"agent": self.saved.agent, "run": self.folder.resolve().name}


class EnvCollector(Collector):
    """An environment without a run: random actions and its own controllers."""

    def __init__(
        self,
        env: str,
        size: int,
        seed: int,
        exploration: Exploration,
        backend: str | None = None,
        env_args: Sequence[str] = (),
    ) -> None:
        if no_env.is_none(env):
            raise RlxError(f"{env}: stands for no environment, so there is nothing to collect; name one (`rlx list`)")
        saved = config.resolve("bc", env, backend, env_args=tuple(env_args))
        made = make_env(saved)
        if made.spec.num_actions:  # only so that there is an agent; it does not act
            saved = config.resolve("dqn", env, backend, env_args=tuple(env_args))
        self._controllers = _controllers(made, env)
        self.names = ("random", *self._controllers)
        super().__init__(saved, size, seed, exploration)

    def controller(self, name: str) -> Controller | None:
        return self._controllers.get(name)

    def expert(self) -> Behaviour | None:
        return Behaviour("expert", None) if "expert" in self._controllers else None


def _controllers(env: Env, name: str) -> dict[str, Controller]:
    """Those of the environment inside, which read its own observations."""
    inner = env
    while isinstance(inner, Wrapped):
        inner = inner.env
    same = inner.spec.observation_size == env.spec.observation_size
    return checks.controllers(inner, name) if same else {}


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
