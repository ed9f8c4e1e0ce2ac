"""Agents that learn from replay, beside SAC at equal steps: `python -m benchmarks.off_policy --only pendulum`.

On Pendulum with their presets, which were chosen there, and some with other networks; on the ant with SAC's settings
for it as far as an agent has them, which were searched for SAC alone. Rows that were made are kept in `--out`, as JSON
and as a page: the same command goes on where it was stopped.
"""

from __future__ import annotations

from typing import Any

from benchmarks.variants import PENDULUM, Group, known, main
from rlx import config
from rlx.agents.presets import sac

SAC_LIKE = ("sac", "tqc", "dsac", "dsac_t", "ace", "mdpo", "pmoe", "sac_flow", "redq", "crossq", "xqc", "flash_sac")
DETERMINISTIC = ("td3", "aro_ddpg", "pql", "fast_td3")
WIDE = {"residual": True, "actor_hidden_sizes": (64, 64), "critic_hidden_sizes": (128, 128, 128)}
VARIANTS = {  # settings, where there is more than the agent's name
    "sac_flow decoded": ("sac_flow", {"velocity": "decoded"}),
    "redq droq": ("redq", {"preset": "droq"}),
    "sac simba": ("sac", WIDE),
    "sac bro": ("sac", WIDE | {"residual_block": "bro", "kernel_init": "orthogonal"}),
}
ANT = ("sac", "tqc", "crossq", "xqc", "dsac_t", "fast_td3", "flash_sac")
CATEGORICAL = ("xqc", "fast_td3", "flash_sac")  # whose values have bounds that the ant's own rewards would pass


def on_ant(name: str) -> dict[str, Any]:
    """SAC's settings for the ant, as far as the agent has them."""
    settings = known(name, config.presets("sac", "brax:ant", None))
    return settings | {"normalize_rewards": True} if name in CATEGORICAL else settings


GROUPS = {
    "pendulum": Group(
        "Pendulum",
        {"env": PENDULUM, "eval_every": 2_000, "total_env_steps": 20_000},
        {name: (name, {}) for name in SAC_LIKE + DETERMINISTIC} | VARIANTS,
    ),
    "ant": Group(
        "Brax's ant",
        {"env": "brax:ant", "eval_every": 20_000, "total_env_steps": 160_000},
        {name: (name, on_ant(name)) for name in ANT},
        goal=2000.0,
        seeds=2,
    ),
    "two-optima": Group(
        "A bandit with two optima, a broad one that pays 0.7 and one of this width that pays 1",
        sac.SMALL
        | {"env": "benchmarks/two_optima.py:TwoOptima", "reward_scale": 1.0, "eval_every": 2_000}
        | {"actor_hidden_sizes": (16, 16), "eval_episodes": 4, "total_env_steps": 12_000},
        {f"{n}, {w}": (n, {"env_args": {"width": w}}) for w in (0.09, 0.07, 0.05) for n in ("sac", "pmoe")},
        goal=0.9,
        seeds=10,
    ),
}

if __name__ == "__main__":
    main(GROUPS, "off-policy", "Off-policy agents, beside SAC", __doc__)
