"""Runs commands on what may not be read, entered or written, and prints what ends otherwise than in a line and exit 2.
Root may do everything, so root first gives up the capabilities to pass over permissions."""

import ctypes
import os
import sys
import tempfile
from pathlib import Path

DAC_OVERRIDE, DAC_READ_SEARCH, CAPBSET_DROP = 1, 2, 24  # of linux/capability.h and linux/prctl.h
IMPOSSIBLE = 77  # exit code where permissions do not bind this user
TRAIN = "--env gymnax:Pendulum-v1 --total-env-steps 1000 --num-envs 8"
OFFLINE = "--env gymnax:Pendulum-v1 --offline-steps 100 --total-env-steps 0"
READS = """eval {} --episodes 2
collect {} --kind random --out new
play {} --out page.html
export {} --out new
report {} --out page
diff {} run
diff run {}
compare run {}
train --resume {}
train --resume {} --total-env-steps 2000
train td3 TRAIN --init-from {}
runs {}
sweep --resume {}
data info {}
data convert {} new
train iql OFFLINE --dataset {}
train sac TRAIN --preset {}""".splitlines()
WRITES = """train sac TRAIN --run-dir {}
train sac TRAIN --run-dir {}/a/b
train sac TRAIN --run-dir out --checkpoint-dir {}
sweep sac TRAIN --critic-lr 1e-4 1e-3 --run-dir {}
collect run --kind random --out {}/new
data convert set.hdf5 {}/new
export run --out {}/new
report run --out {}/page
play run --out {}/page.html
play run --out page.html --gif {}/a.gif""".splitlines()
FORBIDDEN = {  # mode, and what gets it
    "unfinished": (0o000, 0o400, 0o555),
    **{f"unfinished/{name}": (0o000,) for name in ("config.json", "metrics.jsonl", "status.json", "lock")},
    **{f"unfinished/{name}": (0o000, 0o555) for name in ("checkpoints", "checkpoints/300", "resume", "resume/40")},
    **{f"unfinished/{name}/manifest.json": (0o000,) for name in ("checkpoints/300", "resume/40")},
    **{name: (0o000,) for name in "sweep sweep/sweep.json sweep/chunk-0 set.npz set.hdf5 set-v0 file".split()},
    **{f"set-v0/data{name}": (0o000,) for name in ("", "/metadata.json", "/main_data.hdf5")},
}


def give_up_privileges() -> None:
    """Starts this program anew without them; exits with IMPOSSIBLE where even that does not bind."""
    with tempfile.TemporaryDirectory() as folder:
        (locked := Path(folder, "locked")).mkdir(mode=0)
        if not os.access(locked, os.X_OK, effective_ids=True):
            return
    if "--bound" in sys.argv or not sys.platform.startswith("linux"):
        sys.exit(IMPOSSIBLE)
    for capability in (DAC_OVERRIDE, DAC_READ_SEARCH):
        ctypes.CDLL(None).prctl(CAPBSET_DROP, capability, 0, 0, 0)
    os.execv(sys.executable, [sys.executable, "-m", "tests.check_permissions", "--bound"])


def lines(path: str) -> list[str]:
    """The commands that read or write a path."""
    name = path.split("/")[0]
    if name == "unfinished":
        return [line.format(name) for line in [*READS[:11], "play {}", "report {}"]] + ["runs .", "runs unfinished"]
    if name == "sweep":
        return ["runs sweep", "runs .", "sweep --resume sweep", "report sweep/chunk-0 --out page"]
    return [line.format(name) for line in READS[13:]]


def main() -> int:
    give_up_privileges()
    from tests import fuzz
    from tests.fuzz_cases import CASES, UNUSED, make_templates

    count, wrong = 0, list[str]()
    cases = [(path, mode, line) for path, modes in FORBIDDEN.items() for mode in modes for line in lines(path)]
    cases += [("empty", mode, line.format("empty")) for mode in (0o000, 0o500) for line in WRITES + READS]
    with tempfile.TemporaryDirectory(dir=fuzz.MEMORY) as folder:
        make_templates(templates := Path(folder, "templates"))
        UNUSED["permissions"], fuzz.EARLY = set(), 1.0  # nothing is traced
        for number, (path, mode, line) in enumerate(cases):

            def case(_: object, path: str = path, mode: int = mode, line: str = line) -> list[str]:
                Path(path).chmod(mode) if Path(path).exists() else Path(path).touch(mode)
                return line.replace("TRAIN", TRAIN).replace("OFFLINE", OFFLINE).split()

            CASES["permissions"] = case
            count += 1
            if result := fuzz.run_case("permissions", number, 0, templates):
                wrong.append(f"{path} of mode {mode:o}: rlx {line}: {result.split(': ', 2)[2]}")
                print(wrong[-1], flush=True)
    print(f"{count} commands, {len(wrong)} findings")
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
