"""The files of the user's own code that a run is made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rlx import agents, envs, user_code
from rlx.config import RunConfig, settings
from rlx.envs import domain
from rlx.settings import flag_of


def code_of(config: RunConfig) -> dict[str, dict[str, str]]:
    """Path and digest of the files of the user's own code, by what they are of ("env", "agent"); for config.json."""
    names = [
        ("agent", config.agent, agents.is_user_code(config.agent)),
        ("env", config.env, envs.is_user_code(config.env)),
    ]
    names += [("randomize", text, domain.is_function(text)) for text in config.train.randomize]
    names += [(what, name, agents.is_user_code(name)) for what, name in _described(config.agent, config.network)]
    return {what: file for what, name, is_users in names if is_users and (file := user_code.source(name))}


def _described(agent: str, network: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """The agents that settings of an agent's `network` describe, by where: policy, in that policy.policy, and so on."""
    for setting in (name for name, one in settings(agent).items() if one.describes):
        if text := getattr(network, setting):
            name, described = agents.from_text(flag_of(setting), text)
            yield place + setting, name
            yield from _described(name, described, f"{place}{setting}.")
