"""PPO's variants beside it at equal steps: `python -m benchmarks.on_policy --only objectives`.

With presets where nothing else is said. Rows that were made are kept in `--out`, as JSON and as a page: the same
command goes on where it was stopped.
"""

from __future__ import annotations

from typing import Any

from benchmarks.learn_settings import SETTINGS
from benchmarks.variants import PENDULUM, Group, known, main

COMMON = {"env": PENDULUM, "eval_every": 20_000}


def layers(number: int) -> dict[str, Any]:
    """Networks of so many layers of 64."""
    return {name: (64,) * number for name in ("actor_hidden_sizes", "critic_hidden_sizes")}


def batches(factor: float, rule: bool) -> dict[str, Any]:
    """Minibatches of `factor` times the preset's 256, with the settings adapted to them by PPO-EWMA's rule or not."""
    return {"batch_size": int(256 * factor)} | ({"batch_factor": factor} if rule else {})


def physics(task: str, goal: float) -> Group:
    """Objectives on a task of Brax, with PPO's settings for a CPU."""
    settings = SETTINGS["rlx-ppo-cpu", task]
    rows = {name: (name, known(name, settings)) for name in ("ppo", "lpo", "spo")}
    return Group(f"objectives on Brax's {task}", {"env": f"brax:{task}"}, rows, goal)


GROUPS = {
    "objectives": Group(
        "objectives on Pendulum", COMMON, {name: (name, {}) for name in "ppo lpo spo ppo_ewma".split()}
    ),
    "batches": Group(
        "batches on Pendulum",
        COMMON,
        {
            f"ppo_ewma, batches x{factor:g}{'' if rule else ', without the rule'}": ("ppo_ewma", batches(factor, rule))
            for rule in (True, False)
            for factor in (0.25, 4, 8)  # of 2,048 rows in a block, all
        },
    ),
    "layers": Group(
        "layers on Pendulum",
        COMMON,
        {f"{name}, {n} layers": (name, layers(n)) for n in (7, 5, 3) for name in ("ppo", "spo")},
    ),
    "inverted_double_pendulum": physics("inverted_double_pendulum", 1200.0),
    "ant": physics("ant", 2000.0),
}

if __name__ == "__main__":
    main(GROUPS, "on-policy", "PPO and its variants", __doc__)
