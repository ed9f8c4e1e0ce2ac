"""What commands share: reading arguments, whose flags come from the dataclasses that they fill, and preparing jax."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from rlx.errors import RlxError, printable

ENV = "a name as in `rlx list`, or your own as file.py:Name or package.module:Name (default: the data set's)"
NEGATIVE = re.compile(r"-[0-9.]")  # how a value begins that is no flag: -0.5, -1e-1, the range -2:-0.5


def show(text: str) -> None:
    """Prints a command's result, which may hold words from anybody's file."""
    print(printable(text))


class Parser(argparse.ArgumentParser):
    """Argparse with one-line errors that reach `main`, and no guessing at shortened flags."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "allow_abbrev": False})
        self._negative_number_matcher = NEGATIVE

    def _print_message(self, message: str, file: Any = None) -> None:
        """Prints the help; argparse would hide that the disk is full, or that the reader left."""
        (file or sys.stderr).write(message)

    def error(self, message: str) -> NoReturn:
        text = message.removeprefix("argument ").replace("the following arguments are required:", "missing")
        flag, _, mistake = text.partition(": ")
        action = self._option_string_actions.get(flag.split("/")[0])
        if action is not None and mistake.startswith("expected "):
            text = f"{flag}: lacks its {action.metavar or action.dest.upper()}"
        raise RlxError(f"{text}; see `{self.prog} --help`")

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        """A flag's value; integers as settings are read, so 1e3 is one. Raises RlxError naming the flag."""
        if action.type is not int:
            return super()._get_value(action, arg_string)
        from rlx.settings import convert

        return convert(action.option_strings[0], int, arg_string)

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parses all of `arguments`. Raises RlxError naming an unknown flag and the nearest known one."""
        help_words = [word for word in arguments if word in ("-h", "--help")]  # also by a flag that lacks its value
        values, unknown = self.parse_known_args(help_words or list(arguments))
        for text in unknown:
            if not text.startswith("-"):
                raise RlxError(f"{text!r}: belongs to no flag of `{self.prog}`, or is one value too many")
            from rlx.config import nearest

            flag, known = text.split("=")[0], self._option_string_actions
            kinds = [name for name in known if name.endswith(f"-{flag.lstrip('-')}")]  # --actor-lr, for --lr
            hint = f"did you mean {' or '.join(kinds)}?" if kinds else nearest(flag, known)
            if "--env-args" in known and "did you mean" not in hint:
                name = flag.lstrip("-").replace("-", "_")
                hint = f"an environment's own goes in --env-args {name}=VALUE; for others {hint}"
            raise RlxError(f"unknown argument {flag!r} of `{self.prog}`: {hint}")
        return values


def add_settings(parser: Parser, settings: dict[str, Any]) -> None:
    """A flag for every setting. Values stay text: `rlx.config` converts and checks them, for flags and calls alike."""
    from rlx.settings import flag_of

    titles = {
        "train": "training",
        "network": "networks and branches",
        "hypers": "hyper-parameters (several values: one run each)",
    }
    groups = {section: parser.add_argument_group(title) for section, title in titles.items()}
    for name, setting in settings.items():
        flag, group = flag_of(name), groups[setting.section]
        default = setting.default
        if isinstance(default, tuple):
            default = " ".join(map(str, default)) or "none"
        text = f"{setting.help.replace('%', '%%')} (default: {default})"
        if setting.type is bool:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
        else:
            several = "+" if setting.many else None
            group.add_argument(flag, nargs=several, default=None, metavar=setting.type.__name__.upper(), help=text)


def add_env_args(parser: Parser) -> None:
    text = "settings of the environment, name=value, in place of the run's; such as episode_length=500"
    parser.add_argument("--env-args", nargs="+", default=[], metavar="STR", help=text)


def add_cluster(parser: Parser) -> None:
    cluster = parser.add_argument_group("several processes: run the same command in each")
    cluster.add_argument("--distributed", action="store_true", help="join the processes of the cluster")
    cluster.add_argument("--coordinator", metavar="HOST:PORT", help="without a cluster: address of process 0")
    cluster.add_argument("--num-processes", type=int, help="without a cluster: how many there are")
    cluster.add_argument("--process-id", type=int, help="without a cluster: which of them this is, from 0")


def prepare_jax(deterministic: bool = False) -> None:
    """Keeps compiled programs, and has a GPU be deterministic where asked; call it before anything touches a device."""
    from rlx import parallel
    from rlx.train.compile import keep_compiled_programs

    if deterministic:
        parallel.ask_for_determinism()
    keep_compiled_programs()


def join_cluster(values: argparse.Namespace) -> bool:
    """Joins the other processes of --distributed; returns whether there are any."""
    from rlx import parallel

    if values.distributed:
        parallel.join_cluster(values.coordinator, values.num_processes, values.process_id)
    elif values.coordinator or values.num_processes is not None or values.process_id is not None:
        raise RlxError("--coordinator, --num-processes, --process-id: go with --distributed; add it")
    return bool(values.distributed)
