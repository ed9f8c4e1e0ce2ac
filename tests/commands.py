"""Commands run in this process: what they return and print. The fixtures are every test's, by conftest.py."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rlx.errors import RlxError

TINY: dict[str, Any] = {"num_envs": 8, "batch_size": 8, "ratio": "1:1", "replay_capacity": 512, "pool_size": 8}
TINY |= {"eval_episodes": 2, "warmup_env_steps": 64, "log_every": 64, "critic_hidden_sizes": [8]}


@contextmanager
def one_line(*words: str) -> Iterator[pytest.ExceptionInfo[RlxError]]:
    """What is done here must raise an RlxError of one line with these words."""
    with pytest.raises(RlxError) as caught:
        yield caught
    said = str(caught.value)
    assert all(word in said for word in words) and "\n" not in said, said


def flags(**settings: Any) -> list[str]:
    """Settings as the command line takes them."""
    said = []
    for name, value in settings.items():
        said += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value])]
    return said


class Said:
    """What a command returned and printed."""

    def __init__(self, code: int, captured: Any) -> None:
        self.code, self.out, self.err = code, captured.out, captured.err


Say = Callable[..., Said]  # the two fixtures below
Refused = Callable[..., str]
Capture = pytest.CaptureFixture[str]
MonkeyPatch = pytest.MonkeyPatch


@pytest.fixture
def say(capsys: Capture) -> Say:
    """Runs `rlx ARGUMENTS` in this process."""

    def say(*arguments: object) -> Said:
        capsys.readouterr()
        from rlx.commands import main as cli

        return Said(cli.main([str(a) for a in arguments]), capsys.readouterr())

    return say


@pytest.fixture
def refused(say: Say, tmp_path: Path, monkeypatch: MonkeyPatch) -> Refused:
    """Runs a command that must be refused before anything is compiled or written; returns its one line."""
    from rlx.train.compile import Program

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Program, "_compile", lambda program: pytest.fail(f"compiled {program.name}"))

    def refused(*arguments: object) -> str:
        before = sorted(tmp_path.rglob("*"))
        said = say(*arguments)
        assert (said.code, said.out) == (2, ""), said.out + said.err
        assert said.err.startswith("rlx: ") and said.err.endswith("\n") and said.err.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before
        return said.err.removeprefix("rlx: ").rstrip("\n")

    return refused
