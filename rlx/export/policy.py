"""Taking a policy away: a file that runs with jax alone, on whatever jax runs on, and plain layers where it has them.

The exported policy maps raw observations to actions in [-1, 1]: weights, normalisation and clip are inside. Where the
greedy action is drawn (IDQL), every row of every batch draws with one fixed key: the action is a function of the
observation alone, the same in a batch, by itself, and on another day.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from rlx import __version__, config, json_files
from rlx.config import RunConfig
from rlx.errors import RlxError
from rlx.experiment import make_driver, setup
from rlx.export import mlp
from rlx.export.mlp import Layer
from rlx.runs import checkpoint, runner, summaries
from rlx.train import steps
from rlx.train.loop import Driver
from rlx.types import Spec

if TYPE_CHECKING:
    import gymnasium

FORMAT = 1
PLATFORMS = ("cpu", "cuda", "tpu")
POLICY, ABOUT, ARRAYS, ONNX = "policy.jax", "policy.json", "policy.npz", "policy.onnx"
TOLERANCE = 1e-4  # of actions, between the ways to compute them

Act = Callable[[Any], jax.Array]


def save(folder: Path, out: Path, step: int | None = None, member: int = 0, onnx: bool = False) -> dict[str, Any]:
    """Writes a run's greedy policy into the new folder `out`; returns what `policy.json` says of it.

    `policy.jax` is the policy. `policy.npz` holds its layers where it is a plain MLP, and so does `policy.onnx` if
    asked for. Raises RlxError where there is no such run, checkpoint or member, where `out` exists, or where ONNX
    cannot be had.
    """
    saved = config.from_json(folder / "config.json")
    everyone = config.members(saved)
    if not 0 <= member < len(everyone):
        there = f"0 to {len(everyone) - 1}" if len(everyone) > 1 else "0 alone"
        raise RlxError(f"--member {member}: {folder} has {there}; choose one of those")
    if out.exists():
        raise RlxError(f"{out}: is there already; choose another --out, such as {_free(out)}")
    if onnx:
        mlp.check_onnx()
    step = max(checkpoint.steps(folder / "checkpoints"), default=None) if step is None else step
    driver = make_driver(setup(replace(saved, train=replace(saved.train, **runner.NO_TRAINING))))
    learned = jax.tree.map(lambda x: jnp.asarray(x[member]), runner.load(folder, driver, step))
    assert step is not None  # `load` raises where there is no checkpoint

    act, spec = _greedy(driver, learned), driver.task.env.spec
    exported = export_function(act, spec.observation_size)
    layers = _layers(driver, saved, learned, act)
    if onnx and layers is None:
        raise RlxError(f"--onnx: the policy of {saved.agent} is no plain MLP; leave it out, {POLICY} holds it")
    files = {POLICY: bytes(exported.serialize())}
    if layers is not None:
        files[ARRAYS] = _zipped(mlp.to_arrays(layers))
        if onnx:
            files[ONNX] = mlp.to_onnx(layers, spec.observation_size)
    about = {
        "format": FORMAT,
        "run": folder.resolve().name,
        "run_step": step,
        "member": member,
        "members": len(everyone),
        "seed": everyone[member]["seed"],
        "hypers": {name: x for name, x in everyone[member].items() if name != "seed"},
        "checkpoint_digest": checkpoint.manifest(folder / "checkpoints", step)["digest"],
        **_about(saved, spec, exported),
        "layers": [layer.operation for layer in layers or []],
        "files": {name: {"bytes": len(file), "sha256": _digest(file)} for name, file in files.items()},
    }
    _write(out, files, about)
    return about


def export_function(act: Act, observation_size: int) -> jax_export.Exported:
    """A function of one observation `[O]` as an artefact for batches `[B, O]` of any size, on every platform."""
    (batch,) = jax_export.symbolic_shape("B")
    rows = jax.ShapeDtypeStruct((batch, observation_size), jnp.float32)
    return jax_export.export(jax.jit(jax.vmap(act)), platforms=PLATFORMS)(rows)


def _greedy(driver: Driver, learned: Any) -> Act:
    """The greedy policy of one member: one raw observation `[O]` to an action `[A]`."""
    task = driver.task

    def policy(observation: jax.Array) -> jax.Array:
        seen = steps.observed(task, learned["statistics"], observation)
        return task.agent.act_greedy(task.agent.acting_params(learned["agent"]), seen, jax.random.key(0))[0]

    return policy


def _layers(driver: Driver, saved: RunConfig, learned: Any, act: Act) -> list[Layer] | None:
    """The policy as plain layers, None where it has no such form or where that gives other actions."""
    spec, train, activation = driver.task.env.spec, saved.train, getattr(saved.network, "activation", "relu")
    layers = mlp.of_actor(learned["agent"].actor.params, activation, spec.action_size)
    if layers is None:
        return None
    mean = np.asarray(learned["statistics"].mean)
    std = np.maximum(np.sqrt(np.asarray(learned["statistics"].variance)), np.float32(1e-3))
    if train.normalize_observations:
        clip = np.float32(train.observation_clip)
        layers = [Layer("normalize", (mean, std, np.asarray(-clip), np.asarray(clip))), *layers]
    rows = mean + 2 * std * np.random.default_rng(0).normal(size=(16, mean.size)).astype(np.float32)
    with jax.default_matmul_precision("highest"):
        actions = np.asarray(jax.jit(jax.vmap(act))(rows))
    return layers if np.allclose(mlp.forward(layers, rows), actions, rtol=0, atol=TOLERANCE) else None


def _about(saved: RunConfig, spec: Spec, exported: jax_export.Exported) -> dict[str, Any]:
    """What the policy was made for, and how it is called."""
    return {
        "agent": saved.agent,
        "env": saved.env,
        "backend": saved.backend,
        "call": "jax.export.deserialize(bytearray(POLICY)).call(observation) -> action",
        "observation": {"shape": ["B", spec.observation_size], "dtype": "float32", "raw": True},
        "action": {"shape": ["B", spec.action_size], "dtype": "float32", "low": -1, "high": 1},
        "normalized": saved.train.normalize_observations,
        "platforms": list(exported.platforms),
        "calling_convention_version": exported.calling_convention_version,
        "versions": {"rlx": __version__} | summaries.origin()["versions"],
    }


def _zipped(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # names of arrays, not options
    return buffer.getvalue()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _free(out: Path) -> Path:
    """A name beside `out` that nothing has, or inside it where it is a folder without a name, such as `.`."""
    base = out if out.name.strip(".") else out / "policy"
    return next(name for i in itertools.count(2) if not (name := base.with_name(f"{base.name}-{i}")).exists())


def _write(out: Path, files: dict[str, bytes], about: dict[str, Any]) -> None:
    """The files, and last the one without which nothing is loaded."""
    try:
        out.mkdir(parents=True)
        for name, content in files.items():
            (out / name).write_bytes(content)
        json_files.write(out / ABOUT, about)
    except OSError as error:
        raise RlxError(f"{out}: cannot be written ({error.strerror or error}); choose another --out") from None


@dataclass(frozen=True)
class Policy:
    """An exported policy: call it with raw observations `[..., O]` to get actions `[..., A]` in [-1, 1]."""

    about: dict[str, Any]  # policy.json
    call: Callable[[Any], jax.Array]  # [B, O] -> [B, A], jitted

    def __call__(self, observation: Any) -> np.ndarray:
        """Raises RlxError for observations of another size."""
        rows = np.asarray(observation, np.float32)
        size, actions = (self.about[name]["shape"][1] for name in ("observation", "action"))
        if rows.shape[-1:] != (size,):
            raise RlxError(f"observations are {list(rows.shape)}: this policy reads {size} numbers, [..., {size}]")
        return np.asarray(self.call(rows.reshape(-1, size))).reshape(*rows.shape[:-1], actions)


def load(path: str | Path) -> Policy:
    """Reads what `save` wrote. Raises RlxError where it is missing, damaged, or of a jax that this one cannot read."""
    folder = Path(path)
    try:
        about = json.loads((folder / ABOUT).read_text())
        content, digest = (folder / POLICY).read_bytes(), about["files"][POLICY]["sha256"]
        made_with = about["versions"]["jax"]
    except (OSError, ValueError, KeyError, TypeError):
        raise RlxError(f"{folder}: holds no policy; give a folder that `rlx export` made") from None
    if about["format"] != FORMAT:
        raise RlxError(f"{folder}: was written by rlx {about['versions']['rlx']} in another format; use that version")
    if _digest(content) != digest:
        raise RlxError(f"{folder / POLICY}: is damaged; export it again")
    try:
        exported = jax_export.deserialize(bytearray(content))
        exported.mlir_module()  # only here does an old jax find that it is too old
    except (ValueError, RuntimeError):
        here = f"jax {jax.__version__} cannot read what jax {made_with} wrote"
        raise RlxError(f"{folder / POLICY}: {here}; use that version, or export it with this one") from None
    return Policy(about, jax.jit(exported.call))


def play(policy: Callable[[Any], np.ndarray], env: gymnasium.Env, episodes: int = 1, seed: int = 0) -> np.ndarray:
    """Returns `[episodes]` of a policy in any Gymnasium environment whose actions are a box.

    [-1, 1] is mapped to the box where it has bounds. Episode i starts from `reset(seed=seed + i)`.
    """
    import gymnasium

    box = env.action_space
    if not isinstance(box, gymnasium.spaces.Box):
        raise RlxError(f"actions are {box}: an exported policy plays where they are a Box")
    bounded = np.isfinite(box.low) & np.isfinite(box.high)
    low, high = np.where(bounded, box.low, -1), np.where(bounded, box.high, 1)
    returns = np.zeros(episodes)
    for i in range(episodes):
        observation, _ = env.reset(seed=seed + i)
        ended = False
        while not ended:
            action = policy(np.ravel(observation)).reshape(box.shape)
            native = (low + high) / 2 + (high - low) / 2 * action
            observation, reward, terminated, truncated, _ = env.step(native.astype(box.dtype))
            returns[i] += float(reward)
            ended = bool(terminated or truncated)
    return returns
