"""Random command lines, and damaged run folders, data files and policies, for tests/fuzz.py.

A case damages files in the current folder, a copy of `make_templates`' one, and returns the words of a command.
"""

import contextlib
import hashlib
import io
import json
import os
import random
import re
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlx import agents, config, data
from rlx.commands import COMMANDS
from rlx.commands.main import main as rlx
from rlx.errors import RlxError
from rlx.export import policy as exported
from rlx.runs import checkpoint, folders, origin, saver
from rlx.sweeps import sweep
from rlx.visual import viewer
from tests import datasets
from tests.saved_runs import make_run
from tests.scenes import ODD, SCENE, episode

PENDULUM = "gymnax:Pendulum-v1"
SIZES: dict[str, Any] = {"actor_hidden_sizes": [8], "critic_hidden_sizes": [8], "num_envs": 8, "batch_size": 8}
SIZES |= {"total_env_steps": 1000, "warmup_env_steps": 100, "replay_capacity": 800, "num_seeds": 2}
DEEP, DIGITS = "@deep@", "@digits@"  # in JSON text: lists too deep for Python, a number too long for it
ODD_JSON = [*ODD, DEEP, DIGITS, "\x1b[31m", "a\nb", "\ud800", "x" * 300, "../..", "a\0b", "gs://x", "nan", "sac"]
ODD_JSON += [2**63, -(2**63), 2**31, 1e308, 1e-320, -0.0, 0, 1, False, [None], {"": None}, [1, 2]]
ODD_TEXT = "| |-|--|=|nan|inf|-inf|1e400|1e-400|-1|0|1e9|1e18|0x10|1_0|\u0663|\u00e9|\x1b[31m|a\nb|\udcff|../..|~|*|{}"
ODD_TEXT += "|[1]|none|true|1:2|1:2:log|2:1:log|a:b|1,1,1|gs://x|s3:|file:///x|--help"
ODD_TEXTS = [*ODD_TEXT.split("|"), "x" * 300, "x" * 5000, "9" * 400]
FINE = "0 1 2 3 8 64 1000 1e3 0.5 0.99 1e-3 1:1 2:1 auto relu random none".split()
PATHS = "run unfinished sweep policy set.npz set.hdf5 set-v0 missing missing/x file empty loop link dangling".split()
PATHS += "pipe run/config.json run/ . .. /dev/null /proc/self locked".split()
LINES = """train sac --env gymnax:Pendulum-v1 --total-env-steps 1000 --num-envs 8 --run-dir out
train td3 --env gymnax:Pendulum-v1 --total-env-steps 1000 --num-envs 8 --init-from run --run-name a --overwrite
train pql --env gymnax:Pendulum-v1 --driver pipelined --split 1 --total-env-steps 1000 --num-envs 8 --seed 3
train iql --dataset set-v0 --offline-steps 100 --total-env-steps 0 --quiet
train iql --dataset set.hdf5 --env gymnax:Pendulum-v1 --offline-steps 100 --total-env-steps 0 --batch-size 4
train --resume unfinished --num-devices 1
train --resume run --total-env-steps 2000
sweep sac --env gymnax:Pendulum-v1 --total-env-steps 1000 --critic-lr 1e-4 1e-3 --chunk 1
sweep td3 --env gymnax:Pendulum-v1 --total-env-steps 1000 --gamma 0.9:0.99 --random 4 --chunk 2
sweep --resume sweep --quiet
eval run --episodes 2 --step 40
collect run --kind expert --num-transitions 100 --out new --seed 1
data info set.npz
data convert set.hdf5 new
runs .
diff run unfinished --verbose
compare run unfinished --metric eval --thresholds -100 --format md
report run --out page --format csv
play run --out page.html --episodes 1 --member 0 1 --gif a.gif --seconds 2
export run --out new --member 1 --onnx
list
--version""".splitlines()


