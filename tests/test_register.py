"""An agent of one's own: a module that is not in the package."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from rlx import agents, config
from rlx.errors import RlxError


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module `mine`, imported from a file that is no part of rlx."""
    (tmp_path / "mine.py").write_text("from rlx.agents.bc import PRESETS, Config, Hypers, make\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(agents, "REGISTRY", dict(agents.REGISTRY))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    import mine

    module: ModuleType = mine
    return module


def test_a_module_is_known_by_the_last_part_of_its_name(own: ModuleType) -> None:
    assert agents.register(own) == agents.register(own) == "mine"
    assert agents.load("mine") is own
    assert "actor_lr" in config.settings("mine")


def test_a_module_that_is_no_agent_is_refused(own: ModuleType) -> None:
    del own.PRESETS
    with pytest.raises(RlxError, match=r"^mine is no agent: it has no PRESETS; it needs Config, .*, make$"):
        agents.register(own)
    assert "mine" not in agents.REGISTRY


def test_a_name_that_is_taken_is_refused(own: ModuleType) -> None:
    own.__name__ = "elsewhere.sac"
    with pytest.raises(RlxError, match=r"^an agent named 'sac' is there already: rename the file sac\.py$"):
        agents.register(own)
    assert agents.REGISTRY["sac"] == "rlx.agents.sac"
