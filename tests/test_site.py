"""The site builds without a network or a warning, and its pages hold what the source says."""

import ast
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from rlx import agents, config
from scripts import docs_site
from tests import processes
from tests.browser import browser

ROOT = docs_site.ROOT
FAQ = ROOT / "docs" / "faq.md"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make docs` builds. (Quiet, mkdocs would not count warnings.)"""
    built = tmp_path_factory.mktemp("site")
    environ = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9") | {"NO_MKDOCS_2_WARNING": "1"}
    command = f"-m mkdocs build --strict --site-dir {built}"
    done = processes.python(*command.split(), timeout=300, **environ)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stdout + done.stderr
    return built


@pytest.mark.slow
def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    """Scripts, styles and pictures are the site's own; only links lead out."""
    for path in site.rglob("*.html"):
        asked = re.findall(r'<(?:script|link|img|iframe)[^>]*\b(?:src|href)="([^"]+)"', path.read_text())
        assert [url for url in asked if re.match(r"(https?:)?//", url)] == [], path


@pytest.mark.slow
def test_pages_have_docstrings_fields_and_outputs_of_notebooks(site: Path) -> None:
    text = (site / "notebooks" / "1_train.html").read_text()
    assert "data:image/png;base64," in text and "result.evaluation" in re.sub(r"<[^>]+>", "", text)
    text = (site / "api" / "rlx.types.html").read_text()
    assert "always in [-1, 1]" in re.sub(r"</?code>", "", text)  # a comment behind a field of Spec
    assert 'id="rlx.types.Agent.update"' in text
    agents_page = (site / "api" / "rlx.agents.html").read_text()
    assert all(f'id="rlx.agents.{name}.make"' in agents_page for name in agents.REGISTRY)


def test_a_new_agent_gets_its_pages_from_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "REGISTRY", {"sac": "rlx.agents.sac", "tqc": "mine.tqc"})
    assert [name for name in docs_site.API if len(docs_site.summary(name)) < 10] == []
    assert "::: mine.tqc" in docs_site.api_pages()["api/rlx.agents.md"]
    config = docs_site.on_config(SimpleNamespace(nav=[{"Agents": []}, {"API": []}]))
    assert config.nav[0]["Agents"] == ["agents/index.md", {"SAC": "agents/sac.md"}, {"TQC": "agents/tqc.md"}]
    assert {"rlx.losses": "api/rlx.losses.md"} in config.nav[1]["API"]


def test_what_an_agent_can_do_is_what_it_declares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "REGISTRY", {name: agents.REGISTRY[name] for name in ("ppo", "flash_sac", "idql")})
    head, _, *rows = (
        [cell.strip() for cell in line.split("|")[1:-1]] for line in docs_site.capabilities_table().splitlines()
    )
    table = {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}
    ppo, flash_sac, idql = (table[f"[`{name}`]({name}.md)"] for name in agents.REGISTRY)
    assert (ppo["actions"], ppo["on-policy"]) == ("continuous or discrete", "yes")
    assert (flash_sac["actions"], flash_sac["on-policy"], flash_sac["acting state"]) == ("continuous", "no", "yes")
    assert (idql["privileged observations"], flash_sac["privileged observations"]) == ("no", "yes")
    assert ppo["exported to"] == "jax, NumPy, ONNX" and idql["exported to"] == "jax"


@pytest.mark.parametrize("name", agents.REGISTRY)
def test_tables_of_settings_are_those_of_the_source(name: str) -> None:
    page = (ROOT / "docs" / "agents" / f"{name}.md").read_text()
    filled = docs_site.tables(page)
    loop = docs_site.tables((ROOT / "docs" / "settings.md").read_text())
    for setting, result in config.settings(name).items():
        default = f"`{shown}`" if (shown := docs_site.shown(result.default)) else ""
        row = f"| `{docs_site.flag(setting)}` | {default} | {docs_site.limits(result)} | {result.help} |"
        assert (row in filled, row in loop) == (result.section != "train", result.section == "train"), setting
    for changed in agents.tuned_settings(name).values():
        assert all(f"`{docs_site.typed(setting, value)}`" in filled for setting, value in changed.items())
    assert f"../images/agents/{name}.png" in page


def test_settings_are_shown_as_they_are_typed() -> None:
    assert docs_site.typed("tau", 0.005) == "--tau 0.005"
    assert docs_site.typed("actor_hidden_sizes", (64, 32)) == "--actor-hidden-sizes 64 32"
    assert docs_site.typed("layer_norm", True) == "--layer-norm"
    assert docs_site.typed("normalize_observations", False) == "--no-normalize-observations"


@pytest.mark.parametrize(
    ("link", "file", "page", "expected"),
    [
        ("[x](data.md)", "docs/offline.md", "offline.md", "[x](data.md)"),
        ("[x](../CONTRIBUTING.md#a)", "docs/design.md", "design.md", "[x](contributing.md#a)"),
        ("[x](../../notebooks/1_train.ipynb)", "docs/agents/sac.md", "agents/sac.md", "[x](../notebooks/1_train.md)"),
        ("[x](../scripts/train.py)", "docs/design.md", "design.md", "x"),
        ("![x](images/a.png)", "docs/index.md", "index.md", "![x](images/a.png)"),
        ("[x](https://example.org)", "docs/index.md", "index.md", "[x](https://example.org)"),
        ("```text\n[x](../s.py)\n```", "docs/index.md", "index.md", "```text\n[x](../s.py)\n```"),
        ("[x](docs/data.md)", "CONTRIBUTING.md", "contributing.md", "[x](data.md)"),
        ("[x](../docs/data.md)", "notebooks/1.ipynb", "notebooks/1.md", "[x](../data.md)"),
    ],
)
def test_links_between_files_become_links_between_pages(link: str, file: str, page: str, expected: str) -> None:
    assert docs_site.linked(link, file, page) == expected


SEARCH = """
const box = document.querySelector("[name=query]");
box.focus();
box.value = "truncated";
box.dispatchEvent(new Event("input", {bubbles: true}));
new Promise((done) => {
  const look = () => {
    const found = document.querySelectorAll(".md-search-result__item").length;
    found ? done(found) : setTimeout(look, 100);
  };
  look();
});
"""


@pytest.mark.browser
def test_the_site_works_from_a_folder_without_a_network(site: Path, tmp_path: Path) -> None:
    """On a phone no page is wider than the screen; search finds something."""
    with browser(tmp_path) as page:
        page.call("Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=1, mobile=True)
        for name in ("index", "agents/sac", "api/rlx.types", "faq", "migrating", "notebooks/4_pipeline"):
            page.open(site / f"{name}.html")
            assert page.run("document.documentElement.scrollWidth") <= 390, name
        assert page.run(SEARCH) > 3
    assert [said for said in page.complaints if not said.startswith("asked for data:")] == []


@pytest.mark.browser
@pytest.mark.parametrize(("width", "columns"), [(400, 1), (800, 2), (1200, 2), (2000, 2)])
def test_cards_fill_their_rows(width: int, columns: int, site: Path, tmp_path: Path) -> None:
    """The four cards of the landing page fill their rows."""
    with browser(tmp_path, width) as page:
        page.open(site / "index.html")
        left = page.run("[...document.querySelectorAll('.halves > div')].map((card) => card.offsetLeft)")
    assert len(left) == 4 and len(set(left)) == columns and left == left[:columns] * (4 // columns)


def text_of(node: ast.AST) -> str:
    """A string of the source, with `...` for what differs."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(text_of, node.values))
    return "..."


def raised() -> set[str]:
    """What the source raises RlxError with."""
    files = [*ROOT.glob("rlx/*.py"), *ROOT.glob("rlx/*/*.py")]
    calls = (node for file in files for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call))
    return {text_of(call.args[0]) for call in calls if getattr(call.func, "id", "") == "RlxError"}


def test_quoted_error_messages_are_those_of_the_source() -> None:
    quoted = re.findall(r"^### `(.+)`$", FAQ.read_text(), re.M)  # the page's headings in code
    assert len(quoted) > 30 and len(set(quoted)) == len(quoted) and sorted(set(quoted) - raised()) == []
    assert "... was written by a poet" not in raised()