def make_templates(root: Path) -> None:
    """One of everything that commands read, and odd paths."""
    root.mkdir()
    _make_run(root / "run")
    shutil.copytree(root / "run", root / "unfinished")
    (root / "unfinished" / "summary.json").unlink()
    folders.mark(root / "unfinished", "interrupted")
    with contextlib.chdir(root):
        made = sweep.make("sac", PENDULUM, critic_lr=[1e-4, 1e-3], chunk=1, **SIZES)
    (root / "sweep").mkdir()
    sweep.save(made, root / "sweep")
    shutil.copytree(root / "run", root / "sweep" / "chunk-0", ignore=lambda *_: ["checkpoints", "resume"])
    shutil.copytree(root / "unfinished", root / "sweep" / "chunk-1")
    rows = (dataset := datasets.walk([5, 3, 7, 4])).rows
    dataset = dataset._replace(
        rows=rows._replace(action=rows.action[:, :1]),
        info=dataset.info | {"env": PENDULUM, "backend": None, "random_return": 0.0, "expert_return": 9.0},
    )
    data.write(dataset, root / "set-v0")
    np.savez(root / "set.npz", **_ogbench(dataset))
    datasets.write_hdf5(root / "set.hdf5", datasets.d4rl_arrays(dataset))
    exported.save(root / "run", root / "policy")
    (root / "file").write_text("text")
    (root / "empty").mkdir()
    for link, target in (("loop", "loop"), ("link", "run"), ("dangling", "nowhere")):
        (root / link).symlink_to(target)


def _make_run(folder: Path) -> None:
    driver = make_run(folder, "sac", PENDULUM, (40, 300), **SIZES)
    run_config = config.from_json(folder / "config.json")
    about = {"offline": False, "iteration": 3, "learned": True, "identity": saver.identity(run_config)}
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), driver.training_state_shapes)
    checkpoint.save(folder / "resume", 40, state, about)
    content = config.to_json(run_config) | {"identity": about["identity"], "init_from": None, "data": {}}
    content |= {"data_digest": "", "init_from_digests": {}} | origin.describe()
    (folder / "config.json").write_text(json.dumps(content))
    spread = {"eval_return_interval": [-161.0, -131.0], "eval_return_iqm": -151.2, "eval_return_mean": -151.25}
    summary = {"agent": "sac", "env": PENDULUM, "backend": None, "members": config.members(run_config)} | spread
    summary |= {"env_steps": 1000, "save_blocked_s": 1.5, "wall_time_s": 40.0, "eval_return_per_seed": [-150.0, -152.0]}
    (folder / "summary.json").write_text(json.dumps(summary))
    line = {"train_s": 6.0, "evaluate_s": 0.5, "critic_step": 9, "actor_step": 9, "train/critic_loss": 0.5}
    line |= {"eval/return_per_seed": [-9.0, -8.0], "eval/return_mean": -8.5}
    steps = ({"run_step": step, "wall_time_s": step / 10} | line for step in (40, 300, 1000))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    viewer.rollout_page(folder / "rollout.html", SCENE, [episode(9), episode(5)], "sac")
    folders.mark(folder, "finished")


def _ogbench(dataset: data.Dataset) -> dict[str, np.ndarray]:
    rows = dataset.rows
    columns = {"observations": rows.observation, "actions": rows.action, "terminals": rows.truncated | rows.terminated}
    more = {"next_observations": rows.next_observation, "rewards": rows.reward, "masks": 1 - rows.terminated}
    return columns | {name: np.asarray(x, np.float32) for name, x in more.items()}


def hurt_bytes(rng: random.Random, content: bytes) -> bytes:
    for _ in range(rng.randint(1, 4)):
        at, size = rng.randrange(len(content) + 1), rng.choice([1, 1, 2, 8, 64])
        new = [rng.randbytes(size), b"", b"\0" * size, b"\xff" * size, content[at : at + 2 * size]]
        content = content[:at] + rng.choice(new) + content[at + rng.choice([0, size]) :]
    return content[: rng.randrange(len(content) + 1)] if rng.random() < 0.1 else content


def hurt_json(rng: random.Random, tree: Any) -> Any:
    """The tree with one place changed: another value or type, gone, or under another name."""
    holder: Any = None
    key: Any = None
    node = tree
    while isinstance(node, (dict, list)) and node and (holder is None or rng.random() < 0.8):
        holder, key = node, rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
        node = holder[key]
    if holder is None or rng.random() < 0.02:
        return rng.choice(ODD_JSON)
    how = rng.random()
    if how < 0.1:
        del holder[key]
    elif how < 0.2 and isinstance(holder, dict):
        holder[rng.choice(["", "\x1b[31m", "eval/x_per_seed", "a_s", *holder])] = rng.choice([node, *ODD_JSON])
    elif how < 0.5 and isinstance(node, str) and node[:1] in ("{", "["):
        holder[key] = _dump(hurt_json(rng, json.loads(node)))
    else:
        holder[key] = rng.choice(ODD_JSON)
    return tree


