"""Starting test programs in processes of their own, with a timeout: a dead-lock is a failure, not a hang."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def environment(devices: int, long: bool = False) -> dict[str, str]:
    """This process's environment with `devices` CPU devices, for programs that are compiled quickly or run `long`."""
    quick = "" if long else os.environ.get("XLA_FLAGS", "")  # the same bits as in this process need the same flags
    flags = {"XLA_FLAGS": f"{quick} --xla_force_host_platform_device_count={devices}".strip(), "NPROC": "16"}
    options = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "false" if long else "true"}
    return os.environ | flags | options


def start(arguments: list[str], devices: int, long: bool = False) -> subprocess.Popen[str]:
    """`python -m ARGUMENTS` in the checkout, its output collected."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", *arguments]
    environ = environment(devices, long)
    return subprocess.Popen(command, cwd=ROOT, env=environ, text=True, stdout=pipe, stderr=pipe)


def finish(process: subprocess.Popen[str], timeout: float) -> tuple[int, str, str]:
    """Exit code, output and errors; killed and failed when `timeout` seconds are over."""
    try:
        output, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        output, errors = process.communicate()
        raise AssertionError(f"{process.args!r} hung for {timeout} s:\n{output}\n{errors[-3000:]}") from None
    return process.returncode, output, errors


def run(arguments: list[str], devices: int, timeout: float = 300, long: bool = False) -> str:
    """The output of a program that has to succeed."""
    code, output, errors = finish(start(arguments, devices, long), timeout)
    assert code == 0, f"{arguments} exited with {code}:\n{output}\n{errors[-3000:]}"
    return output


def python(*arguments: Any, cwd: Path = ROOT, timeout: float = 120, **environ: str) -> subprocess.CompletedProcess[str]:
    """`python ARGUMENTS`, its output collected, whatever its exit code."""
    command, env = [sys.executable, *map(str, arguments)], os.environ | environ
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
