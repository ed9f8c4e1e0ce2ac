"""What the site has beyond the pages in docs/: API pages, tables of settings, notebooks, pages from the repository.

mkdocs calls the functions named `on_...`. A page requests a table by a comment on a line of its own:
`<!-- settings: sac -->` (an agent's settings; of `train`, the training loop's) or `<!-- presets: sac -->` (what its
presets change).
"""

from __future__ import annotations

import ast
import json
import math
import posixpath
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the hook runs before rlx is installed, too

API = {  # the public modules, by the page that describes them; the registry adds the agents
    "rlx": ("rlx.api.fitting.fit", "rlx.api.fitting.load", "rlx.api.result.Result", "rlx.api.sweeping", "rlx.RlxError"),
    "rlx.types": ("rlx.types",),
    "rlx.agents": ("rlx.agents",),
    "rlx.envs": (
        "rlx.envs",
        "rlx.envs.base",
        "rlx.envs.objects",
        "rlx.envs.checks",
        "rlx.envs.wrappers",
        "rlx.envs.wrapped",
        "rlx.envs.gymnasium_env",
    ),
    "rlx.losses": (
        "rlx.losses.targets",
        "rlx.losses.critics",
        "rlx.losses.actors",
        "rlx.losses.return_distributions",
    ),
    "rlx.networks": ("rlx.networks.network", "rlx.networks.modules", "rlx.networks.batch_norm", "rlx.networks.score"),
    "rlx.distributions": ("rlx.distributions",),
    "rlx.diffusion": ("rlx.diffusion",),
    "rlx.optim": ("rlx.optim",),
    "rlx.halves": ("rlx.halves.hypers", "rlx.halves.state", "rlx.halves.updates", "rlx.policies"),
    "rlx.normalize": ("rlx.normalize",),
    "rlx.replay": ("rlx.replay",),
    "rlx.rollout": ("rlx.rollout",),
    "rlx.evaluate": ("rlx.evaluate",),
    "rlx.statistics": ("rlx.statistics",),
    "rlx.data": ("rlx.data.dataset", "rlx.data.files", "rlx.data.arrays", "rlx.data.quality", "rlx.data.limits"),
    "rlx.ope": (
        "rlx.ope.evaluation",
        "rlx.ope.policies",
        "rlx.ope.table",
        "rlx.ope.trajectories",
        "rlx.ope.estimators",
        "rlx.ope.cumulative",
        "rlx.ope.marginal",
        "rlx.ope.star",
        "rlx.ope.kernels",
        "rlx.ope.intervals",
        "rlx.ope.selection",
        "rlx.ope.simulation",
        "rlx.ope.fqe",
    ),
    "rlx.train": ("rlx.train.config", "rlx.train.loop", "rlx.train.profiler"),
    "rlx.runs.checkpoint": ("rlx.runs.checkpoint",),
    "rlx.export": ("rlx.export.policy",),
}
API_INTRODUCTION = """# API

Generated from the docstrings. These modules are meant for use by other code, except for names that begin with an
underscore; modules that are not listed are internal. Every agent's module has `Config`, `Hypers` and `make`;
the [agents' pages](../agents/index.md) list the settings.

Shapes are written as `[B, A]`: B batch, T time, E environments, N ensemble, M members (or quantiles, or atoms),
O observation, A action.
"""
CAPABILITIES = "<!-- capabilities -->"
ELSEWHERE = {  # pages and pictures of the site by the file of the repository that they are made of
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "rlx/types.py": "api/rlx.types.md",
    **{str(path.relative_to(ROOT)): str(path.relative_to(ROOT)) for path in ROOT.glob("benchmarks/**/*.md")},
    **{f"notebooks/{path.name}": f"notebooks/{path.stem}.md" for path in ROOT.glob("notebooks/*.ipynb")},
    **{str(path.relative_to(ROOT)): str(path.relative_to(ROOT)) for path in ROOT.glob("benchmarks/results/**/*.png")},
}


def on_config(config: Any) -> Any:
    """Fills in the navigation: a page for each agent of the registry, and the API pages."""
    from rlx import agents

    pages = [f"agents/{name}.md" for name in agents.REGISTRY]
    for section in config.nav:
        if "Agents" in section:
            section["Agents"] = ["agents/index.md", *({heading(ROOT / "docs" / page): page} for page in pages)]
        if "API" in section:
            section["API"] = ["api/index.md", *({name: f"api/{name}.md"} for name in API)]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages and pictures whose sources are outside docs/."""
    from mkdocs.structure.files import File

    for source, page in ELSEWHERE.items():
        path = ROOT / source
        content: Any = {".ipynb": notebook, ".png": Path.read_bytes}.get(path.suffix, Path.read_text)(path)
        files.append(File.generated(config, page, content=content))
    for page, text in api_pages().items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **arguments: Any) -> str:
    """Fills in tables, and turns links between files into links between pages."""
    sources = {to: source for source, to in ELSEWHERE.items()}
    source = sources.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    return linked(tables(markdown), source, page.file.src_uri)


def heading(page: Path) -> str:
    """The first heading of a page."""
    return page.read_text().splitlines()[0].removeprefix("# ")


def api_pages() -> dict[str, str]:
    """The API pages, by their place in the site: a list of the modules, and a page for each entry of `API`."""
    from rlx import agents

    rows, pages = [], {}
    for name, modules in API.items():
        modules += tuple(agents.REGISTRY.values()) if name == "rlx.agents" else ()
        rows.append((f"[{name}]({name}.md)", summary(name)))
        pages[f"api/{name}.md"] = "\n\n".join([f"# {name}", *(f"::: {module}" for module in modules)]) + "\n"
    index = f"{API_INTRODUCTION}\n{table(('module', 'what is in it'), rows)}\n"
    return {"api/index.md": index, **pages}


def summary(module: str) -> str:
    """The first sentence of a module's docstring."""
    path = ROOT / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return " ".join(text.split("\n\n")[0].split())


