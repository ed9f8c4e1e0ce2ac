"""What a run begins from: another run's policy, or the parts of other agents' runs that its agent adopts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlx import config
from rlx.errors import RlxError
from rlx.runs import checkpoint, policies
from rlx.train.loop import Driver


def sources(init_from: str | None) -> dict[str, Path]:
    """The runs that `--init-from` names: one by no name, or by the names of the parts that they give."""
    if not init_from:
        return {}
    if "=" not in init_from or Path(init_from).exists():
        return {"": Path(init_from)}
    return {name: Path(run) for name, _, run in (part.partition("=") for part in init_from.split(","))}


def digests(init_from: str | None) -> dict[str, str]:
    """Digests of the policies to begin from, by their runs."""
    places = {str(run): run / "checkpoints" for run in sources(init_from).values()}
    return {run: checkpoint.manifest(place, checkpoint.choose(place, None))["digest"] for run, place in places.items()}


def check_same(content: dict[str, Any], folder: Path) -> None:
    """Raises RlxError where the run in `folder` began from other policies, by the `content` of its config.json."""
    known = content.get("init_from_digests")  # an rlx before this one did not write it
    if known is not None and known != digests(content["init_from"]):
        raise RlxError(f"{content['init_from']}: is not as it was when {folder} began from it; restore it")


def snapshot(driver: Driver, agent: str, init_from: str | None) -> Any:
    """Agent and statistics to begin from, `[M, ...]`; None where no run is named.

    Raises RlxError for a part that the agent does not adopt, or that does not fit.
    """
    runs = sources(init_from)
    if not runs or "" in runs:
        return policies.load_snapshot(runs[""], driver) if runs else None
    adopts = driver.task.agent.adopts
    for name in runs:
        if name not in adopts:
            raise RlxError(f"--init-from {init_from}: {agent} adopts {', '.join(adopts) or 'nothing'}, not {name!r}")
    fresh = driver.fetch(driver.policy_snapshot(driver.init()))
    state, statistics = fresh["agent"], None
    for name, run in runs.items():
        other = _policy(run, driver.members)
        state = jax.device_get(jax.vmap(adopts[name])(state, other["agent"]))
        if jax.tree.map(np.shape, state) != jax.tree.map(np.shape, fresh["agent"]):
            raise RlxError(f"{run}: what {agent} adopts as {name!r} has other sizes; give both the same networks")
        other["statistics"] = other["statistics"].replace(returns=None)  # parts begin with none
        same = jax.tree.map(np.array_equal, statistics or other["statistics"], other["statistics"])
        if not all(jax.tree.leaves(same)):
            raise RlxError(
                f"{run}: saw other observations than the first run of --init-from; use runs on the same data"
            )
        statistics = other["statistics"]
    return {"agent": state, "statistics": statistics}


def _policy(run: Path, members: int) -> Any:
    """The policy snapshot that a run saved last, `[members, ...]`; one member serves for any number."""
    count = len(config.members(config.from_json(run / "config.json")))
    if count not in (1, members):
        raise RlxError(f"{run}: holds {count} members but {members} are to start; use one, or as many")
    saved = jax.device_get(policies.load(run, range(count)).snapshot)
    return jax.tree.map(lambda x: np.broadcast_to(x, (members, *x.shape[1:])), saved)