def _dump(tree: Any) -> str:
    text = json.dumps(tree)
    return text.replace(f'"{DEEP}"', "[" * 20_000 + "]" * 20_000).replace(f'"{DIGITS}"', "9" * 5000)


def hurt_file(rng: random.Random, path: Path) -> None:
    """Changes a file's bytes or, of JSON, its values; digests beside them are mostly made to fit."""
    if not path.is_file():  # it was replaced before
        return
    with contextlib.suppress(ValueError, RecursionError):  # of JSON that is damaged already
        _hurt_file(rng, path)


def _hurt_file(rng: random.Random, path: Path) -> None:
    content, how = path.read_bytes(), rng.random()
    if how < 0.03:
        path.unlink()
        rng.choice([path.mkdir, lambda: path.symlink_to(path.name), lambda: os.mkfifo(path), lambda: None])()
    elif how < 0.3 or path.suffix not in (".json", ".jsonl"):
        path.write_bytes(hurt_bytes(rng, content))
    elif path.suffix == ".jsonl":
        lines = content.decode().splitlines()
        at = rng.randrange(len(lines))
        lines[at] = _dump(hurt_json(rng, json.loads(lines[at])))
        path.write_text("".join(line + "\n" for line in lines))
    elif path.name == checkpoint.MANIFEST:
        text = _dump(hurt_json(rng, json.loads(content.partition(b"\n")[2]))).encode()
        path.write_bytes(hashlib.sha256(text).hexdigest().encode() + b"\n" + text)
    else:
        path.write_text(_dump(hurt_json(rng, json.loads(content))))
        if path.name == "config.json" and rng.random() < 0.8:
            with contextlib.suppress(RlxError):
                fitting = {"identity": saver.identity(config.from_json(path))}
                path.write_text(json.dumps(json.loads(path.read_text()) | fitting))


def hurt_array(rng: random.Random, array: np.ndarray) -> Any:
    types: list[Any] = ["f2", "f8", "i1", "i8", "u8", "c8", "?", "S3", ">f4", "f4", "f4"]
    odd = np.array(array, np.float64)
    odd.flat[rng.randrange(max(odd.size, 1)) :] = rng.choice([np.nan, np.inf, -1e300, 1e38, 2.0, 0.0])
    choices = [array[:0], array[:-1], array.T, array[None], array.ravel(), array.sum(), np.empty(array.shape, "S2")]
    with np.errstate(all="ignore"):
        return rng.choice([*choices, odd, odd, array.astype(rng.choice(types)), np.repeat(array, 2, 0)])


