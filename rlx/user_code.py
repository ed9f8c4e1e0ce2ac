"""Code that users name on the command line: `path/to/file.py`, `path/to/file.py:Name`, `package.module:Name`."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import io
import os
import re
import sys
import traceback
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

from rlx.errors import RlxError, nearest


def split(name: str) -> tuple[str, str]:
    """The file or module of a name, and the name in it (empty where there is none)."""
    place, colon, attribute = name.rpartition(":")
    return (place, attribute) if colon else (name, "")


def is_file(name: str) -> bool:
    """Whether a name is that of a Python file, or of something in one."""
    return split(name)[0].endswith(".py")


def is_importable(module: str) -> bool:
    """Whether Python finds the first part of a dotted name."""
    _add_working_directory()
    return importlib.util.find_spec(module.partition(".")[0]) is not None


def file_of(module: str) -> str | None:
    """The Python file that a module's name stands for in the current folder; None where there is none."""
    places = (f"{module.replace('.', '/')}.py", f"{module.replace('.', '/')}/__init__.py")
    return next((place for place in places if module and Path(place).is_file()), None)


def _add_working_directory() -> None:
    if os.getcwd() not in sys.path:  # the `rlx` command does not add it, `python` does
        sys.path.append(os.getcwd())


def label(name: str) -> str:
    """A name such that it can be a part of a folder's: `envs/swingup.py:SwingUp` is swingup-SwingUp."""
    place, attribute = split(name)
    place = Path(place).stem if is_file(name) else place
    return "-".join(filter(None, (place, attribute)))


def module(name: str) -> ModuleType:
    """The module of a name: a file, run once for each content that it has had, or an importable module.

    Raises RlxError, in one line, where it does not exist or cannot be imported.
    """
    place, _ = split(name)
    if is_file(name):
        return _module_of_file(place)
    _add_working_directory()
    try:
        spec = None if place in sys.modules else importlib.util.find_spec(place)
        if spec is not None and spec.has_location and Path(str(spec.origin)).suffix == ".py":
            _quieten(Path(str(spec.origin)).read_bytes())
        return importlib.import_module(place)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{place}.".startswith(f"{error.name}."):
            raise RlxError(f"{name}: there is no module {error.name!r} here; name one that Python can import") from None
        raise _cannot_be_imported(name, None, error) from None


def _module_of_file(place: str) -> ModuleType:
    path = Path(place).expanduser().resolve()
    source = _read(place, path)
    _quieten(source)
    name = f"rlx_user_{path.stem}_{hashlib.sha256(str(path).encode() + source).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # for what it imports from its folder
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded  # dataclasses look up their annotations there
    try:
        exec(compile(source, str(path), "exec"), loaded.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _cannot_be_imported(place, path, error) from None
    return loaded


def _quieten(source: bytes) -> None:
    """Before code that imports Brax or MuJoCo runs: MuJoCo would print that it lacks warp, and Brax warn of its age."""
    if re.search(rb"^\s*(import|from)\s+(brax|mujoco)", source, re.MULTILINE):
        warnings.filterwarnings("ignore", "Brax System", UserWarning)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(ImportError):
            importlib.import_module("mujoco.mjx")


def _read(place: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        where = "" if Path(place).expanduser().is_absolute() else f" in {Path.cwd()}"
        raise RlxError(f"{place}: there is no such file{where}; restore it, or go where it is") from None
    except OSError as error:
        raise RlxError(f"{place}: cannot be read ({error.strerror}); name a Python file") from None


def _cannot_be_imported(name: str, path: Path | None, error: BaseException) -> RlxError:
    if isinstance(error, RlxError):
        return error
    return RlxError(f"{name}: cannot be imported ({describe(error, path)}); mend it")


def describe(error: BaseException, path: Path | None = None) -> str:
    """An exception in one line, with the last line of the user's own code (in `path`, or outside libraries)."""
    if isinstance(error, SyntaxError):
        return f"SyntaxError in line {error.lineno}: {error.msg}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_of_user(frame.filename, path)]
    where = f", {Path(frames[-1].filename).name} line {frames[-1].lineno}" if frames else ""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}{where}" + (f": {text}" if text else "")


def is_raised_in(error: BaseException, path: Path) -> bool:
    """Whether code of the file `path` raised an exception, or called what did."""
    return any(_is_of_user(frame.filename, path) for frame in traceback.extract_tb(error.__traceback__))


def _is_of_user(filename: str, path: Path | None) -> bool:
    if path is not None:
        return filename == str(path)
    package = str(Path(__file__).resolve().parent)
    parts = Path(filename).parts
    return not filename.startswith("<") and "site-packages" not in parts and package not in filename


def attribute(name: str) -> Any:
    """What a name such as `file.py:Name` stands for. Raises RlxError where the module has no such name."""
    loaded, (place, wanted) = module(name), split(name)
    if not wanted:
        raise RlxError(f"{name}: names a file only; add what to use of it, as in {name}:{_example(loaded)}")
    if not hasattr(loaded, wanted):
        close = nearest(wanted, _defined(loaded))
        has = ", ".join(_defined(loaded)) or "nothing"
        raise RlxError(f"{place} has no {wanted}; " + (f"did you mean {close}?" if close else f"it defines {has}"))
    return getattr(loaded, wanted)


def _defined(loaded: ModuleType) -> list[str]:
    """The public classes, functions and objects that a module itself defines."""
    return [
        name
        for name, value in vars(loaded).items()
        if not name.startswith("_") and not isinstance(value, ModuleType) and _module_name(value) == loaded.__name__
    ]


def _module_name(value: Any) -> str:
    return str(getattr(value, "__module__", type(value).__module__))


def _example(loaded: ModuleType) -> str:
    classes = [name for name in _defined(loaded) if isinstance(getattr(loaded, name), type)]
    return (classes or _defined(loaded) or ["Name"])[-1]


def source(name: str) -> dict[str, str] | None:
    """Absolute path and SHA-256 of the file that a name's code is in; None where there is no such file."""
    path = Path(split(name)[0]).expanduser() if is_file(name) else Path(getattr(module(name), "__file__", None) or "")
    try:
        return {"path": str(path.resolve()), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    except OSError:
        return None
