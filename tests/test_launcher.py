"""The launcher of TPU pods: the command line that it makes, and what it refuses."""

import subprocess
from pathlib import Path

import pytest

LAUNCHER = Path(__file__).resolve().parents[1] / "scripts" / "launch_tpu_pod.sh"


def launch(*arguments: str, last: bool = True, code: int = 0, **environment: str) -> str:
    """Runs the script and returns what it prints; `last=False` puts the last argument before the `--`."""
    words = list(arguments)
    if not last:
        words.insert(words.index("--"), words.pop())
    done = subprocess.run(
        ["bash", str(LAUNCHER), *words], env=environment or None, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == code, done.stderr
    return (done.stderr if code else done.stdout).rstrip("\n")


def as_shell_reads(line: str) -> list[str]:
    """The words that bash makes of a line."""
    read = ["bash", "-c", f"printf '%s\\0' {line}"]
    return subprocess.run(read, capture_output=True, text=True, check=True, timeout=30).stdout.split("\0")[:-1]


ODD = ["rlx", "train", "sac", "--env", "brax:ant", "--run-dir", 'it\'s a "run" for $HOME; `ls`\nnext *']
ODD += ["--run-name", ""]


def test_launcher_shows_its_command_line() -> None:
    plain = launch("my-pod", "us-central2-b", "--dry-run", "--", "rlx", "train", "sac", "--env", "brax:ant")
    assert plain == (
        "gcloud compute tpus tpu-vm ssh my-pod --zone us-central2-b --worker=all"
        " --command rlx\\ train\\ sac\\ --env\\ brax:ant\\ --distributed"
    )
    with_project = launch("--project", "mine", "my-pod", "--dry-run", "z", "--", "rlx/.venv/bin/rlx", "train", "sac")
    assert " --zone z --project mine --worker=all --command rlx/.venv/bin/rlx" in with_project
    line = launch("pod", "zone", "--dry-run", "--", "rlx", "train", "sac", "--distributed", "--seed", "1")
    assert as_shell_reads(as_shell_reads(line)[-1]) == ["rlx", "train", "sac", "--distributed", "--seed", "1"]


def test_launcher_quotes_what_shells_would_take_apart() -> None:
    """Two shells read the line, the reader's own and the worker's: both give back the same words."""
    words = as_shell_reads(launch("my pod", "zone", "--dry-run", "--", *ODD))
    assert words[:6] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "my pod"]
    assert words[-2] == "--command"
    assert as_shell_reads(words[-1]) == [*ODD, "--distributed"]


def test_launcher_runs_what_it_shows(tmp_path: Path) -> None:
    gcloud = tmp_path / "gcloud"
    gcloud.write_text('#!/bin/bash\nprintf "%q " gcloud "$@"\necho\n')
    gcloud.chmod(0o755)
    arguments = ("pod", "zone", "--project", "mine", "--", *ODD)
    shown = launch(*arguments, "--dry-run", last=False)
    ran = launch(*arguments, PATH=f"{tmp_path}:/usr/bin:/bin")
    assert as_shell_reads(ran) == as_shell_reads(shown)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give the pod's NAME and ZONE"),
        (["pod", "--", "rlx", "train"], "give the pod's NAME and ZONE"),
        (["pod", "zone", "more", "--", "rlx", "train"], "give the pod's NAME and ZONE"),
        (["pod", "zone"], "no command: put -- and then rlx train"),
        (["pod", "zone", "--"], "must begin with rlx train"),
        (["pod", "zone", "--", "rlx", "eval", "runs/x"], "must begin with rlx train"),
        (["pod", "zone", "--", "python", "train"], "must begin with rlx train"),
        (["pod", "zone", "--projct", "p", "--", "rlx", "train"], "unknown option --projct"),
        (["pod", "zone", "--project", "--", "rlx", "train"], "--project: needs a name"),
    ],
)
def test_launcher_refuses_in_one_line(arguments: list[str], words: str) -> None:
    message = launch(*arguments, code=2)
    assert message.startswith("launch_tpu_pod.sh: ") and words in message and "\n" not in message


def test_launcher_without_gcloud(tmp_path: Path) -> None:
    (tmp_path / "bash").symlink_to("/bin/bash")
    done = launch("pod", "zone", "--", "rlx", "train", "sac", code=2, PATH=str(tmp_path))
    assert "gcloud is not on the path" in done
