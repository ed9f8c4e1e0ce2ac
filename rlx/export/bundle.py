"""What a robot's computer needs in addition to a policy: a contract, example rows, and a runner without rlx.

The contract says what the numbers mean, as far as the environment describes them. The runner, `run_policy.py`, computes
actions with NumPy, onnxruntime or jax, whichever the policy has a file for, and checks itself on the example rows.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from rlx import json_files
from rlx.types import Env

CONTRACT, EXAMPLES, RUNNER = "contract.json", "examples.npz", "run_policy.py"
ROWS = 100  # of the examples


def contract(env: Env) -> dict[str, Any]:
    """Sizes, ranges, names, units and rates of what a policy reads and commands, as JSON; null where the environment
    does not say.

    An environment says so in an optional method `interface()`, a dictionary with any of the keys below "observation"
    and "action", and "control_dt" in seconds. A command to the robot is `offset + scale * action`.
    """
    spec = env.spec
    described: dict[str, Any] = getattr(env, "interface", dict)()
    observation = {"size": spec.actor_size, "names": None, "units": None, "history": 1}
    action = {"size": spec.action_size, "low": -1.0, "high": 1.0, "names": None, "units": None}
    action |= {"scale": None, "offset": None}
    content = {
        "observation": observation | described.get("observation", {}),
        "action": action | described.get("action", {}),
        "control_dt": described.get("control_dt"),
        "episode_length": spec.episode_length,
    }
    return json_files.plain(content)


def example_rows(statistics: Any) -> np.ndarray:
    """Observations `[ROWS, O]` as wide as the training run's, twice their standard deviation, so that clips are met."""
    mean, std = np.asarray(statistics.mean), np.sqrt(np.asarray(statistics.variance))
    noise = np.random.default_rng(0).normal(size=(ROWS, mean.size))
    return (mean + 2 * np.maximum(std, 1e-3) * noise).astype(np.float32)


def files(env: Env, observations: np.ndarray, actions: np.ndarray) -> dict[str, bytes]:
    """The files of a bundle in addition to the policy's; `actions` `[ROWS, A]` are the agent's at `observations`."""
    examples = io.BytesIO()
    np.savez(examples, observation=observations, action=actions)
    text = json.dumps(contract(env), indent=1, allow_nan=False)
    runner = (Path(__file__).parent / "runner.py").read_bytes()
    return {CONTRACT: text.encode(), EXAMPLES: examples.getvalue(), RUNNER: runner}
