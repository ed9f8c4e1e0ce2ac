"""What `make bench-learn` runs: the tasks, how long each side has, and each side's settings.

Sides of rlx train with the presets that `rlx train` takes for their task. Brax's sides have the settings of Brax's own
training notebook: PPO for most tasks, SAC for hopper and walker2d. On those two PPO takes halfcheetah's; elsewhere SAC
takes what was searched for the ant (benchmarks/README.md), with the reward scale and the discount of the task's PPO.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from rlx.agents.presets.ppo import PRESETS, ROBOT


class Task(NamedTuple):
    """One environment: minutes of processor time for each run, and the return whose first sight is timed."""

    env: str
    minutes: float
    goal: float
    eval_every: int  # environment steps of rlx between evaluations


TASKS = {
    "ant": Task("brax:ant", 5, 2000.0, 20_000),
    "halfcheetah": Task("brax:halfcheetah", 5, 2600.0, 20_000),
    "hopper": Task("brax:hopper", 10, 1500.0, 40_000),
    "walker2d": Task("brax:walker2d", 10, 1500.0, 40_000),
    "humanoid": Task("brax:humanoid", 10, 2000.0, 20_000),
    "humanoidstandup": Task("brax:humanoidstandup", 5, 15_000.0, 20_000),
    "reacher": Task("brax:reacher", 5, -10.0, 20_000),
    "pusher": Task("brax:pusher", 5, -400.0, 20_000),
    "inverted_pendulum": Task("brax:inverted_pendulum", 5, 999.0, 10_000),
    "inverted_double_pendulum": Task("brax:inverted_double_pendulum", 5, 9000.0, 20_000),
    "Pendulum-v1": Task("gymnax:Pendulum-v1", 2, -200.0, 5_000),
    "MountainCarContinuous-v0": Task("gymnax:MountainCarContinuous-v0", 2, 90.0, 10_000),
}

LONG = 100_000_000  # steps that nobody reaches: runs end by the clock
PPO = {"num_timesteps": LONG, "num_evals": 200}
BRAX_PPO: dict[str, dict[str, Any]] = {
    "ant": {"num_envs": 4096, "batch_size": 2048, "reward_scaling": 10, "discounting": 0.97}
    | {"unroll_length": 5, "num_updates_per_batch": 4, "entropy_cost": 1e-2},
    "humanoid": {"num_envs": 2048, "batch_size": 1024, "reward_scaling": 0.1, "discounting": 0.97}
    | {"unroll_length": 10, "num_updates_per_batch": 8, "entropy_cost": 1e-3},
    "halfcheetah": {"num_envs": 2048, "batch_size": 512, "reward_scaling": 1, "discounting": 0.95}
    | {"unroll_length": 20, "num_updates_per_batch": 8, "entropy_cost": 1e-3},
    "humanoidstandup": {"num_envs": 2048, "batch_size": 1024, "reward_scaling": 0.1, "discounting": 0.97}
    | {"unroll_length": 15, "num_updates_per_batch": 8, "entropy_cost": 1e-2, "learning_rate": 6e-4},
    "reacher": {"num_envs": 2048, "batch_size": 256, "reward_scaling": 5, "discounting": 0.95, "action_repeat": 4}
    | {"unroll_length": 50, "num_updates_per_batch": 8, "entropy_cost": 1e-3},
    "pusher": {"num_envs": 2048, "batch_size": 512, "reward_scaling": 5, "discounting": 0.95}
    | {"unroll_length": 30, "num_updates_per_batch": 8, "entropy_cost": 1e-2, "num_minibatches": 16},
    "inverted_pendulum": {"num_envs": 2048, "batch_size": 1024, "reward_scaling": 10, "discounting": 0.97}
    | {"unroll_length": 5, "num_updates_per_batch": 4, "entropy_cost": 1e-2, "backend": "generalized"},  # as rlx has it
    "inverted_double_pendulum": {"num_envs": 2048, "batch_size": 1024, "reward_scaling": 10, "discounting": 0.97}
    | {"unroll_length": 5, "num_updates_per_batch": 4, "entropy_cost": 1e-2},
}
BRAX_PPO = {task: {"num_minibatches": 32, "learning_rate": 3e-4} | its for task, its in BRAX_PPO.items()}
BRAX_PPO |= {"hopper": BRAX_PPO["halfcheetah"], "walker2d": BRAX_PPO["halfcheetah"]}

SAC = {"num_timesteps": LONG // 10, "num_evals": 501}  # of ten million: an evaluation every 20,000 steps
ANT = {"num_envs": 256, "grad_updates_per_step": 64, "batch_size": 256, "hidden_layer_sizes": [128, 128]} | {
    "learning_rate": 1e-3,
    "tau": 0.02,
}
BRAX_SAC: dict[str, dict[str, Any]] = {
    "hopper": {"num_envs": 128, "grad_updates_per_step": 64, "batch_size": 512, "learning_rate": 6e-4}
    | {"reward_scaling": 30, "discounting": 0.997, "tau": 0.005, "max_replay_size": 2**20},
    "walker2d": {"num_envs": 128, "grad_updates_per_step": 32, "batch_size": 128, "learning_rate": 6e-4}
    | {"reward_scaling": 5, "discounting": 0.997, "tau": 0.005, "max_replay_size": 2**20},
}
for _task, _ppo in BRAX_PPO.items():
    _same = {name: _ppo[name] for name in ("reward_scaling", "discounting", "action_repeat", "backend") if name in _ppo}
    BRAX_SAC.setdefault(_task, ANT | _same)

SETTINGS: dict[tuple[str, str], dict[str, Any]] = {
    ("rlx-pql-4096", "ant"): {"preset": "4096", "eval_every": 500_000},
    ("rlx-pql-4096", "humanoid"): {"preset": "4096", "eval_every": 500_000},
}
for _name, _of in TASKS.items():
    _long = {"eval_every": _of.eval_every, "total_env_steps": LONG // 10}
    SETTINGS |= {(f"rlx{agent}", _name): _long for agent in ("", "-tqc", "-pql", "-ppo")}
for _name in ("ant", "halfcheetah", "humanoid"):  # beside Brax's PPO, with its settings and as rarely evaluated
    SETTINGS["rlx-ppo-brax", _name] = {"preset": "brax", "eval_every": 600_000, "total_env_steps": LONG}
CPU_PPO: dict[str, dict[str, Any]] = {  # rlx's presets for a CPU, which both sides of `-ppo-cpu` have
    "ant": PRESETS["brax:ant"] | {"total_env_steps": 1_507_328, "eval_every": 172_032},
    "halfcheetah": PRESETS["brax:halfcheetah"] | {"total_env_steps": 638_976, "eval_every": 106_496},
    "inverted_double_pendulum": {"entropy_cost": 1e-2, "reward_scale": 0.1, "total_env_steps": 983_040}
    | {"eval_every": 98_304},
}


def both_ppos(own: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """One PPO in the words of rlx and of Brax, whose minibatches count unrolls."""
    rlx = ROBOT | {"epochs": 4, "reward_scale": 1.0} | own
    block = rlx["num_envs"] * rlx["rollout_length"]
    brax = {
        "num_envs": rlx["num_envs"],
        "unroll_length": rlx["rollout_length"],
        "batch_size": rlx["batch_size"] // rlx["rollout_length"],
        "num_minibatches": block // rlx["batch_size"],
        "num_updates_per_batch": rlx["epochs"],
        "learning_rate": rlx["actor_lr"],
        "clipping_epsilon": rlx["clip_range"],
        "discounting": rlx["gamma"],
        "reward_scaling": rlx["reward_scale"],
        "entropy_cost": rlx["entropy_cost"],
        "num_timesteps": rlx["total_env_steps"],
        "num_evals": rlx["total_env_steps"] // rlx["eval_every"] + 1,
        "policy_hidden_layer_sizes": rlx["actor_hidden_sizes"],
        "value_hidden_layer_sizes": rlx["critic_hidden_sizes"],
    }
    return rlx, brax


for _name, _own in CPU_PPO.items():
    SETTINGS["rlx-ppo-cpu", _name], SETTINGS["brax-ppo-cpu", _name] = both_ppos(_own)
SETTINGS |= {("brax-ppo", task): PPO | settings for task, settings in BRAX_PPO.items()}
SETTINGS |= {("brax-sac", task): SAC | settings for task, settings in BRAX_SAC.items()}

REHEARSED: dict[
    str, dict[str, Any]
] = {  # only to see that a side runs: two evaluations, of an agent that knows nothing
    "rlx": {"num_envs": 16, "batch_size": 16, "replay_capacity": 4096, "warmup_env_steps": 64, "total_env_steps": 128}
    | {"eval_every": 64, "eval_episodes": 2},
    "brax": {"num_envs": 16, "batch_size": 16, "num_minibatches": 2, "num_timesteps": 640, "num_evals": 3}
    | {"num_eval_envs": 2},
}
