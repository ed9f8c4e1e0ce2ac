"""Notebooks run from top to bottom, and what is committed of them was shown by a run."""

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from scripts import run_notebooks
from tests import processes

every_notebook = pytest.mark.parametrize("path", run_notebooks.NOTEBOOKS, ids=lambda path: path.stem)


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.slow
@every_notebook
def test_notebooks_run(path: Path) -> None:
    """On tiny settings; every notebook has a process of its own, so it may choose its devices."""
    done = processes.python("scripts/run_notebooks.py", "--tiny", path.stem, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert path.name in done.stdout


@every_notebook
def test_notebooks_are_committed_as_they_ran(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = code(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "run: make notebooks"
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert [output for output in outputs if "image/png" in output.get("data", {})], "no picture"
    assert run_notebooks.paths_in(notebook) == []
    assert path.stat().st_size < 600_000
    sizes = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(sizes) == 1 and sizes[0].metadata.tiny != sizes[0].source


def a_notebook(folder: Path, *sources: str) -> Path:
    path = folder / "some.ipynb"
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[0].metadata = {"tags": ["parameters"], "tiny": "size = 1"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


@pytest.mark.slow
def test_what_is_saved_is_tidy(tmp_path: Path) -> None:
    path = a_notebook(tmp_path, "size = 2", "import os, sys; print('odd', file=sys.stderr); os.getcwd()")
    notebook = run_notebooks.run(path)
    run_notebooks.tidy(notebook)
    assert [output.output_type for output in code(notebook)[1].outputs] == ["execute_result"]
    assert len(run_notebooks.paths_in(notebook)) == 1
    path = a_notebook(tmp_path, "size = 2", "assert size == 2")  # a wrong cell, under tiny settings, is found
    with pytest.raises(CellExecutionError, match="AssertionError"):
        run_notebooks.run(path, tiny=True)
