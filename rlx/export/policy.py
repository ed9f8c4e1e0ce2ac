"""Exports policies: an artefact that runs with jax alone, and plain NumPy layers where the policy is an MLP.

The exported policy maps raw observations to actions in [-1, 1]: weights, normalisation and clip are inside. Where the
greedy action is random (IDQL samples candidates), every row uses one fixed key, so the action depends on the
observation alone, whatever the batch and the day.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from rlx import __version__, config, json_files
from rlx.data import spaces
from rlx.data.limits import printable
from rlx.errors import RlxError, say
from rlx.export import bundle as bundles
from rlx.export import mlp
from rlx.export.mlp import Layer
from rlx.runs import checkpoint, origin, policies
from rlx.runs.policies import SavedPolicy
from rlx.train import acting

if TYPE_CHECKING:
    import gymnasium

FORMAT = 1
PLATFORMS = ("cpu", "cuda", "tpu")
POLICY, METADATA, ARRAYS, ONNX = "policy.jax", "policy.json", "policy.npz", "policy.onnx"
TOLERANCE = 1e-4  # on actions: policy.npz against the agent

Act = Callable[[Any], jax.Array]


def save(
    folder: Path, out: Path, step: int | None = None, member: int = 0, onnx: bool = False, bundle: bool = False
) -> dict[str, Any]:
    """Writes a run's greedy policy into the new folder `out`; returns the content of `policy.json`.

    See `write` for the files. Raises RlxError where there is no such run, checkpoint or member, too.
    """
    config.from_json(folder / "config.json")  # a missing run is reported before anything else
    _check_new(out)
    saved = policies.load(folder, [member], step)
    digest = checkpoint.manifest(folder / "checkpoints", saved.step)["digest"]
    return write(saved, out, member, onnx, bundle, folder.resolve().name, digest)


def _check_new(out: Path) -> None:
    if out.exists():
        raise RlxError(f"{out}: already exists; choose another --out, such as {_free_name(out)}")


def write(
    saved: SavedPolicy,
    out: Path,
    member: int = 0,
    onnx: bool = False,
    bundle: bool = False,
    run: str = "",
    digest: str = "",
) -> dict[str, Any]:
    """Writes a policy of one member into the new folder `out`; `run` and `digest` name its run and checkpoint.

    `policy.jax` is the policy. Where it is a plain MLP, `policy.npz` holds its layers, and so does `policy.onnx` if
    asked for. With `bundle` there is also what `rlx.export.bundle` lists, and ONNX where that is possible. Raises
    RlxError where `out` exists, or where ONNX is not possible.
    """
    _check_new(out)
    if onnx or bundle:
        mlp.check_onnx("--onnx" if onnx else "--bundle")
    if saved.task.agent.carry is not None:
        raise RlxError(
            f"{run or out}: {saved.config.agent} acts with a state of its own, which no exported file carries"
        )
    snapshot, spec = jax.tree.map(lambda x: x[0], saved.snapshot), saved.task.env.spec
    act = partial(acting.policy_action, saved.task, snapshot, key=jax.random.key(0))
    exported = export_function(act, spec.actor_size)
    layers = _layers(saved, snapshot, act)
    if layers is None:
        what = f"the policy of {saved.config.agent} is not a plain MLP"
        if onnx:
            raise RlxError(f"--onnx: {what}; leave out --onnx, {POLICY} holds any policy")
        say(f"rlx: {what}: {ARRAYS} is left out, {POLICY} holds it")
    files = {POLICY: bytes(exported.serialize())}
    if layers is not None:
        files[ARRAYS] = _npz(mlp.to_arrays(layers))
        if onnx or bundle:
            files[ONNX] = mlp.to_onnx(layers, spec.actor_size)
    if bundle:
        rows = np.asarray(spec.actor_observation(jnp.asarray(bundles.example_rows(snapshot["statistics"]))))
        with jax.default_matmul_precision("highest"):
            files |= bundles.files(saved.task.env, rows, act)
    seed_and_hypers = dict(saved.members[member])
    metadata = {
        "format": FORMAT,
        "run": run,
        "run_step": saved.step,
        "member": member,
        "members": len(saved.members),
        "seed": seed_and_hypers.pop("seed"),
        "hypers": seed_and_hypers,
        "checkpoint_digest": digest,
        **_interface(saved, exported),
        "layers": [layer.operation for layer in layers or []],
        "files": {name: {"bytes": len(file), "sha256": _digest(file)} for name, file in files.items()},
    }
    _write(out, files, metadata)
    return metadata


def export_function(act: Act, observation_size: int) -> jax_export.Exported:
    """A function of one observation `[O]` as an artefact for batches `[B, O]` of any size, on every platform."""
    (batch,) = jax_export.symbolic_shape("B")
    rows = jax.ShapeDtypeStruct((batch, observation_size), jnp.float32)
    return jax_export.export(jax.jit(jax.vmap(act)), platforms=PLATFORMS)(rows)


def _layers(saved: SavedPolicy, snapshot: Any, act: Act) -> list[Layer] | None:
    """The policy as plain layers; None where none of its networks, as an MLP with tanh, gives the agent's actions."""
    spec, train = saved.task.env.spec, saved.config.train
    activation = getattr(saved.config.network, "activation", "relu")
    statistics, normalize = snapshot["statistics"], list[Layer]()
    mean, variance = (np.asarray(spec.actor_observation(x)) for x in (statistics.mean, statistics.variance))
    std = np.maximum(np.sqrt(variance), np.float32(1e-3))
    if train.normalize_observations:
        clip = np.float32(train.observation_clip)
        normalize = [Layer("normalize", (mean, std, np.asarray(-clip), np.asarray(clip)))]
    rows = mean + 2 * std * np.random.default_rng(0).normal(size=(16, mean.size)).astype(np.float32)
    with jax.default_matmul_precision("highest"):
        actions = np.asarray(jax.jit(jax.vmap(act))(rows))
    policy = saved.task.agent.acting_params(snapshot["agent"])
    for params in mlp.networks_in(policy):
        layers = mlp.of_actor(params, activation, spec)
        if layers and np.allclose(mlp.forward([*normalize, *layers], rows), actions, rtol=0, atol=TOLERANCE):
            return [*normalize, *layers]
    return None


