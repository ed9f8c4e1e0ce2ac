"""What the site has beyond the pages of docs/: tables of settings, notebooks, and pages from the repository.

mkdocs calls the functions named `on_...`. A page asks for a table by a comment on a line of its own:
`<!-- settings: sac -->` (an agent's settings) or `<!-- presets: sac -->` (what its presets change).
"""

from __future__ import annotations

import json
import posixpath
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the hook runs before rlx is installed, too

ELSEWHERE = {  # pages of the site by the file of the repository that they are made of
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    **{str(path.relative_to(ROOT)): str(path.relative_to(ROOT)) for path in ROOT.glob("benchmarks/**/*.md")},
    **{f"notebooks/{path.name}": f"notebooks/{path.stem}.md" for path in ROOT.glob("notebooks/*.ipynb")},
}


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages whose files stand outside docs/."""
    from mkdocs.structure.files import File

    for source, page in ELSEWHERE.items():
        path = ROOT / source
        text = notebook(path) if path.suffix == ".ipynb" else path.read_text()
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **given: Any) -> str:
    """Fills in tables, and points links at the site's pages."""
    found = {to: source for source, to in ELSEWHERE.items()}
    source = found.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    return linked(tables(markdown), source, page.file.src_uri)


def linked(markdown: str, source: str, page: str) -> str:
    """Links between files of the repository as links between pages; what is no page becomes plain text."""

    def link(found: re.Match[str]) -> str:
        image, text, to, anchor = found.groups()
        if "://" in to or to.startswith(("#", "data:")) or not to:
            return found[0]
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), to))
        target = ELSEWHERE.get(file, file.removeprefix("docs/") if file.startswith("docs/") else None)
        if target is None:
            return text
        return f"{image}[{text}]({posixpath.relpath(target, posixpath.dirname(page) or '.')}{anchor or ''})"

    def outside_code(text: str) -> str:
        return re.sub(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)#\s]*)(#[^)\s]*)?\)", link, text)

    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.M | re.S)
    return "".join(part if i % 2 else outside_code(part) for i, part in enumerate(parts))


def tables(markdown: str) -> str:
    """The page with its tables."""
    makers = {"settings": settings_table, "presets": presets_table}
    return re.sub(r"^<!-- (settings|presets): (\w+) -->$", lambda m: makers[m[1]](m[2]), markdown, flags=re.M)


def settings_table(agent: str) -> str:
    """Flag, default and help of everything that an agent has beyond what every run has."""
    from rlx import config

    rows = [
        (f"`{flag(name)}`", f"`{shown(setting.default)}`", setting.help)
        for name, setting in config.settings(agent).items()
        if setting.section != "train"
    ]
    return table(("flag", "default", "what it is"), rows)


def presets_table(agent: str) -> str:
    """What each preset changes."""
    from rlx import agents

    rows = []
    for key, changed in agents.load(agent).PRESETS.items():
        env, _, name = key.partition("@")
        where = "every environment" if env == "*" else f"`{env}`"
        values = ", ".join(f"`{typed(setting, value)}`" for setting, value in changed.items())
        rows.append((where, f"`--preset {name}`" if name else "always", values))
    return table(("environment", "when", "settings"), rows)


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def typed(name: str, value: Any) -> str:
    """A setting as it is typed."""
    if isinstance(value, bool):
        return flag(name if value else f"no_{name}")
    return f"{flag(name)} {shown(value)}"


def shown(value: Any) -> str:
    """A value in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (tuple, list)):
        return " ".join(map(shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Rows as Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ("---",) * len(head), *rows])


def notebook(path: Path) -> str:
    """A notebook as a page: text, code, what it printed and the pictures it drew."""
    parts = []
    for cell in json.loads(path.read_text())["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        parts += [output for given in cell.get("outputs", []) if (output := shown_output(given))]
    return "\n\n".join(parts) + "\n"


def shown_output(output: dict[str, Any]) -> str:
    """One output of a cell."""
    data = output.get("data", {})
    for kind in ("image/gif", "image/png"):
        if kind in data:
            return f"![what the cell draws](data:{kind};base64,{''.join(data[kind]).strip()})"
    text = "".join(output.get("text", data.get("text/plain", "")))
    return f"``` {{ .text .shown }}\n{text.rstrip()}\n```" if text.strip() else ""
