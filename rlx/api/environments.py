"""The environment of a run that Python asks for: a name, an object, the data set's own, or none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from rlx import data, envs
from rlx.data import Dataset
from rlx.envs import no_env
from rlx.errors import RlxError
from rlx.train.datasets import environment_of


class Named(NamedTuple):
    """An environment by its name, and the object where it is the user's own."""

    name: str
    backend: str | None = None
    env: Any = None
    settings: dict[str, Any] = {}  # noqa: RUF012 -- those that the data set was collected with


def environment(env: Any, backend: str | None, datasets: Sequence[str | Dataset] = ()) -> Named:
    """The environment that was named or passed, or else that in which the first data set was collected.

    Where the data names none, or for the name "none", the run has no environment, and its sizes are the data's.
    Code of the user's own has to be named, and then has the settings that the data set was collected with, too. Raises
    RlxError where there is neither.
    """
    own = isinstance(env, str) and bool(datasets) and envs.is_user_code(env)
    if env is not None and env != "none" and not own:
        return Named(env, backend) if isinstance(env, str) else Named(envs.name_of(env), backend, env)
    if not datasets:
        raise RlxError("missing env, as in env='brax:ant'; see `rlx list`")
    first = data.as_dataset(datasets[0])
    if own and first.info.get("env") != env:
        return Named(env, backend)
    if own or (env is None and first.info.get("env")):
        name, of_backend, of_data = environment_of(first, env)
        return Named(name, backend or of_backend, None, of_data)
    return Named(no_env.name_of(first.rows.observation.shape[1], first.rows.action.shape[1]))