def hurt_arrays(rng: random.Random, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    for name in rng.sample(list(arrays), rng.choice([0, 1, 1, 2])):
        if rng.random() < 0.3:
            del arrays[name]
        else:
            arrays[name] = hurt_array(rng, arrays[name])
    return arrays


# Cases: damage in the current folder, then the words of a command


@cache
def flags_of(*command: str) -> list[str]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        rlx([*command, "--help"])
    return sorted(set(re.findall(r"--[a-z][a-z0-9-]*", out.getvalue()))) or ["--help"]


def command_line(rng: random.Random) -> list[str]:
    words = rng.choice(LINES).split()
    flags = flags_of(*words[: 2 if words[0] in ("train", "sweep") else 1])
    for _ in range(rng.choice([0, 1, 1, 2, 3])):
        value = rng.choice([rng.choice(FINE), rng.choice(ODD_TEXTS), rng.choice(PATHS)])
        at, how = rng.randrange(len(words) + 1), rng.random()
        if how < 0.55:
            flag = rng.choice(flags)
            words[at:at] = [f"{flag}={value}"] if rng.random() < 0.2 else [flag, *[value] * rng.choice([0, 1, 1, 1, 2])]
        elif how < 0.75 and at < len(words):
            words[at] = value
        elif how < 0.85 and words:
            word = words.pop(at % len(words))
            words[at:at] = rng.choice([[], [word[:-1]], [word, word], [word.upper()], [word + "x"]])
        else:
            words.insert(rng.choice([at, len(words)]), value)
    if rng.random() < 0.03:
        words[:1] = [rng.choice([*COMMANDS, *ODD_TEXTS, *agents.REGISTRY])]
    return words


def run_folder(rng: random.Random) -> list[str]:
    name = rng.choice(["run", "run", "unfinished", "unfinished", "sweep"])
    files = ["config.json", "config.json", "metrics.jsonl", "summary.json", "status.json", "sweep.json", "lock"]
    files += ["resume/40/manifest.json", "checkpoints/300/manifest.json", "rollout.html", "*", "*"]
    for pattern in rng.sample(files, rng.choice([1, 1, 2])):
        paths = sorted(path for path in Path(name).rglob(pattern) if path.is_file())
        hurt_file(rng, rng.choice(paths or [Path(name, "sweep.json" if name == "sweep" else "config.json")]))
    if name == "sweep" and rng.random() < 0.5:
        return ["sweep", "--resume", name]
    name = f"{name}/chunk-0" if name == "sweep" else name
    lines = [f"report {name} --out page", f"compare {name} run", f"diff {name} run", f"diff run {name} --verbose"]
    lines += [f"report run {name}", f"eval {name}", f"play {name}", f"collect {name} --kind random --out new"]
    lines += [f"export {name} --out new", f"collect {name} --kind replay --out new", *["runs .", "runs sweep"]]
    lines += [f"train --resume {name}", f"train --resume {name} --total-env-steps 2000"] * 2
    lines += [f"train sac --env {PENDULUM} --init-from {name} --actor-hidden-sizes 8 --critic-hidden-sizes 8"]
    return rng.choice(lines).split()


def data_file(rng: random.Random) -> list[str]:
    name = rng.choice(["set.npz", "set.hdf5", "set-v0"])
    if name == "set-v0":
        main, metadata = sorted(Path(name).rglob("*.*"))[-2:]
        if rng.random() < 0.6:
            hurt_file(rng, metadata)
        elif rng.random() < 0.5:
            hurt_file(rng, main)
        else:
            _hurt_members(rng, main)
    elif rng.random() < 0.5:
        hurt_file(rng, Path(name))
    elif name == "set.npz":
        with np.load(name) as arrays:
            np.savez(name, **hurt_arrays(rng, dict(arrays)))
    else:
        _hurt_members(rng, Path(name))
    train = f"train iql --dataset {name} --env {PENDULUM} --offline-steps 20 --total-env-steps 0 --batch-size 4"
    train += " --actor-hidden-sizes 8 --critic-hidden-sizes 8"
    more = rng.choice(["", " --on-nonfinite skip", " --scale-rewards range"])
    lines = [f"data info {name}"] * 3 + [f"data convert {name} new"] * 2 + [train + more]
    return rng.choice([*lines, train.replace(f"--env {PENDULUM} ", "")]).split()


def _hurt_members(rng: random.Random, path: Path) -> None:
    import h5py

    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        arrays = {name: file[name][...] for name in names if isinstance(file[name], h5py.Dataset)}
        for name, array in hurt_arrays(rng, {name: arrays[name] for name in rng.sample(sorted(arrays), 3)}).items():
            del file[name]
            file[name] = array


def policy_folder(rng: random.Random) -> Callable[[], Any] | list[str]:
    if rng.random() < 0.4:
        hurt_file(rng, page := Path("run/rollout.html"))
        line = rng.choice(["report run --out page", *["play run --out run/rollout.html"] * 2, *[""] * 17])
        return line.split() or (lambda: viewer.recorded(page))
    path = Path("policy", rng.choice(["policy.json", "policy.json", "policy.jax"]))
    hurt_file(rng, path)
    if path.suffix == ".jax" and path.is_file() and rng.random() < 0.7:
        metadata = json.loads(Path("policy/policy.json").read_text())
        metadata["files"]["policy.jax"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        Path("policy/policy.json").write_text(json.dumps(metadata))
    return lambda: exported.load("policy")


CASES: dict[str, Callable[[random.Random], Any]] = {
    "command-line": command_line,
    "runs": run_folder,
    "data": data_file,
    "policies": policy_folder,
}
UNUSED = {  # templates that a kind of cases does without
    "command-line": set[str](),
    "runs": {"set.npz", "set.hdf5", "set-v0", "policy"},
    "data": {"run", "unfinished", "sweep", "policy"},
    "policies": {"unfinished", "sweep", "set.npz", "set.hdf5", "set-v0", "resume"},
}
