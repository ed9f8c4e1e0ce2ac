"""What `rlx.fit` and `rlx.load` return: a trained agent, what was measured of it, and what can be done with it."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from rlx import config, json_files, normalize
from rlx.api import page, training
from rlx.api.arguments import check_kind, speaks_python
from rlx.api.following import Progress
from rlx.api.page import Page
from rlx.api.training import Trained
from rlx.build import Setup
from rlx.config import RunConfig
from rlx.envs import no_env
from rlx.errors import RlxError
from rlx.evaluate import Evaluation
from rlx.runs import checkpoint, folders, policies, recording, runner, saver, summaries
from rlx.settings import check_value, convert, flag_of
from rlx.train.task import Task, observed
from rlx.types import Env, State


class Result:
    """A trained agent. Arrays of several members (seeds times hyper-parameter values) lead with `[M, ...]`.

    `config` holds every setting of the run, `metrics` its lines of metrics.jsonl, `folder` its run folder (or None),
    `stopped` why it ended early (or ""). pickle keeps policies, metrics and evaluation, and no training state: `save`
    keeps that, too.
    """

    def __init__(
        self,
        run_config: RunConfig,
        snapshot: dict[str, Any],
        metrics: list[dict[str, Any]],
        *,
        env: Env | None = None,
        evaluation: Evaluation | None = None,
        trained: Trained | None = None,
        folder: Path | None = None,
        stopped: str = "",
        run_step: int | None = None,
    ) -> None:
        self.config, self.metrics, self.folder, self.stopped = run_config, metrics, folder, stopped
        self._run_step = run_step
        self._snapshot, self._env, self._evaluation, self._trained = snapshot, env, evaluation, trained

    def __getstate__(self) -> dict[str, Any]:
        made_again = ("_task", "_act")
        attributes = {name: value for name, value in vars(self).items() if name not in made_again}
        return attributes | {"_trained": None}

    @property
    def state(self) -> State:
        """The agent's state, on the host, `[M, ...]`."""
        state: State = self._snapshot["agent"]
        return state

    @property
    def statistics(self) -> normalize.Statistics:
        """Of the observations, `[M, ...]`."""
        statistics: normalize.Statistics = self._snapshot["statistics"]
        return statistics

    @property
    def members(self) -> list[dict[str, float]]:
        """Seed and hyper-parameters of each member."""
        return config.members(self.config)

    @property
    def labels(self) -> list[str]:
        """What tells each member from the others, such as `critic_lr=0.001 seed=0`."""
        names = config.member_labels(self.members)
        return [f"{name} seed={m['seed']}".strip() for name, m in zip(names, self.members, strict=True)]

    @property
    def run_step(self) -> int:
        """How far the run got: updates offline plus environment steps of each member."""
        if self._run_step is not None:
            return self._run_step
        return int(self.metrics[-1]["run_step"]) if self.metrics else 0

    @property
    def evaluation(self) -> Evaluation:
        """Greedy episodes of the final policy, `[M, N]`, evaluated now if the run ended between two evaluations.

        Raises RlxError for a run without an environment.
        """
        if self._evaluation is None:
            self._evaluation = self.evaluate()
        return self._evaluation

    @speaks_python
    def evaluate(self, episodes: int | None = None, eval_seed: int | None = None) -> Evaluation:
        """Greedy episodes of every member, `[M, N]`; by default as many, from the same starts, as in training.

        Raises RlxError for a run without an environment.
        """
        if self._env is None:
            policies.check_evaluates(self.config, repr(self))
        changes = {"eval_episodes": episodes, "eval_seed": eval_seed}
        known = config.settings(self.config.agent)
        for name, value in changes.items():
            if value is not None:
                changes[name] = convert(flag_of(name), int, value)
                check_value(flag_of(name), known[name], changes[name])
        changed: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
        driver = policies.acting_driver(self.config, self._env, **changed)
        evaluation: Evaluation = driver.fetch(driver.evaluate(driver.place(self._snapshot)))
        return evaluation

    @cached_property
    def _task(self) -> Task:
        return policies.acting_driver(self.config, self._env).task

    def policy(self, observation: Any, member: Any = 0, carry: Any = None, key: Any = None) -> Any:
        """The greedy policy, `(raw observation [..., O]) -> action [..., A]`, as a function that JAX can trace.

        `jax.jit`, `jax.vmap` and `jax.lax.scan` take it; `member` may be traced, too. Of an agent with an acting state
        it returns `(action, carry)`: pass the carry on, or None to begin an episode. `key` matters only where greedy
        actions are random. Raises RlxError for observations of another size.
        """
        return policies.greedy_action(self._task, self._snapshot, observation, member, carry, key)

    def act(self, observation: Any, member: int = 0, carry: Any = None) -> Any:
        """`policy` compiled, with NumPy's arrays."""
        return self._act(observation, member, carry)

    @cached_property
    def _act(self) -> Any:
        return policies.greedy(self._task, self._snapshot)

    def q_value(self, observation: Any, action: Any, member: Any = 0) -> jax.Array:
        """The critics' value `[...]` of an action `[..., A]` at a raw observation `[..., O]`, in units of rewards.

        Of an ensemble the smallest value, of a distribution the mean. Can be traced like `policy`. Raises RlxError for
        an agent without such a critic. Of observations with parts it takes all that the run reads, in `spec.parts`.
        """
        task = self._task
        if task.agent.q_value is None:
            raise RlxError(f"{self.config.agent}: sets no q_value; use an agent with a critic of actions, such as iql")
        one = jax.tree.map(lambda x: jnp.asarray(x)[member], self._snapshot)
        critic = one["agent"].critic
        spec = task.env.spec
        sizes = ", then ".join(f"{name} ({end - start})" for name, (start, end) in spec.parts.items())
        rows = policies.checked(observation, spec.observation_size, "the critic", sizes and f": {sizes}")
        observations = observed(task, one["statistics"], rows)
        chosen = policies.checked(action, spec.action_size, "the critic", what="actions")
        if chosen.shape[:-1] != observations.shape[:-1]:
            shapes = f"{list(observations.shape)} and {list(chosen.shape)}"
            raise RlxError(f"observations and actions are {shapes}: give one action for each observation")
        rows, actions = (x.reshape(-1, x.shape[-1]) for x in (observations, chosen))
        value = task.agent.q_value(critic, rows, actions).reshape(observations.shape[:-1])
        normalized = normalize.reward_scale(one["statistics"], task.config.max_return)
        return value * normalized / critic.hypers.reward_scale

    @speaks_python
    def export(self, out: str | Path, member: int = 0, onnx: bool = False, bundle: bool = False) -> Path:
        """Writes the greedy policy of a member into the new folder `out`, as `rlx export`; returns it."""
        from rlx.export import policy

        check_kind("out", out, (str, Path), "the path of a new folder")
        policies.check_member(member, self.members, repr(self))
        one = jax.tree.map(lambda x: jnp.asarray(x[[member]]), self._snapshot)
        saved = policies.SavedPolicy(self.config, self.members, self.run_step, self._task, one)
        name = self.folder.resolve().name if self.folder else ""
        policy.write(saved, Path(out), member, onnx, bundle, run=name)
        return Path(out)

    @speaks_python
    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Writes the run folder `path`, which commands and `rlx.load` read, with the training state if it has one.

        Raises RlxError where it exists (unless `overwrite`, and it is a run's) or cannot be written.
        """
        check_kind("path", path, (str, Path), "the path of a new run folder")
        path = Path(path)
        if self.folder is not None:
            if path.exists():
                raise RlxError(f"{path}: already exists; choose another path")
            shutil.copytree(self.folder, path, ignore=shutil.ignore_patterns(folders.LOCK))
            return path
        with ExitStack() as claims:
            claims.enter_context(folders.new(path.parent, path.name, self.config, overwrite))
            folders.empty(path)
            self._write(path)
        return path

    def _write(self, folder: Path) -> None:
        trained = self._trained
        setup = trained.setup if trained else Setup(self.config, self._task.env)
        folders.mark(folder, "interrupted", self.stopped or "saved from a result")
        runner.write_config(folder, setup)
        json_files.write_text(folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in self.metrics))
        if trained is None:
            checkpoint.save(folder / "checkpoints", self.run_step, self._snapshot)
            return
        report = trained.moment.report._replace(saves=True, saves_policy=True)
        with saver.Saver(self.config, folder) as checkpoints:
            checkpoints.save(trained.moment._replace(report=report))
            checkpoints.wait()
        if self.stopped:
            return
        if report.evaluation is not None:
            summaries.write_pictures(folder, self.config, trained.moment.driver, report.evaluation)
        summary = summaries.summarise(setup, trained.moment, trained.rates, checkpoints)
        recording.write_summary(folder, summary, trained.wall_time_s)
        folders.mark(folder, "finished")

    @speaks_python
    def continue_training(
        self,
        total_env_steps: float | None = None,
        offline_steps: float | None = None,
        callbacks: Any = (),
        progress: Progress = None,
    ) -> Result:
        """Goes on to a larger total, or to the end of a run that was stopped, and returns the new result.

        It ends with the same bits as a run that was that long from the start, and that logged and evaluated as often. A
        run in a folder goes on there. Raises RlxError for a smaller total, or where there is no training state.
        """
        totals = {"total_env_steps": total_env_steps, "offline_steps": offline_steps}
        larger = {name: value for name, value in totals.items() if value is not None}
        if self.folder is not None:
            env = None if no_env.is_none(self.config.env) else self._env  # an environment for evaluation alone
            return training.resume(type(self), self.folder, larger, env, callbacks, progress)
        if self._trained is None:
            raise RlxError(
                "this result holds no training state; save it by result.save before it is pickled or dropped"
            )
        return training.go_on(self, self._trained, larger, callbacks, progress)

    def drop_training_state(self) -> None:
        """Frees replay, environments and optimisers' programs; `continue_training` needs them."""
        self._trained = None

    def show(self, out: str | Path | None = None, member: int = 0) -> Page:
        """The learning curve, and the member's first evaluation episodes as they move: inline in a notebook.

        Elsewhere it is written to `out` (a temporary .html by default), and its path is said. Needs no network.
        """
        return page.show(self, out, member)

    def __repr__(self) -> str:
        count = len(self.members)
        parts = [f"{self.config.agent} on {self.config.env}"]
        parts += [f"{count} members"] if count > 1 else []
        parts += [f"{self.run_step:,} steps"]
        returns = [line["eval/return_mean"] for line in self.metrics if line.get("eval/return_mean") is not None]
        parts += [f"greedy return {returns[-1]:.1f}"] if returns else []
        parts += [self.stopped] if self.stopped else []
        parts += [str(self.folder)] if self.folder else []
        return f"Result({', '.join(parts)})"
