"""What a configuration names: its environment, made with settings and wrappers, and files of the user's own code."""

from __future__ import annotations

from typing import Any

from rlx import agents, envs, user_code
from rlx.config import RunConfig, members
from rlx.envs import arguments, domain, env_params, parts, wrappers
from rlx.errors import RlxError
from rlx.types import Env


def make_env(config: RunConfig, own: Any = None) -> Env:
    """The environment of a configuration, with all that its settings change in it; `own` is an object.

    Raises RlxError for a name, a setting or a wrapper that cannot be, and for an object that is no environment.
    """
    wrappers.parse(config.train.wrappers)  # says at once what is misspelt
    settings = arguments.parse(config.train.env_args)
    if "backend" in settings and config.env.startswith("brax:"):
        raise RlxError(f"--env-args backend={settings['backend']}: use --backend {settings['backend']}")
    length = settings.pop("episode_length", None)
    train = config.train
    if own is None:
        env = envs.make(config.env, config.backend, length, **settings)
    elif config.backend is not None:
        raise RlxError(f"{config.env} has one physics only: leave out the backend {config.backend!r}")
    elif settings:
        raise RlxError(f"env_args: {config.env} is an object and takes no setting {next(iter(settings))!r}")
    else:
        env = envs.wrap(own, length)
        envs.quick(env)
    env = env_params.with_params(env, train.env_params, len(members(config)))
    if train.randomize and env_params.of_members(env) is not None:
        raise RlxError("--env-params: goes with --randomize where all members have one set; leave one of them out")
    env = wrappers.apply(envs.randomize(env, train.randomize), train.wrappers)
    return parts.choose(env, train.actor_observation, train.critic_observation)


def check_env_of_run(config: RunConfig, own: Any, folder: Any = "") -> None:
    """Raises RlxError for a saved run whose environment was an object, where none is given: only its class is saved."""
    if own is None and config.env.isidentifier():  # names of environments have a colon
        raise RlxError(
            f"{folder or 'this run'}: its environment {config.env} was an object, which no folder holds; in Python"
            f" give it again, rlx.load(folder, env=...), and to use the command line train with file.py:{config.env}"
        )


def code_of(config: RunConfig) -> dict[str, dict[str, str]]:
    """Path and digest of the files of the user's own environment and agent, by "env" and "agent"; for config.json."""
    owns = [("agent", config.agent, agents.is_own(config.agent)), ("env", config.env, envs.is_own(config.env))]
    owns += [("randomize", text, domain.is_function(text)) for text in config.train.randomize]
    return {what: file for what, name, own in owns if own and (file := user_code.source(name))}
