"""Environments that people bring: objects of rlx, Brax, Playground or gymnax, and the code that makes them."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from rlx import user_code
from rlx.envs import wrappers
from rlx.errors import RlxError
from rlx.types import Env, Spec

LIBRARIES = {  # whose environments are wrapped, by the module that an object's class makes sure is imported
    "brax": ("brax.envs", "Env"),
    "playground": ("mujoco_playground._src.mjx_env", "MjxEnv"),
    "gymnax": ("gymnax.environments.environment", "Environment"),
}
RECIPE = 'docs/your-environment.md, "Gymnasium environments", has a training loop for it'


def wrap(env: Any, episode_length: int | None = None) -> Env:
    """An object of Brax's `Env`, Playground's `MjxEnv` or gymnax's `Environment` as an environment of rlx.

    rlx's own are returned as they are. Of gymnax `(environment, parameters)` will do, too. `episode_length` is the
    time limit in steps, by default 1000 for Brax and the library's own for others. Raises RlxError for a class in place
    of an object, a Gymnasium environment, and whatever else is none.
    """
    name = name_of(env)
    if isinstance(env, type):
        raise RlxError(f"{name} is a class: give an object of it, as in {name}()")
    if is_env(env):
        return env if episode_length is None else wrappers.episode_length(env, episode_length)
    rest: tuple[Any, ...] = ()
    if type(env) is tuple and len(env) == 2 and _is_of("gymnax", env[0]):
        env, rest = env[0], env[1:]  # as gymnax.make returns it
    for family in LIBRARIES:
        if _is_of(family, env):
            module = importlib.import_module(f"rlx.envs.{family}_env")
            return traced(name, partial(module.wrap, env, episode_length, *rest))
    if _is_instance("gymnasium", "Env", env) or _is_instance("gym", "Env", env):
        raise RlxError(f"{name} is a Gymnasium environment, which JAX cannot trace; {RECIPE}")
    raise RlxError(f"{name} is no environment with rlx's spec, reset and step; {REMEDY}")


REMEDY = "give a name (see `rlx list`), or an object as rlx.types.Env has it"


def name_of(env: Any) -> str:
    """The name of an environment's class, under wrappers that of the innermost environment."""
    if isinstance(env, type):
        return env.__name__
    if type(env) is tuple and env:  # as gymnax.make returns it
        return name_of(env[0])
    inner = getattr(env, "env", None)
    if isinstance(env, wrappers.Wrapped) or (inner is not None and _is_of("brax", env)):
        return name_of(inner)
    return type(env).__name__


def is_env(env: Any) -> bool:
    """Whether an object has what `rlx.types.Env` asks for."""

    def has_all() -> bool:
        return isinstance(getattr(env, "spec", None), Spec) and hasattr(env, "reset") and hasattr(env, "step")

    return bool(traced(type(env).__name__, has_all, "look at its spec"))


def _is_of(family: str, env: Any) -> bool:
    return _is_instance(*LIBRARIES[family], env)


def _is_instance(module: str, kind: str, env: Any) -> bool:
    library = sys.modules.get(module)
    return library is not None and isinstance(env, getattr(library, kind))


def traced(name: str, function: Callable[[], Any], hint: str = "look at its reset and step") -> Any:
    """The function's result. Raises RlxError, in one line, for whatever JAX or the environment raises meanwhile."""
    try:
        return function()
    except RlxError:
        raise
    except (Exception, SystemExit) as error:
        raise RlxError(
            f"{name} cannot be traced by JAX ({user_code.describe(error)}); {_hint(error) or hint}"
        ) from error


def _hint(error: BaseException) -> str:
    """What helps against some kinds of errors; empty for others."""
    kind = type(error).__name__
    if kind in ("TracerBoolConversionError", "ConcretizationTypeError", "TracerIntegerConversionError"):
        return "use jnp.where or jax.lax.cond in place of Python's if"
    if kind == "TracerArrayConversionError":
        return "use jnp in place of np"
    return ""


def make(name: str, backend: str | None, episode_length: int | None, settings: Mapping[str, Any]) -> Env:
    """The environment that `file.py:Name` or `package.module:Name` stands for: an object, or a class or function that
    makes one of `settings`.

    A time limit, or a backend, goes to a class or function that takes it. Raises RlxError for settings that it does
    not take.
    """
    made, arguments = user_code.attribute(name), dict(settings)
    if isinstance(made, type) or (callable(made) and not is_env(made)):
        parameters = inspect.signature(made).parameters
        if "episode_length" in parameters and episode_length is not None:
            arguments["episode_length"], episode_length = episode_length, None
        if "backend" in parameters and backend is not None:
            arguments["backend"], backend = backend, None
        _check_settings(name, parameters, arguments)
        try:
            made = made(**arguments)
        except RlxError:
            raise
        except (Exception, SystemExit) as error:
            of = f" of {arguments}" if arguments else ""
            raise RlxError(f"{name} cannot be made{of}: {user_code.describe(error)}; mend it") from error
    elif arguments:
        raise RlxError(f"{name} is an object and takes no setting {next(iter(arguments))!r}: name its class")
    if backend is not None:
        raise RlxError(f"{name} has one physics only: leave out the backend {backend!r}")
    return wrap(made, episode_length)


def _check_settings(name: str, parameters: Mapping[str, inspect.Parameter], arguments: Mapping[str, Any]) -> None:
    """Raises RlxError for a setting that a class or function does not take, or that it lacks."""
    kinds = {parameter.kind for parameter in parameters.values()}
    named = [p for p in parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    unknown = [key for key in arguments if key not in {p.name for p in named}]
    if unknown and inspect.Parameter.VAR_KEYWORD not in kinds:
        has = ", ".join([*(p.name for p in named if p.name != "episode_length"), "episode_length"])
        raise RlxError(f"{name} has no setting {unknown[0]!r}; it has {has}")
    lacking = [p.name for p in named if p.default is p.empty and p.name not in arguments]
    if lacking:
        raise RlxError(f"{name} needs a value of {lacking[0]!r}; give it by --env-args {lacking[0]}=VALUE")
