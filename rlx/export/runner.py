"""Runs the policy in this folder with NumPy, onnxruntime or jax: `python run_policy.py` checks it on its examples.

It needs nothing of rlx. On the robot: `policy = Policy()`, `policy.reset()` when an episode begins, and once a control
step `action = policy.step(observation)` or `policy.command(observation)`.
"""

import json
import sys
import time
from collections import deque
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
TOLERANCE = 1e-4  # on actions
EPSILON = 1e-6  # of layer_norm
LAYERS: dict = {
    "normalize": lambda x, mean, std, low, high: np.clip((x - mean) / std, low, high),
    "dense": lambda x, kernel, bias: x @ kernel + bias,
    "layer_norm": lambda x, scale, bias: (
        (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + EPSILON) * scale + bias
    ),
    "relu": lambda x: np.maximum(x, 0),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "gelu": lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "swish": lambda x: x / 2 * (1 + np.tanh(x / 2)),
    "tanh": np.tanh,
}


def of_numpy():
    layers = json.loads((HERE / "policy.json").read_text())["layers"]
    with np.load(HERE / "policy.npz") as stored:
        arrays = [[stored[f"{i}.{j}"] for j in range(9) if f"{i}.{j}" in stored] for i in range(len(layers))]

    def act(x):
        for name, weights in zip(layers, arrays, strict=True):
            x = LAYERS[name](x, *weights)
        return x

    return act


def of_onnx():
    import onnxruntime

    session = onnxruntime.InferenceSession(str(HERE / "policy.onnx"), providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"observation": x})[0]


def of_jax():
    import jax
    from jax import export

    return jax.jit(export.deserialize(bytearray((HERE / "policy.jax").read_bytes())).call)


BACKENDS = {"numpy": (of_numpy, "policy.npz"), "onnx": (of_onnx, "policy.onnx"), "jax": (of_jax, "policy.jax")}


class Policy:
    """Raw observations to actions in [-1, 1]; `command` gives them in the robot's units.

    `step` takes one observation and remembers those before as far as the policy reads them (the contract's `columns`
    and `lags`); a call takes all that the policy reads at once, `[O]` or `[B, O]`.
    """

    def __init__(self, backend=None):
        self.backend = backend or next(name for name, (_, file) in BACKENDS.items() if (HERE / file).exists())
        self.act, self.contract = BACKENDS[self.backend][0](), json.loads((HERE / "contract.json").read_text())
        self.reset()

    def reset(self):
        self.time = 0
        self.rows: deque = deque(maxlen=1 + max(self.contract["observation"]["lags"] or [0]))

    def step(self, observation):
        reads = self.contract["observation"]
        if reads["columns"] is None:
            return self(observation)
        row = np.asarray(observation, np.float32)
        if row.shape != (reads["single_size"],):
            raise ValueError(f"an observation is {reads['single_size']} numbers, this one has the shape {row.shape}")
        self.rows.append(np.append(row, np.float32(self.time / (reads["time_limit"] or 1))))
        self.time, newest = self.time + 1, len(self.rows) - 1
        pairs = zip(reads["columns"], reads["lags"], strict=True)
        return self([self.rows[max(newest - lag, 0)][column] for column, lag in pairs])

    def __call__(self, observation):
        rows, size = np.asarray(observation, np.float32), self.contract["observation"]["size"]
        if rows.shape[-1:] != (size,) or not np.isfinite(rows).all():
            raise ValueError(f"an observation is {size} finite numbers, this one has the shape {rows.shape}")
        action = np.asarray(self.act(np.atleast_2d(rows)))
        return action if rows.ndim > 1 else action[0]

    def command(self, observation):
        action = self.contract["action"]
        if action["scale"] is None:
            raise ValueError("the contract has no scale and offset of actions: fill them in")
        return np.asarray(action["offset"]) + np.asarray(action["scale"]) * self.step(observation)


def check(policy):
    """The largest difference to the actions that the agent took, and seconds an action takes."""
    with np.load(HERE / "examples.npz") as examples:
        observations, actions = examples["observation"], examples["action"]
        episode = [examples[name] for name in ("episode_observation", "episode_action") if name in examples]
    policy.reset()
    steps = [np.abs(policy.step(row) - action).max() for row, action in zip(*episode, strict=True)] if episode else [0]
    policy.reset()
    worst, begun = float(np.abs(policy(observations) - actions).max()), time.perf_counter()
    for row in observations:
        policy(row)
    return max(worst, *map(float, steps)), (time.perf_counter() - begun) / len(observations)


def chosen(backend=None):
    """The policy on a backend that the command names; ends with 2, in one line, where it cannot be."""
    here = [name for name, (_, file) in BACKENDS.items() if (HERE / file).exists()]
    others = " or ".join(name for name in here if name != (backend or here[0])) or "none"
    try:
        if backend is None or backend in here:
            return Policy(backend)
        problem = f"this policy has no file for the backend {backend}"
    except ImportError as error:
        problem = f"the package {error.name or error} is missing: install it"
    print(f"{problem}; other backends here: {others}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    policy = chosen(*sys.argv[1:2])
    worst, seconds = check(policy)
    print(f"{policy.backend}: largest difference {worst:.1e} in 100 rows, {1e6 * seconds:.0f} microseconds an action")
    sys.exit(worst > TOLERANCE)