def linked(markdown: str, source: str, page: str) -> str:
    """Links between files of the repository as links between pages; a link to no page becomes plain text."""

    def link(match: re.Match[str]) -> str:
        image, text, to, anchor = match.groups()
        if "://" in to or to.startswith(("#", "data:")) or not to:
            return match[0]
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
    if CAPABILITIES in markdown:
        markdown = markdown.replace(CAPABILITIES, capabilities_table())
    return re.sub(r"^<!-- (settings|presets): (\w+) -->$", lambda m: makers[m[1]](m[2]), markdown, flags=re.M)


def settings_table(agent: str) -> str:
    """Flag, default, limits and help of an agent's own settings, or of those that all share where `agent` is train."""
    from rlx import config

    shared = agent == "train"
    rows = [
        (
            f"`{flag(name)}`",
            f"`{shown(setting.default)}`" if shown(setting.default) else "",
            limits(setting),
            setting.help,
        )
        for name, setting in config.settings("sac" if shared else agent).items()
        if (setting.section == "train") == shared
    ]
    return table(("flag", "default", "allowed", "meaning"), rows)


def limits(setting: Any) -> str:
    """What a setting may be."""
    if setting.choices:
        return ", ".join(f"`{choice}`" for choice in setting.choices)
    low, high = (None if math.isinf(end) else shown(float(end)) for end in setting.within)
    if setting.type in (bool, str) or low == high is None:
        return ""
    return f"from {low}" if high is None else f"to {high}" if low is None else f"{low} to {high}"


def presets_table(agent: str) -> str:
    """The settings that each preset changes."""
    from rlx import agents

    rows = []
    for key, changed in agents.tuned_settings(agent).items():
        env, _, name = key.partition("@")
        where = "every environment" if env == "*" else f"`{env}`"
        values = ", ".join(f"`{typed(setting, value)}`" for setting, value in changed.items())
        rows.append((where, f"`--preset {name}`" if name else "always", values))
    return table(("environment", "when", "settings"), rows)


def capabilities_table() -> str:
    """What each agent has beyond what all have."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from rlx import agents
    from rlx.build import acts_by_critics
    from rlx.export import mlp
    from rlx.types import Spec

    continuous = Spec(jax.ShapeDtypeStruct((3,), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.float32), 10)
    specs = {"continuous": continuous, "discrete": continuous._replace(num_actions=2)}
    head = (
        "agent",
        "actions",
        "on-policy",
        "log-density of actions",
        "value of actions",
        "acting state",
        "windows",
        "privileged observations",
        "exported to",
    )
    rows = []
    for name in agents.REGISTRY:
        module = agents.load(name)
        widths = ("actor_hidden_sizes", "critic_hidden_sizes")
        small = {width: (8, 8) for width in widths if hasattr(module.Config, width)}
        made = {kind: made_for(module, module.Config(**small), spec) for kind, spec in specs.items()}
        kinds = [kind for kind, agent in made.items() if agent is not None]
        agent, spec = made[kinds[0]], specs[kinds[0]]
        shapes = jax.eval_shape(lambda key, agent=agent: agent.acting_params(agent.init(key)), jax.random.key(0))
        policy = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)  # only its structure is asked for
        is_mlp = not agent.discrete and any(mlp.of_actor(network, "relu", spec) for network in mlp.networks_in(policy))
        state = agent.carry or agent.noise
        parts = {"state": (0, 2), "hidden": (2, 3)}
        of_parts = spec._replace(parts=parts, actor_parts=("state",), critic_parts=tuple(parts))
        with_parts = made_for(module, module.Config(**small), of_parts)
        is_privileged = with_parts is not None and not acts_by_critics(with_parts, of_parts)
        has = [agent.on_policy, agent.log_prob, agent.q_value, state, agent.window, is_privileged]
        formats = "jax, NumPy, ONNX" if is_mlp else "jax"
        link, actions = f"[`{name}`]({name}.md)", " or ".join(kinds)
        rows.append((link, actions, *("yes" if each else "no" for each in has), formats))
    return table(head, rows)


def made_for(module: Any, config: Any, spec: Any) -> Any:
    """The agent for environments of `spec`; None where it does not choose such actions."""
    from rlx.errors import RlxError

    try:
        agent = module.make(config, spec)
    except RlxError:
        return None
    return agent if agent.discrete == (spec.num_actions > 0) else None


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def typed(name: str, value: Any) -> str:
    """A setting as a flag with its value."""
    if isinstance(value, bool):
        return flag(name if value else f"no_{name}")
    return f"{flag(name)} {shown(value)}"


def shown(value: Any) -> str:
    """A value as text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (tuple, list)):
        return " ".join(map(shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Rows as a Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ("---",) * len(head), *rows])


def notebook(path: Path) -> str:
    """A notebook as a page: text, code and outputs."""
    parts = []
    for cell in json.loads(path.read_text())["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        parts += [output for raw in cell.get("outputs", []) if (output := shown_output(raw))]
    return "\n\n".join(parts) + "\n"


def shown_output(output: dict[str, Any]) -> str:
    """One output of a cell."""
    data = output.get("data", {})
    for kind in ("image/gif", "image/png"):
        if kind in data:
            return f"![output of the cell](data:{kind};base64,{''.join(data[kind]).strip()})"
    text = "".join(output.get("text", data.get("text/plain", "")))
    return f"``` {{ .text .shown }}\n{text.rstrip()}\n```" if text.strip() else ""
