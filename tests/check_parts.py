"""Run by test_pipelined in a process of its own, on four devices: what members and roles see of an environment.

Parts of observations, randomised physics and parameters of members on a split equal the same iteration as one program,
and a resumed run on that split has the bits of one that was not interrupted.
"""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

import rlx
from tests.commands import TINY
from tests.test_observations import PARTS

SETTINGS = TINY | PARTS | {"actor_hidden_sizes": [8], "eval_every": 128, "driver": "pipelined", "num_shards": 2}


def fit(root: Path, name: str, split: str, steps: int = 256, **settings: Any) -> rlx.Result:
    where: dict[str, Any] = {"run_dir": root, "run_name": name, "progress": False}
    return rlx.fit("sac", "tests.drift:Drift", split=split, total_env_steps=steps, **SETTINGS, **settings, **where)


def main(root: Path) -> None:
    for name, settings in (
        ("drawn", {"randomize": ["delay=0:2"]}),
        ("members", {"num_seeds": 2, "env_params": ["=[-0.1,0.2]"]}),
    ):
        one, split = (fit(root, f"{name}-{text[0]}", text, **settings) for text in ("1", "2,1,1"))
        assert one.state.critic.step.tolist() == split.state.critic.step.tolist() != [0]
        for x, y in zip(*map(jax.tree.leaves, (one._snapshot, split._snapshot)), strict=True):
            np.testing.assert_allclose(x, y, rtol=2e-3, atol=1e-4)
        np.testing.assert_allclose(one.evaluation.returns, split.evaluation.returns, rtol=2e-3)
        assert (split.evaluation.nominal_returns is not None) == (name == "drawn")
        fit(root, f"{name}-begun", "2,1,1", 128, **settings)
        rlx.load(root / f"{name}-begun").continue_training(total_env_steps=256)
        once, resumed = (json.loads((root / f"{name}-{run}" / "summary.json").read_text()) for run in ("2", "begun"))
        assert once["digest"] == resumed["digest"]
    print("equal and resumed")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
