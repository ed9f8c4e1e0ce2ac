"""The environment of a run that Python asks for: a name, an object, the data set's own, or none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from rlx import data, envs
from rlx.data import Dataset
from rlx.envs import no_env
from rlx.errors import RlxError


class Named(NamedTuple):
    """An environment by its name, and the object where it is the user's own."""

    name: str
    backend: str | None = None
    env: Any = None
    settings: dict[str, Any] = {}  # noqa: RUF012 -- those that the data set was collected with


def environment(env: Any, backend: str | None, datasets: Sequence[str | Dataset] = ()) -> Named:
    """The environment that was named or passed, or else that in which the first data set was collected.

    Where the data names none, or for the name "none", the run has no environment, and its sizes are the data's.
    Raises RlxError where there is neither.
    """
    if env is not None and env != "none":
        return Named(env, backend) if isinstance(env, str) else Named(envs.name_of(env), backend, env)
    if not datasets:
        raise RlxError("missing env, as in env='brax:ant'; see `rlx list`")
    first = data.as_dataset(datasets[0])
    if env is None and first.info.get("env"):
        of_data = {name: first.info[name] for name in ("env_args", "env_params", "wrappers") if first.info.get(name)}
        return Named(str(first.info["env"]), backend or first.info.get("backend"), None, of_data)
    return Named(no_env.name_of(first.rows.observation.shape[1], first.rows.action.shape[1]))
