"""How to train, whatever the agent: the settings that every driver shares."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rlx.data.trajectories import TRAJECTORY_WEIGHTS
from rlx.envs.base import MAX_MAGNITUDE
from rlx.types import COUNT, POSITIVE, SHARE, setting

MOST = 2**31 - 1  # what the counters on the device, int32, can count
LARGEST = 1e18  # of --max-magnitude: its square is finite in float32
STEPS = (0, math.inf)  # of the environment, or updates
SEEDS = (0, 2**32 - 1)


@dataclass(frozen=True)
class TrainConfig:
    """Settings of the training loop. A vector step is one step of every environment at once."""

    driver: str = setting(
        "fused",
        "fused: one sequential program; pipelined: three roles at once, one iteration apart",
        choices=("fused", "pipelined"),
    )
    split: str = setting(
        "1", "pipelined: devices that collect, learn values, learn policies, as 2,1,1; 1: one program; auto"
    )
    depth: int = setting(3, "pipelined: iterations in flight, 2 to 4", within=(2, 4))
    dataset: str = setting("", "data set, a file or folder as for `rlx data info`; several separated by commas")
    dataset_shares: str = setting("", "shares of several data sets in what is drawn of them, as 0.3,0.7 (empty: equal)")
    offline_steps: int = setting(
        0,
        "updates on data alone before the first environment step, of the critic (of the actor at a ratio of 0:N)",
        within=STEPS,
    )
    offline_fraction: float = setting(
        0.5, "share of data in each minibatch of the steps in the environment, 0 to 1", within=SHARE
    )
    offline_ratio: str = setting("", "critic:actor updates of the offline part (empty: as --ratio)")
    scale_rewards: str = setting(
        "none", "none; range: by 1000 / (highest - lowest return of the data set's episodes)", choices=("none", "range")
    )
    trajectory_weights: str = setting(
        "none",
        "how often a data set's episodes are drawn: none: alike; return: by the softmax of their returns; advantage: of"
        " their returns less those that a linear function of their first observations predicts",
        choices=TRAJECTORY_WEIGHTS,
    )
    trajectory_temperature: float = setting(
        0.1, "temperature of that softmax; returns are scaled to the range 0 to 1", within=(1e-3, math.inf)
    )
    reward_shift: float = setting(0.0, "added to every reward, of the data set and of the environment")
    action_clip: float = setting(1.0, "the data set's actions are clipped to +- this", within=(1e-6, 1.0))
    env_args: tuple[str, ...] = setting(
        (), "settings of the environment, such as episode_length=500 or arguments of its class, name=value"
    )
    env_params: tuple[str, ...] = setting(
        (),
        "parameters of the environment's physics, such as gymnax's, name=value; a list of values is one for each"
        " member, as g=[9,10,11] (see rlx.envs.env_params)",
    )
    wrappers: tuple[str, ...] = setting(
        (),
        "wrappers of the environment, the first innermost, such as action_repeat:2 history:3, or none to leave out"
        " those of a preset (see rlx.envs.wrappers)",
    )
    randomize: tuple[str, ...] = setting(
        (),
        "physics drawn at every reset: factors such as mass=0.8:1.2 friction=0.5:1.5, a delay of actions in steps such"
        " as delay=0:2, or a randomization_fn, file.py:name (see rlx.envs.randomization)",
    )
    actor_observation: tuple[str, ...] = setting(
        (), "parts of the observation that policies read (default: state where there is one, else all)"
    )
    critic_observation: tuple[str, ...] = setting(
        (), "parts of the observation that critics read, such as state privileged_state (default: as policies)"
    )
    num_envs: int = setting(128, "environments stepped at once, per seed", within=COUNT)
    total_env_steps: int = setting(
        1_000_000, "environment steps to train for, per seed, rounded up to full iterations", within=STEPS
    )
    warmup_env_steps: int = setting(
        5_000, "environment steps before the first update, with `--warmup-actions`", within=STEPS
    )
    warmup_actions: str = setting(
        "random",
        "who acts in the warm-up: random actions, or the policy, such as one of `--init-from`; after"
        " updates on data it is always the policy",
        choices=("random", "policy"),
    )
    ratio: str = setting("16:16", "critic:actor updates per vector step")
    epochs: int = setting(
        0,
        "passes of an on-policy agent over each block, in minibatches without replacement (0: off-policy, from replay)",
        within=(0, COUNT[1]),
    )
    history_blocks: int = setting(
        1, "blocks that an on-policy agent's passes are over, with learning from the first full ones on", within=COUNT
    )
    batch_size: int = setting(256, "transitions in a minibatch", within=(1, MOST))
    rollout_length: int = setting(
        1,
        "vector steps collected between bursts of updates (K; the iteration of the pipeline; on-policy, the block)",
        within=COUNT,
    )
    replay_capacity: int = setting(1_000_000, "transitions that replay holds, per seed", within=(1, math.inf))
    replay_dtype: str = setting(
        "float32",
        "storage of observations and actions: float32 or bfloat16",
        choices=("float32", "bfloat16", "float64"),
    )
    n_step: int = setting(1, "steps folded into a learning target", within=COUNT)
    normalize_observations: bool = setting(True, "normalise observations by running statistics")
    observation_clip: float = setting(10.0, "normalised observations are clipped to +- this", within=(1e-6, math.inf))
    mirror_observation: tuple[int, ...] = setting(
        (), "mirror symmetry: for each number of an observation the one in its place, from 1, a minus turns the sign"
    )
    mirror_action: tuple[int, ...] = setting((), "the same of an action; minibatches get their mirrored rows as well")
    normalize_rewards: bool = setting(
        False, "divide rewards in the learning targets by the running standard deviation of discounted returns"
    )
    max_return: float = setting(
        0.0,
        "and by more where the largest return so far would still exceed this (G_max; 0: no limit)",
        within=POSITIVE,
    )
    noise_min: float = setting(
        0.0,
        "exploration noise of the first environment, standard deviation in action units",
        within=POSITIVE,
        up_to="noise_max",
    )
    noise_max: float = setting(
        0.0, "exploration noise of the last environment; evenly spaced between (0: none)", within=POSITIVE
    )
    noise_hold: int = setting(1, "steps that an environment keeps one draw of its exploration noise", within=COUNT)
    pool_size: int = setting(
        128, "initial states that auto-reset draws from, per seed, refreshed at every log point", within=COUNT
    )
    eval_every: int = setting(
        0, "steps between evaluations, of the environment or updates offline (0: a tenth)", within=STEPS
    )
    eval_episodes: int = setting(32, "greedy episodes per evaluation and seed", within=COUNT)
    eval_seed: int = setting(
        1_000_003, "seed of the evaluation's starts, the same for every run unless changed", within=SEEDS
    )
    log_every: int = setting(0, "steps between log lines, likewise (0: a fiftieth)", within=STEPS)
    checkpoint_every: int = setting(
        0, "steps between checkpoints of everything, likewise (0: at every evaluation)", within=STEPS
    )
    checkpoint_dir: str = setting("", "folder, gs:// or s3:// for checkpoints of everything (default: the run folder)")
    keep: int = setting(
        2, "checkpoints of everything to keep, the newest; policies of evaluations are all kept", within=COUNT
    )
    checkpoint_replay: bool = setting(True, "save replay, too: without, a resumed run collects a new one first")
    tensorboard: bool = setting(False, "metrics as event files, too, in the run folder's tensorboard/")
    wandb: bool = setting(
        False, "metrics to Weights & Biases, too (the extra wandb); WANDB_MODE=offline needs no network"
    )
    on_nonfinite: str = setting(
        "stop",
        "NaN or infinity: stop; reset-env: restart a diverged environment; skip: that, and leave out bad updates",
        choices=("stop", "skip", "reset-env"),
    )
    max_magnitude: float = setting(
        MAX_MAGNITUDE,
        "observations and rewards beyond +- this have diverged and are dealt with as NaN is; lower it where the"
        " environment's own numbers are known to be smaller",
        within=(1e-6, LARGEST),
    )
    deterministic: bool = setting(False, "make a GPU give the same bits every time; slower (a CPU always does)")
    seed: int = setting(0, "first seed", within=SEEDS)
    num_seeds: int = setting(1, "training runs at once: seeds seed, seed + 1, ...", within=COUNT)
    num_devices: int = setting(1, "devices to train on", within=COUNT)
    spread: str = setting(
        "data", "what several devices share out: data (environments and batches) or seeds", choices=("data", "seeds")
    )
    members: str = setting(
        "auto",
        "several members on one device: vmap; threads: one thread a member; auto: threads on a CPU",
        choices=("auto", "vmap", "threads"),
    )
    num_shards: int = setting(
        0, "logical shards of environments, replay and batch (0: one for each device)", within=(0, COUNT[1])
    )

    @property
    def offline_only(self) -> bool:
        """Whether no step is made in the environment."""
        return self.total_env_steps == 0

    @property
    def datasets(self) -> list[str]:
        """The data sets, in order: number 1, 2, ... of the column "source"."""
        return [path for path in self.dataset.split(",") if path]
