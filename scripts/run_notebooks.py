"""Runs the notebooks from top to bottom, each in a process of its own, and saves what they show: `make notebooks`.

    python scripts/run_notebooks.py [NAME ...]

With `--tiny` a cell tagged `parameters` is replaced by the text in its metadata, `tiny`, and nothing is saved: that is
how the tests run them.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))


def run(path: Path, tiny: bool = False) -> Any:
    """The notebook after running in an empty folder. Raises nbclient's CellExecutionError where a cell fails."""
    import nbformat
    from nbclient import NotebookClient
    from traitlets.config import Config

    notebook = nbformat.read(path, as_version=4)
    if tiny:
        for cell in notebook.cells:
            cell.source = cell.metadata.get("tiny", cell.source)
    with tempfile.TemporaryDirectory() as folder:
        pipes = Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}})  # no ports
        client = NotebookClient(notebook, config=pipes, timeout=1200, resources={"metadata": {"path": folder}})
        pictures = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
        client.execute(env=os.environ | pictures | {"PYTHONPATH": str(ROOT)})
    return notebook


def tidy(notebook: Any) -> None:
    """Drops what differs from machine to machine: warnings, times of execution, versions of the kernel."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata["language_info"] = {"name": "python"}


def paths_in(notebook: Any) -> list[str]:
    """Absolute paths in what cells show."""
    shown = [str(output) for cell in notebook.cells for output in cell.get("outputs", []) if "image" not in str(output)]
    without_base64 = re.sub(r"[\w+/=]{200,}", "", " ".join(shown))
    return re.findall(r"(?<![\w.:/])/[\w.-]+/[\w./-]+", without_base64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="notebooks to run, by the beginning of their names (default: all)")
    parser.add_argument("--tiny", action="store_true", help="tiny settings; nothing is saved")
    args = parser.parse_args()
    import nbformat

    for path in NOTEBOOKS:
        if args.names and not path.stem.startswith(tuple(args.names)):
            continue
        begun = time.perf_counter()
        notebook = run(path, args.tiny)
        print(f"{path.name}: {time.perf_counter() - begun:.0f} s", flush=True)
        if not args.tiny:
            tidy(notebook)
            if result := paths_in(notebook):
                sys.exit(f"{path.name} shows paths of this machine, and is not saved: {', '.join(result)}")
            nbformat.write(notebook, path)


if __name__ == "__main__":
    main()
