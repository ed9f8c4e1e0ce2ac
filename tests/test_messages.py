"""What `rlx` says to mistakes: the one place where messages are asserted in full; other tests match their key words."""

import errno
from fnmatch import fnmatchcase

import pytest

from rlx import agents
from rlx.commands import main as cli
from rlx.errors import RlxError
from tests.commands import MonkeyPatch, Refused, Say

ENV = "gymnax:Pendulum-v1"

BAD = [  # commands (E stands for --env gymnax:Pendulum-v1) and their lines (* for anything)
    # commands and names
    ("trian", "unknown command 'trian': did you mean train?"),
    ("--versoin", "unknown command '--versoin': did you mean --version?"),
    ("train", "name the agent right after `rlx train`, as in `rlx train sac --env brax:ant`; see `rlx list`"),
    ("train --env brax:ant", "name the agent right after `rlx train`, as in *"),
    ("train sca --env brax:ant", "unknown agent 'sca': did you mean sac?"),
    ("train SAC --env brax:ant", "unknown agent 'SAC': did you mean sac?"),
    ("train xyz --env brax:ant", f"unknown agent 'xyz': choose from {', '.join(agents.REGISTRY)}"),
    ("train sac", "missing --env, as in --env brax:ant; see `rlx list`"),
    ("train sac --env brax:antt", "no environment 'brax:antt'; the nearest is 'brax:ant'"),
    ("train sac --env Pendulum", "no environment 'Pendulum'; the nearest is 'gymnax:Pendulum-v1', *"),
    ("train sac --env brax:ant --backend sprong", "no backend 'sprong'; the nearest is 'spring' of *"),
    ("train sac --env brax:swimmer", "brax:swimmer is broken: *"),
    ("train sac --env gymnax:CartPole-v1", "gymnax:CartPole-v1: has discrete actions, and sac continuous ones; *"),
    ("train sac E --backend spring", "gymnax:Pendulum-v1 has one physics only: leave out the backend 'spring'"),
    ("train sac E --num-env 3", "unknown argument '--num-env' of `rlx train sac`: did you mean --num-envs?"),
    ("train sac E --episode-length 5", "*did you mean --env-args episode_length=N?"),
    ("train sac E --box-mass 5", "*own goes in --env-args box_mass=VALUE; *"),
    ("train sac E --buffer-size 5", "*did you mean --replay-capacity?*"),
    ("train sac E --critic_lr=3", "unknown argument '--critic_lr' of `rlx train sac`: did you mean --critic-lr?"),
    ("train sac E extra", "'extra': belongs to no flag of `rlx train sac`, or is one value too many"),
    ("train sac E --batch-size 64 128", "'128': belongs to no flag of `rlx train sac`, or is one value too many"),
    ("train sac E --num-envs", "--num-envs: lacks its INT; see `rlx train sac --help`"),
    ("train sac E --preset huge", "--preset huge: unknown for sac on gymnax:Pendulum-v1; *"),
    # sizes
    ("train sac E --num-envs few", "--num-envs few: must be an integer"),
    ("train sac E --num-envs 0", "--num-envs 0: must be at least 1 *"),
    ("train sac E --batch-size 500 --replay-capacity 400", "--batch-size 500: is over --replay-capacity 400; *"),
    ("train sac E --replay-capacity 3", "--replay-capacity 3: must hold a block of * transitions; *"),
    ("train sac E --replay-capacity 1e13", "--replay-capacity 10000000000000: more than 2147483647 vector steps *"),
    ("train sac E --replay-capacity 1e11", "--replay-capacity: the run needs * GiB a device (replay *; lower it"),
    ("train sac E --num-envs 12 --num-shards 5", "--num-envs 12: must be divisible by the 5 shards *"),
    ("train sac E --num-devices 99", "--num-devices 99: this machine shows * device(s); *"),
    ("train sac E --total-env-steps 9 --warmup-env-steps 9", "--total-env-steps 9: ends before the first update*"),
    ("train sac E --seed 4294967296", "--seed 4294967296: must be at least 0 and at most 4294967295"),
    ("train sac E --num-critics 0", "--num-critics 0: must be at least 1 *"),
    ("train sac E --actor-hidden-sizes 8 0", "--actor-hidden-sizes 0: must be at least 1 *"),
    # values
    ("train sac E --critic-lr nan", "--critic-lr nan: must be a finite number"),
    ("train sac E --critic-lr 1e-3 inf", "--critic-lr inf: must be a finite number"),
    ("train sac E --gamma high", "--gamma high: must be a finite number"),
    ("train sac E --ratio 8", "--ratio 8: must be two integers, critic:actor updates *, as 8:4; not both 0"),
    ("train sac E --driver fuzed", "--driver fuzed: unknown; did you mean fused?"),
    ("train sac E --driver pipelined --split 2,1", "--split 2,1: must be 1, auto, or three integers *"),
    ("train sac E --driver pipelined --split auto", "--split auto: needs 3 devices*"),
    ("train sac E --driver pipelined --split 2,1,1", "--split 2,1,1*"),
    ("train sac E --driver pipelined --ratio 8:1.5", "--ratio 8:1.5*"),
    ("train sac E --driver pipelined --depth 9", "--depth 9*"),
    ("train sac E --driver pipelined --num-shards 3", "--num-envs *"),
    ("train sac E --driver pipelined --num-shards 2 --batch-size 33", "--batch-size 33*"),
    ("train sac E --split 1,1,1", "--split 1,1,1: goes with --driver pipelined; add it"),
    ("train sac E --spread seed", "--spread seed: unknown; did you mean seeds?"),
    ("train sac E --activation rleu", "--activation rleu: unknown; did you mean relu?"),
    # folders
    ("train sac E --checkpoint-dir ftp://host/x", "*ftp://host/x: must be a folder, or an address *"),
    ("train sac E --run-name ../../x", "--run-name '../../x': use letters, *, so that it stays inside runs"),
    ("train sac E --run-name=", "--run-name '': use letters, *, so that it stays inside runs"),
    ("train sac E --checkpoint-dir /dev/null", "/dev/null: is no folder, so checkpoints cannot go there; choose *"),
    ("train sac E --checkpoint-dir /dev/null/x", "/dev/null: is no folder, *; choose another --checkpoint-dir"),
    ("train sac E --log-every 1 --total-env-steps 1e9", "--log-every 1: would log * lines; raise it to 1024 or more"),
    (f"train sac E --run-dir {'x' * 300}", "*: cannot be written (File name too long); choose another --run-dir"),
    (f"runs {'x' * 300}", "*: File name too long; choose a shorter name"),
    ("train sac E --checkpoint-dir a\0b", "*--checkpoint-dir*"),
    ("train sac E --checkpoint-dir /proc/1", "/proc/1/*: checkpoints cannot be written there (*"),
    ("train sac E --run-dir=", "--run-dir '': names no folder; name one, or leave it out"),
    ("train sac E --run-dir /dev/null/runs", "/dev/null/runs/*: cannot be written (Not a directory); choose *"),
    ("train sac E --init-from nowhere", "nowhere: does not exist; give *"),
    ("eval", "missing RUN; see `rlx eval --help`"),
    ("eval nowhere", "nowhere: does not exist; give a folder that `rlx train` made"),
    ("eval /dev/null", "/dev/null: is not a run folder (no config.json); give a folder that `rlx train` made"),
    ("eval runs --episodes 2.5", "--episodes 2.5: must be an integer"),
    ("diff /dev /dev", "/dev: is not a run folder (no config.json)*"),
    ("eval runs --epsodes 3", "unknown argument '--epsodes' of `rlx eval`: did you mean --episodes?"),
    # sweeps
    ("sweep", "name the agent right after `rlx sweep`, as in *"),
    ("sweep sca --env x", "unknown agent 'sca': did you mean sac?"),
    ("sweep sac --tau 0.1 0.2", "missing --env, as in --env brax:ant; see `rlx list`"),
    ("sweep sac E", "nothing to sweep: *"),
    ("sweep sac E --tua 1 2", "unknown argument '--tua' of `rlx sweep sac`: did you mean --tau?"),
    ("sweep sac E --batch-size 8 16", "--batch-size: takes one value; only hyper-parameters can be swept: *"),
    ("sweep sac E --tau 1 2 --random x", "--random x: must be an integer"),
    ("sweep --resume nowhere", "nowhere: holds no sweep (no sweep.json); give a folder that `rlx sweep` made"),
    ("sweep sac --env gymnax:Pendulun-v1 --tau 0.1 0.2", "no environment 'gymnax:Pendulun-v1'; *"),
    ("sweep sac E --tau 0.1 0.2 --checkpoint-dir ftp://x", "ftp://x: must be a folder, or an address that begins *"),
    ("sweep sac E --tau 0.1 0.2 --checkpoint-dir /dev/null", "/dev/null: is no folder, *"),
    ("sweep sac E --tau 0.1 0.2 --run-dir=", "--run-dir '': names no folder; name one, or leave it out"),
    ("sweep sac E --tau 0.1 0.2 --num-devices 99", "--num-devices 99: this machine shows *"),
    ("sweep sac E --tau 0.1:0.2 --random 1e12", "--random 1000000000000: must be at least 0 and at most 1000000"),
    ("train sac E --env-args g=1e400", "--env-args g=1e400: holds a number that is not finite, 1e400; give another *"),
    ("train sac --env maze:umaze --env-args episode_length=1e3", "episode_length must be an integer of at least 1, *"),
    (f"train sac --env maze:umaze --env-args episode_length={2**31}", "episode_length must be at most 2,147,483,647*"),
    ("train sac E --wrappers history:100000000000", "history must be at most 1,000, not 100,000,000,000"),
    ("train sac E --wrappers action_delay:1001", "action_delay must be at most 1,000, not 1,001"),
    ("train sac E --wrappers action_repeat:1001", "action_repeat must be at most 1,000, not 1,001"),
    ("train sac E --randomize delay=0:1e9", "--randomize delay=0:1e+09: must be 0 to 1,000 steps, *"),
    ("train sac E --actor-hidden-sizes 1e6 1e6", "networks: the run needs * GiB are free; make them smaller"),
    ("list agents", "'agents': belongs to no flag of `rlx list`, or is one value too many"),
]


@pytest.mark.parametrize(("command", "message"), BAD)
def test_every_mistake_is_one_line(command: str, message: str, refused: Refused) -> None:
    line = refused(*command.replace(" E", f" --env {ENV}").split(" "))
    assert fnmatchcase(line, message), line


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (BrokenPipeError(), 141, ""),
        (PermissionError(errno.EACCES, "Permission denied", "mine"), 2, "rlx: mine: Permission denied; change the"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "rlx: the output: No space left on device; make room"),
        (RlxError("a\x1b[2Jb\u202ec\nd"), 2, "rlx: a\\x1b[2Jb\\u202ec d\n"),
    ],
)
def test_system_errors_are_a_line(error: Exception, code: int, words: str, say: Say, monkeypatch: MonkeyPatch) -> None:
    def refuse(arguments: list[str]) -> int:
        raise error

    monkeypatch.setattr(cli, "discard_output", lambda: None)
    monkeypatch.setitem(cli.COMMANDS, "list", refuse)
    said = say("list")
    assert said.code == code and said.err.startswith(words) and said.err.count("\n") == bool(words)
