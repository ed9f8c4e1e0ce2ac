"""What the documentation says is true: Python blocks run, links lead somewhere. (Commands: test_command_lines.py.)"""

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rlx import agents
from rlx.api import fitting, sweeping
from rlx.api.result import Result
from rlx.commands import main as cli
from scripts import docs_site
from tests import processes
from tests.commands import flags
from tests.pages import PAGES, ROOT, blocks, every_page, pages_with

pytestmark = pytest.mark.usefixtures("reuse_programs")

LANGUAGES = {"python", "bash", "sh", "text"}  # all but the last are run or parsed

QUICK: dict[str, Any] = {"total_env_steps": 64, "warmup_env_steps": 16, "num_envs": 8, "batch_size": 8, "ratio": "1:1"}
QUICK |= {"replay_capacity": 64, "pool_size": 8, "eval_episodes": 2}
QUICK |= {"actor_hidden_sizes": [8], "critic_hidden_sizes": [8]}


def run_blocks(page: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Runs a page from top to bottom in one namespace; a block that begins with `# agents/x.py` becomes that module."""
    shared = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", shared)
    for block in blocks(page):
        if block.language != "python":
            continue
        module = shared
        if file := re.match(r"# (agents/\w+)\.py\n", block.text):
            module = ModuleType(f"rlx.{file[1].replace('/', '.')}")
            monkeypatch.setitem(sys.modules, module.__name__, module)
        code = compile("\n" * (block.line - 1) + block.text, str(page), "exec", dont_inherit=True)
        exec(code, module.__dict__)
    return shared


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What trains, with `QUICK` settings, and a registry that a page may add to."""

    def at_little_cost(module: Any, name: str) -> None:
        train = getattr(module, name)

        def call(agent: Any, env: Any = None, **settings: Any) -> Any:
            offline = {"total_env_steps": 0, "offline_steps": 8} if "dataset" in settings else {}
            return train(agent, env, **settings | QUICK | offline)

        monkeypatch.setattr(module, name, call)

    def continue_training(self: Any, total_env_steps: int | None = None, **settings: Any) -> Any:
        return go_on(self, total_env_steps and 2 * QUICK["total_env_steps"], **settings)

    go_on = Result.continue_training
    monkeypatch.setattr(Result, "continue_training", continue_training)
    at_little_cost(fitting, "fit")
    at_little_cost(sweeping, "sweep")
    monkeypatch.setattr(agents, "REGISTRY", dict(agents.REGISTRY))


@pytest.fixture
def exported(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a page reads the folder `policy`, there is one: exported from a small run."""
    monkeypatch.chdir(tmp_path)
    if page.name == "export.md":
        assert cli.main(["train", "sac", "--env", "gymnax:Pendulum-v1", "--run-name", "a", *flags(**QUICK)]) == 0
        assert cli.main(["export", "runs/a", "--out", "policy"]) == 0
        assert cli.main(["export", "runs/a", "--out", "robot", "--bundle"]) == 0


@pytest.mark.slow
@pages_with("python")
def test_python_blocks_run(page: Path, quick: None, exported: None, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = run_blocks(page, monkeypatch)
    for name, value in vars(shared).items():
        if name.startswith("test_"):
            value()


def test_python_blocks_are_formatted(tmp_path: Path) -> None:
    """They are copied into files, which `make check` will look at."""
    for page in PAGES:
        for block in blocks(page):
            if block.language == "python":
                (tmp_path / f"{page.stem}_{block.line}.py").write_text(block.text)
    command = f"-m ruff format --diff --config {ROOT / 'pyproject.toml'} {tmp_path}"
    done = processes.python(*command.split())
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_wrong_block_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("words\n\n```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n")
    with pytest.raises(AssertionError) as caught:
        run_blocks(page, monkeypatch)
    assert caught.traceback[-1].lineno == 7  # counted from 0


@every_page
def test_blocks_say_what_they_are_and_links_lead_somewhere(page: Path) -> None:
    """So that none goes unread."""
    assert {block.language for block in blocks(page)} <= LANGUAGES
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    local = [link for link in links if "://" not in link]
    generated = docs_site.api_pages() if page.is_relative_to(ROOT / "docs") else {}
    assert [link for link in local if not (page.parent / link).exists() and link not in generated] == []
