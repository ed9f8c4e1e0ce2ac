"""Agents that learn from replay, beside SAC at equal steps: `python -m benchmarks.off_policy --only pendulum`.

On Pendulum with their presets, which were chosen there, and some with other networks; on Brax's tasks with SAC's
settings for them as far as an agent has them, which were searched for SAC alone. Rows that were made are kept in
`--out`, as JSON and as a page: the same command goes on where it was stopped.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks import tables
from benchmarks.variants import PENDULUM, Group, known, main
from rlx import config, statistics
from rlx.agents import flash_sac
from rlx.agents.presets import sac

SAC_LIKE = ("sac", "tqc", "dsac", "dsac_t", "ace", "mdpo", "pmoe", "sac_flow", "redq", "crossq", "xqc", "flash_sac")
DETERMINISTIC = ("td3", "aro_ddpg", "pql", "fast_td3")
BRO = {"residual": True, "residual_block": "bro", "kernel_init": "orthogonal"}
WIDE = {"residual": True, "actor_hidden_sizes": (64, 64), "critic_hidden_sizes": (128, 128, 128)}
VARIANTS = {  # settings, where there is more than the agent's name
    "sac_flow decoded": ("sac_flow", {"velocity": "decoded"}),
    "redq droq": ("redq", {"preset": "droq"}),
    "sac simba": ("sac", WIDE),
    "sac bro": ("sac", WIDE | BRO),
}
CATEGORICAL = ("xqc", "fast_td3", "flash_sac")  # whose values have bounds that a robot's own rewards would pass
NARROW = {"actor_hidden_sizes": (48, 48), "critic_hidden_sizes": (48, 48)}  # blocks with the parameters of 128 128
MDPO = {"refresh_every": 100, "divergence_weight": 0.2}  # where its defaults are 1,000 and 1
FLASH_RATES = {"tau": 0.01, "schedule": "cosine", "final_lr_fraction": 0.5, "max_return": 5.0}
FLASH_POLICY = {"log_std_map": "tanh", "target_entropy_per_action": flash_sac.Hypers().target_entropy_per_action}


def on_robot(env: str, agent: str, **changes: Any) -> tuple[str, dict[str, Any]]:
    """The agent with SAC's settings for a task of Brax, as far as it has them, and with changes."""
    settings = known(agent, config.presets("sac", env, None))
    scaled = {"normalize_rewards": True} if agent in CATEGORICAL else {}
    return agent, settings | scaled | changes


def robot(
    name: str, goal: float, others: dict[str, tuple[str, dict[str, Any]]] | None = None, steps: int = 160_000
) -> Group:
    """Agents on a task of Brax; `others` are rows of their own."""
    env = f"brax:{name}"
    agents = ("sac", "tqc", "crossq", "xqc", "dsac_t", "fast_td3", "mdpo", "ace")
    rows = {agent: on_robot(env, agent) for agent in agents}
    rows |= {
        "flash_sac 48 48": on_robot(env, "flash_sac", **NARROW),
        "sac bro 48 48": on_robot(env, "sac", **BRO, **NARROW),
        "mdpo as on Pendulum": on_robot(env, "mdpo", **MDPO),
    }
    common = {"env": env, "eval_every": 20_000, "total_env_steps": steps}
    return Group(f"Brax's {name}", common, rows | (others or {}), goal=goal)


def flash(**changes: Any) -> tuple[str, dict[str, Any]]:
    return on_robot("brax:ant", "flash_sac", **changes)


# from CrossQ to FlashSAC, one part after the other
PARTS = {
    "crossq, scaled rewards": on_robot("brax:ant", "crossq", normalize_rewards=True),
    "xqc, FlashSAC's rates": on_robot("brax:ant", "xqc", **FLASH_RATES),
    "xqc, FlashSAC's rates and policy": on_robot("brax:ant", "xqc", **FLASH_RATES, **FLASH_POLICY),
    "flash_sac 48 48, new noise each step": flash(**NARROW, max_hold=1),
    "flash_sac": flash(),
}
UNENDING = {  # the task never ends early, so that reward per step is what its return tells
    "aro_ddpg": on_robot("brax:halfcheetah", "aro_ddpg"),
    "ppo": ("ppo", {}),
}


GROUPS = {
    "pendulum": Group(
        "Pendulum",
        {"env": PENDULUM, "eval_every": 2_000, "total_env_steps": 20_000},
        {name: (name, {}) for name in SAC_LIKE + DETERMINISTIC} | VARIANTS,
    ),
    "ant": robot("ant", 2000.0, PARTS),
    "walker2d": robot("walker2d", 1000.0),
    "halfcheetah": robot("halfcheetah", 1500.0, UNENDING),
    "hopper": robot("hopper", 1000.0, steps=80_000),
    "humanoid": robot("humanoid", 1000.0),
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

ROBOTS = ("ant", "halfcheetah", "hopper", "walker2d", "humanoid")


def overview(made: dict[str, Any]) -> list[str]:
    """All robots in one table: interquartile means of the seeds' final returns, and their mean ratio to SAC's."""
    tasks = [made[name] for name in ROBOTS if name in made]
    if len(tasks) < len(ROBOTS):
        return []
    agents = [row for row in tasks[0] if all(row in rows for rows in tasks)]
    finals = {
        agent: [float(statistics.interquartile_mean(rows[agent]["returns"][-1])) for rows in tasks] for agent in agents
    }
    lines = [tables.line(["", *ROBOTS, "over SAC's"]), tables.line(["---"] * (len(ROBOTS) + 2))]
    for agent, final in sorted(finals.items(), key=lambda item: -over_sac(item[1], finals["sac"])):
        lines.append(tables.line([agent, *(f"{x:.0f}" for x in final), f"{over_sac(final, finals['sac']):.2f}"]))
    seeds = {len(rows[agent]["returns"][-1]) for rows in tasks for agent in agents}
    count = f"{min(seeds)}" if len(seeds) == 1 else f"{min(seeds)} to {max(seeds)}"
    what = f"Final returns, interquartile means over {count} seeds, and the mean of their ratios to SAC's."
    return ["## Five robots of Brax\n\n" + what + "\n\n" + "\n".join(lines) + "\n"]


def over_sac(finals: list[float], of_sac: list[float]) -> float:
    return float(np.mean(np.divide(finals, of_sac)))


if __name__ == "__main__":
    main(GROUPS, "off-policy", "Off-policy agents, beside SAC", __doc__, overview)