def _interface(saved: SavedPolicy, exported: jax_export.Exported) -> dict[str, Any]:
    """What the policy was trained for, and how it is called."""
    spec = saved.task.env.spec
    return {
        "agent": saved.config.agent,
        "env": saved.config.env,
        "backend": saved.config.backend,
        "env_args": list(saved.config.train.env_args),
        "wrappers": list(saved.config.train.wrappers),
        "call": "jax.export.deserialize(bytearray(POLICY)).call(observation) -> action",
        "observation": {"shape": ["B", spec.actor_size], "dtype": "float32", "raw": True}
        | ({"parts": list(spec.actor_parts)} if spec.actor_parts else {}),
        "action": {"shape": ["B", spec.action_size], "dtype": "float32", "low": -1, "high": 1},
        "normalized": saved.config.train.normalize_observations,
        "platforms": list(exported.platforms),
        "calling_convention_version": exported.calling_convention_version,
        "versions": {"rlx": __version__} | origin.describe()["versions"],
    }


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # names of arrays, not options
    return buffer.getvalue()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _free_name(out: Path) -> Path:
    """An unused name next to `out`, or inside it where `out` is a folder without a name, such as `.`."""
    base = out if out.name.strip(".") else out / "policy"
    return next(name for i in itertools.count(2) if not (name := base.with_name(f"{base.name}-{i}")).exists())


def _write(out: Path, files: dict[str, bytes], metadata: dict[str, Any]) -> None:
    """Writes the files into a new folder, which appears when it is complete."""
    try:
        with json_files.new_folder(out) as partial:
            for name, content in files.items():
                (partial / name).write_bytes(content)
            json_files.write(partial / METADATA, metadata)
    except OSError as error:
        raise RlxError(f"{out}: cannot be written ({error.strerror or error}); choose another --out") from None


@dataclass(frozen=True)
class Policy:
    """An exported policy: call it with raw observations `[..., O]` to get actions `[..., A]` in [-1, 1]."""

    metadata: dict[str, Any]  # policy.json
    call: Callable[[Any], jax.Array]  # [B, O] -> [B, A], jitted
    observation_size: int
    action_size: int

    def __call__(self, observation: Any) -> np.ndarray:
        """Raises RlxError for observations of another size."""
        rows, size = np.asarray(observation, np.float32), self.observation_size
        if rows.shape[-1:] != (size,):
            raise RlxError(f"observations are {list(rows.shape)}: this policy reads {size} numbers, [..., {size}]")
        return np.asarray(self.call(rows.reshape(-1, size))).reshape(*rows.shape[:-1], self.action_size)


def load(path: str | Path) -> Policy:
    """Reads what `save` wrote.

    Raises RlxError where it is missing, damaged, not an exported policy, or from a jax that this one cannot read.
    """
    folder = Path(path)
    try:
        metadata = json.loads(json_files.read_bytes(folder / METADATA))
        content, digest = json_files.read_bytes(folder / POLICY), metadata["files"][POLICY]["sha256"]
        sizes = tuple(metadata[name]["shape"][1] for name in ("observation", "action"))
        versions = {name: printable(metadata["versions"][name], 40) for name in ("rlx", "jax")}
        is_known = metadata["format"] == FORMAT
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise RlxError(f"{folder}: holds no policy; give a folder that `rlx export` made") from None
    if not is_known:
        raise RlxError(f"{folder}: was written by rlx {versions['rlx']} in another format; use that version")
    if _digest(content) != digest:
        raise RlxError(f"{folder / POLICY}: is damaged; export it again")
    try:
        exported = jax_export.deserialize(bytearray(content))
        exported.mlir_module()  # only here does an old jax notice that it is too old
        shapes = [tuple(aval.shape[1:]) for aval in (*exported.in_avals, *exported.out_avals)]
    except Exception:  # the parser of a foreign file may raise anything
        problem = f"jax {jax.__version__} cannot read what jax {versions['jax']} wrote"
        raise RlxError(f"{folder / POLICY}: {problem}; use that version, or export it with this one") from None
    if shapes != [(size,) for size in sizes]:
        raise RlxError(f"{folder / METADATA}: does not describe its {POLICY}; export it again")
    return Policy(metadata, jax.jit(exported.call), *sizes)


def play(policy: Callable[[Any], np.ndarray], env: gymnasium.Env, episodes: int = 1, seed: int = 0) -> np.ndarray:
    """Returns `[episodes]` of a policy in any Gymnasium environment whose actions are a box.

    [-1, 1] is mapped to the box as `rlx.data` maps a data set's actions from it. Episode i starts from
    `reset(seed=seed + i)`.
    """
    import gymnasium

    box = env.action_space
    if not isinstance(box, gymnasium.spaces.Box):
        raise RlxError(f"actions are {box}: an exported policy plays where they are a Box")
    centre, half = spaces.affine(box.low, box.high)
    returns = np.zeros(episodes)
    for i in range(episodes):
        observation, _ = env.reset(seed=seed + i)
        ended = False
        while not ended:
            action = policy(np.ravel(observation)).reshape(box.shape)
            native = centre + half * action
            observation, reward, terminated, truncated, _ = env.step(native.astype(box.dtype))
            returns[i] += float(reward)
            ended = bool(terminated or truncated)
    return returns
