"""Scripted policies of a user's own environment: what is wrong with one is said in a line, and what acts is stored."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlx import data
from rlx.commands import main as cli
from rlx.runs import collect_dataset
from tests.commands import Capture, Refused, one_line

pytestmark = pytest.mark.usefixtures("reuse_programs")

OWN = """
import jax
import jax.numpy as jnp

from rlx.envs import Controller
from rlx.envs.base import advance, begin
from rlx.types import Spec


class Own:
    flat = jax.ShapeDtypeStruct((1,), jnp.float32)
    spec = Spec(observation=flat, action=flat, episode_length=10)

    def reset(self, key):
        return begin((), jnp.zeros(1))

    def step(self, state, action, key):
        return advance(state, (), state.observation, action[0], False, 10)

    @property
    def controllers(self):
        return {controllers}
"""


def write(folder: Path, controllers: str) -> str:
    (folder / "own.py").write_text(OWN.replace("{controllers}", controllers))
    return f"{folder / 'own.py'}:Own"


@pytest.mark.parametrize("action", ["jnp.full(1, 3.0)", "jnp.full(1, 3)"])
def test_actions_are_stored_as_they_act(action: str, tmp_path: Path, capsys: Capture) -> None:
    """Within [-1, 1], as float32, whatever the controller returns; the reward is the action."""
    env = write(tmp_path, f"{{'push': Controller(lambda observation, key, carry: ({action}, carry))}}")
    out = tmp_path / "set-v0"
    assert cli.main(["collect", env, "--kind", "push", "--num-transitions", "20", "--out", str(out)]) == 0
    assert "  behaviours name push, share 1, return " in capsys.readouterr().out
    rows = data.read(out).rows
    assert rows.action.dtype == np.float32
    assert (rows.action == 1).all() and (rows.reward == 1).all()


def test_actions_that_are_nan_are_not_written(tmp_path: Path) -> None:
    env = write(tmp_path, "{'push': Controller(lambda observation, key, carry: (jnp.full(1, jnp.nan), carry))}")
    with one_line(f"{env}: push has acted with NaN; mend its act"):
        collect_dataset.make_dataset(env, "push", 20, tmp_path / "set-v0")
    assert not (tmp_path / "set-v0").exists()


@pytest.mark.parametrize(
    ("controllers", "message"),
    [
        ("['push']", "controllers must be a mapping of names to rlx.envs.Controller"),
        ("{'push': lambda o, k, c: (o, c)}", "controllers must be a mapping of names to rlx.envs.Controller"),
        ("{'push': Controller(lambda o, k, c: (jnp.zeros(3), c))}", "action is float32 [3]; it must be float32 [1]"),
        ("{'push': Controller(lambda o, k, c: o)}", "'push': act must return (action, carry)"),
        ("{'push': Controller(lambda o, k, c: (o.up, c))}", "AttributeError, own.py line "),
        ("{'push': Controller(lambda o, k, c: (o if o[0] > 0 else -o, c))}", "use jnp.where or jax.lax.cond"),
        ("{'push': Controller(lambda o, k, c: (o, c + 0.5), lambda: 0)}", "is int32 [] at first and float32 [] after"),
        ("{'push': Controller(lambda o, k, c: (o, (c, c)), lambda: 0)}", "at first and int32 [], int32 [] after act"),
        ("{'push': Controller(lambda o, k, c: (o, c), lambda: None)}", "'push': carry returns None; return ()"),
        ("{'random': Controller(lambda o, k, c: (o, c))}", "controller 'random' would be read as something else"),
        ("{'a=b': Controller(lambda o, k, c: (o, c))}", "controller 'a=b' would be read as something else"),
        ("{'mixed': Controller(lambda o, k, c: (o, c))}", "controller 'mixed' would be read as something else"),
        ("{3: Controller(lambda o, k, c: (o, c))}", "controller 3 needs a name that is text; rename it"),
        ("1 / 0", "ZeroDivisionError, own.py line "),
    ],
)
def test_controllers_that_are_none(controllers: str, message: str, tmp_path: Path, refused: Refused) -> None:
    words: list[Any] = ["--kind", "push", "--num-transitions", 20, "--out", tmp_path / "set"]
    assert message in refused("collect", write(tmp_path, controllers), *words)
