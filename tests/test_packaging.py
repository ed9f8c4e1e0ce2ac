"""What a user installs: the wheel's contents, the declared dependencies, the pins and the Makefile's first line."""

import ast
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests import processes

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
PINS = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]

IMPORT_ALL = """
import importlib, pathlib, pkgutil, sys
import rlx
home = pathlib.Path(sys.argv[1]).resolve()
names = ["rlx", *(m.name for m in pkgutil.walk_packages(rlx.__path__, "rlx.") if not m.name.endswith("__main__"))]
for name in names:
    module = importlib.import_module(name)
    assert pathlib.Path(module.__file__).resolve().is_relative_to(home), (name, module.__file__)
print(*names)
"""


def run(*arguments: str | Path, cwd: Path, **environ: str) -> str:
    """The standard output of `python ARGUMENTS`, which must succeed."""
    done = processes.python(*arguments, cwd=cwd, timeout=300, **environ)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def modules_of_checkout() -> set[str]:
    """The files that the wheel must hold, by their path in it."""
    return {str(path.relative_to(ROOT)) for depth in ("", "*/", "*/*/") for path in ROOT.glob(f"rlx/{depth}*.py")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution, built from a copy that has no earlier build in it."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("rlx", "agents", "envs"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    build = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"
    run("-c", build, "build_sdist", built, cwd=source)
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        archive.extractall(built, filter="data")
    run("-c", build, "build_wheel", built, cwd=next(path for path in built.iterdir() if path.is_dir()))
    return next(built.glob("*.whl"))


@pytest.mark.slow
def test_wheel_contents_and_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        everything = archive.namelist()
        read = {Path(name).name: archive.read(name).decode() for name in everything if ".dist-info/" in name}
    scripts = {f"rlx/visual/{name}.js" for name in ("robot", "viewer", "single", "grid")}
    names = {name for name in everything if ".dist-info/" not in name}
    assert names == modules_of_checkout() | scripts | {"rlx/py.typed"}
    assert {f"rlx/{folder}/__init__.py" for folder in ("agents", "data", "envs", "train")} <= names
    assert any(name.endswith("licenses/LICENSE") for name in everything)
    assert "rlx = rlx.commands.main:main" in read["entry_points.txt"]
    assert "Requires-Python: >=3.11" in read["METADATA"]
    assert re.search(r'Requires-Dist: jax\[cuda12\]; extra == "cuda"', read["METADATA"])
    assert re.search(r'Requires-Dist: jax\[tpu\]; extra == "tpu"', read["METADATA"])


@pytest.mark.slow
@pytest.mark.smoke
def test_every_module_imports_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    """Outside the checkout, with nothing of it on the path."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    names = run("-c", IMPORT_ALL, tmp_path / "site", cwd=tmp_path, PYTHONPATH=str(tmp_path / "site"))
    expected = {path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in modules_of_checkout()}
    assert set(names.split()) == {name for name in expected if not name.endswith("__main__")}


@pytest.mark.slow
def test_type_checkers_find_an_editable_install(tmp_path: Path) -> None:
    """It is a plain path on a .pth line, which mypy and pyright read; an import hook they do not."""
    source = shutil.copytree(ROOT, tmp_path / "clone", symlinks=True, ignore=shutil.ignore_patterns(".*", "build"))
    build = f"from setuptools.build_meta import build_editable; build_editable({str(tmp_path)!r})"
    run("-c", build, cwd=source)
    run("-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    (site,) = tmp_path.glob("venv/lib/*/site-packages")
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as archive:
        archive.extractall(site)
    lines = ["import rlx", "from rlx.envs.base import advance, begin", "reveal_type(rlx.fit('sac'))"]
    lines += ["env = rlx.envs.wrappers.history(rlx.envs.make('brax:ant'), 2)", "rlx.envs.vectorise(env, 4, 4)"]
    lines += [
        "state = begin(0.0, 0.0)",
        "advance(state, 0.0, 0.0, 0.0, False, 9)",
        "found: rlx.SweepResult = rlx.sweep('sac')",
    ]
    (tmp_path / "mine.py").write_text("\n".join(lines))
    python = tmp_path / "venv" / "bin" / "python"
    command = ["-m", "mypy", "--follow-imports=silent", f"--python-executable={python}", "mine.py"]
    result = run(*command, cwd=tmp_path, PYTHONPATH="")
    assert 'Revealed type is "rlx.api.result.Result"' in result and "Success" in result


def test_imported_packages_are_declared() -> None:
    """What rlx imports, it asks for by name: not through a dependency of a dependency."""
    declared = {canonicalize_name(Requirement(line).name) for line in sum(EXTRAS.values(), PROJECT["dependencies"])}
    others = {"mujoco_playground": ["playground"], "IPython": ["ipykernel"], "onnxruntime": ["onnx"]}  # where they are
    distributions = {**importlib.metadata.packages_distributions(), **others}
    for file in modules_of_checkout() - {"rlx/export/runner.py"}:  # which is copied to where rlx is not
        for node in ast.walk(ast.parse((ROOT / file).read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in {name.split(".")[0] for name in names} - {*sys.stdlib_module_names, "rlx"}:
                owners = {canonicalize_name(owner) for owner in distributions.get(name, [name])}
                assert owners & declared, f"{file} imports {name}, which pyproject.toml does not ask for"


def test_pins_are_exact_and_name_no_index() -> None:
    for pin in PINS:
        assert pin.url is None and [spec.operator for spec in pin.specifier] == ["=="], pin
    for python, jax in (("3.11", "0.10.2"), ("3.12", "0.11.2")):
        valid = [pin for pin in PINS if pin.marker is None or pin.marker.evaluate({"python_version": python})]
        names = [canonicalize_name(pin.name) for pin in valid]
        assert len(names) == len(set(names))
        assert f"jax=={jax}" in {f"{pin.name}{pin.specifier}" for pin in valid}


def test_pins_are_complete() -> None:
    """Everything rlx[dev] brings, and what that brings, has a pin for the running Python; and nothing else has."""
    pinned = {canonicalize_name(pin.name) for pin in PINS if pin.marker is None or pin.marker.evaluate()}
    seen: set[tuple[str, str]] = set()
    waiting = [(Requirement(line), "") for line in PROJECT["dependencies"] + EXTRAS["dev"]]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"constraints.txt lacks {name}"
        for wanted in {"", *requirement.extras} - {had for of, had in seen if of == name}:
            seen.add((name, wanted))
            waiting += [(Requirement(line), wanted) for line in importlib.metadata.requires(name) or []]
    assert pinned == {name for name, _ in seen}


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_make_names_a_missing_python_in_one_line() -> None:
    command = ["make", "--no-print-directory", "install", "PYTHON=python3.1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "PYTHON=python3.1 does not start or is older than 3.11" in done.stderr
