"""How to train, whatever the agent: the settings that every driver shares, and the sizes that follow from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from rlx.envs.base import MAX_MAGNITUDE
from rlx.errors import RlxError
from rlx.types import COUNT, POSITIVE, SHARE, setting

MOST = 2**31 - 1  # what the counters on the device, int32, can count
REPORTED = 2**24  # iterations that one report, sums of float32, can count
LARGEST = 1e18  # of --max-magnitude: its square is finite in float32
STEPS = (0, math.inf)  # of the environment, or updates
SEEDS = (0, 2**32 - 1)
LOG_LINES = 1_000_000  # of a run, at most


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
    dataset: str = setting("", "data set to learn from first, a file or folder as for `rlx data info`")
    offline_steps: int = setting(0, "critic updates on the data set, before the first environment step", within=STEPS)
    offline_fraction: float = setting(
        0.5, "share of the data set in each minibatch of the steps that follow, 0 to 1", within=SHARE
    )
    scale_rewards: str = setting(
        "none", "none; range: by 1000 / (highest - lowest return of the data set's episodes)", choices=("none", "range")
    )
    reward_shift: float = setting(0.0, "added to every reward, of the data set and of the environment")
    action_clip: float = setting(1.0, "the data set's actions are clipped to +- this", within=(1e-6, 1.0))
    num_envs: int = setting(128, "environments stepped at once, per seed", within=COUNT)
    total_env_steps: int = setting(
        1_000_000, "environment steps to train for, per seed, rounded up to whole iterations", within=STEPS
    )
    warmup_env_steps: int = setting(
        5_000, "environment steps with random actions before the first update", within=STEPS
    )
    ratio: str = setting("16:16", "critic:actor updates per vector step")
    batch_size: int = setting(256, "transitions in a minibatch", within=(1, MOST))
    rollout_length: int = setting(
        1, "vector steps collected between bursts of updates (K; the iteration of the pipeline)", within=COUNT
    )
    replay_capacity: int = setting(1_000_000, "transitions kept for replay, per seed", within=(1, math.inf))
    replay_dtype: str = setting(
        "float32",
        "storage of observations and actions: float32 or bfloat16",
        choices=("float32", "bfloat16", "float64"),
    )
    n_step: int = setting(1, "steps folded into a learning target", within=COUNT)
    normalize_observations: bool = setting(True, "normalise observations by running statistics")
    observation_clip: float = setting(10.0, "normalised observations are clipped to +- this", within=(1e-6, math.inf))
    noise_min: float = setting(
        0.0, "exploration noise of the first environment, standard deviation in action units", within=POSITIVE
    )
    noise_max: float = setting(
        0.0, "exploration noise of the last environment; evenly spaced between (0: none)", within=POSITIVE
    )
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


class Plan(NamedTuple):
    """The whole numbers that follow from a TrainConfig, for its online or its offline part.

    An iteration is `rollout_length` vector steps with their updates; offline, the updates alone.
    """

    critic_updates: int  # per vector step
    actor_updates: int  # per vector step
    iterations: int  # in the part
    warmup_iterations: int
    log_iterations: int  # between log points
    eval_iterations: int  # between evaluations
    checkpoint_iterations: int  # between checkpoints
    iteration_env_steps: int  # environment steps an iteration makes, per seed; 0 offline
    iteration_critic_steps: int
    iteration_actor_steps: int
    prior_iterations: int  # of the offline part, where this is the online one
    slots: int  # of the replay ring; 0 offline
    shards: int  # logical shards in all
    shard_envs: int
    shard_batch: int
    shard_offline: int  # of `shard_batch`, how many are drawn from the data set
    shard_pool: int

    @property
    def offline(self) -> bool:
        """Whether this part learns from the data set alone."""
        return self.iteration_env_steps == 0

    def steps(self, iterations: int, learned: int) -> tuple[int, int, int]:
        """Environment, critic and actor steps of the run after `iterations` iterations of this part; `learned` of
        them did."""
        updates = self.prior_iterations + learned
        return (
            iterations * self.iteration_env_steps,
            updates * self.iteration_critic_steps,
            updates * self.iteration_actor_steps,
        )

    def run_step(self, iterations: int) -> int:
        """The number that names this moment of the run: critic updates offline plus environment steps."""
        return (
            self.prior_iterations + iterations * self.offline
        ) * self.iteration_critic_steps + iterations * self.iteration_env_steps


def parse_ratio(text: str) -> tuple[int, int]:
    """`"8:4"` as (8, 4). Raises RlxError unless both are whole numbers, at least 1."""
    parts = text.split(":")
    if len(parts) != 2 or not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise RlxError(
            f"--ratio {text}: must be two whole numbers of at least 1, critic:actor updates per vector step, as 8:4"
        )
    return int(parts[0]), int(parts[1])


def parse_split(text: str, devices: int) -> tuple[int, int, int]:
    """`"2,1,1"` as device counts of collectors, value learners and policy learners.

    Raises RlxError for a group of zero, or a sum that is not the number of devices there.
    """
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() for part in parts):
        raise RlxError(f"--split {text}: must be 1, auto, or three whole numbers (collect,value,policy) such as 2,1,1")
    collectors, values, policies = (int(part) for part in parts)
    if min(collectors, values, policies) < 1:
        raise RlxError(f"--split {text}: every role needs a device; --split 1 runs all three on one")
    if collectors + values + policies != devices:
        total = collectors + values + policies
        raise RlxError(
            f"--split {text}: adds up to {total} devices but there are {devices}; on one device use --split 1"
        )
    return collectors, values, policies


def make_plan(config: TrainConfig, shards: int) -> Plan:
    """The plan of the steps in the environment. Raises RlxError, naming the flag, for sizes that cannot be."""
    common = _common(config, shards)
    iteration_env_steps = config.num_envs * config.rollout_length
    slots = config.replay_capacity // iteration_env_steps * config.rollout_length
    if slots < max(config.rollout_length, config.n_step):
        need = config.num_envs * max(config.rollout_length, config.n_step)
        raise RlxError(
            f"--replay-capacity {config.replay_capacity}: must hold a block of {need} transitions;"
            " raise it or lower --num-envs"
        )
    if config.batch_size > config.replay_capacity:
        raise RlxError(
            f"--batch-size {config.batch_size}: is over --replay-capacity {config.replay_capacity};"
            " lower it or raise that"
        )
    iterations = math.ceil(config.total_env_steps / iteration_env_steps)
    for flag, given, count in (
        ("total-env-steps", config.total_env_steps, iterations * config.rollout_length),
        ("replay-capacity", config.replay_capacity, slots),
    ):
        if count > MOST:
            raise RlxError(f"--{flag} {given}: more than {MOST} vector steps cannot be counted; lower it")
    warmup = max(
        math.ceil(config.warmup_env_steps / iteration_env_steps), math.ceil(config.n_step / config.rollout_length)
    )
    if warmup >= iterations:
        raise RlxError(
            f"--total-env-steps {config.total_env_steps}: ends before the first update, after"
            f" {warmup * iteration_env_steps} steps of warm-up; raise it or lower --warmup-env-steps"
        )
    prior = _offline_iterations(config)
    if prior and config.driver == "pipelined" and config.offline_fraction > 0:
        raise RlxError(
            f"--offline-fraction {config.offline_fraction}: in the environment the pipelined driver learns from replay"
            " alone; use --driver fused, or --offline-fraction 0"
        )
    return Plan(
        **common,
        **_intervals(config, iterations, iteration_env_steps),
        iterations=iterations,
        warmup_iterations=warmup,
        iteration_env_steps=iteration_env_steps,
        prior_iterations=prior,
        slots=slots,
        shard_offline=round(config.offline_fraction * config.batch_size / shards) if prior else 0,
    )


def make_offline_plan(config: TrainConfig, shards: int) -> Plan:
    """The plan of the updates on the data set. Raises RlxError, naming the flag, for sizes that cannot be."""
    common, iterations = _common(config, shards), _offline_iterations(config)
    if not config.dataset:
        why = f"--offline-steps {config.offline_steps} learn from data"
        raise RlxError(f"missing --dataset: {why}; give one (see `rlx list`), or --offline-steps 0")
    return Plan(
        **common,
        **_intervals(config, iterations, common["iteration_critic_steps"]),
        iterations=iterations,
        warmup_iterations=0,
        iteration_env_steps=0,
        prior_iterations=0,
        slots=0,
        shard_offline=common["shard_batch"],
    )


def _offline_iterations(config: TrainConfig) -> int:
    iterations = math.ceil(config.offline_steps / (parse_ratio(config.ratio)[0] * config.rollout_length))
    if iterations > MOST:
        raise RlxError(
            f"--offline-steps {config.offline_steps}: more than {MOST} iterations cannot be counted; lower it"
        )
    return iterations


def _common(config: TrainConfig, shards: int) -> dict[str, Any]:
    """What both parts of a run have."""
    _check_consistency(config)
    critic_updates, actor_updates = parse_ratio(config.ratio)
    for flag, size in (
        ("num-envs", config.num_envs),
        ("batch-size", config.batch_size),
        ("pool-size", config.pool_size),
    ):
        if size % shards:
            raise RlxError(
                f"--{flag} {size}: must be divisible by the {shards} shards (--num-devices, --split or --num-shards)"
            )
    return {
        "critic_updates": critic_updates,
        "actor_updates": actor_updates,
        "iteration_critic_steps": critic_updates * config.rollout_length,
        "iteration_actor_steps": actor_updates * config.rollout_length,
        "shards": shards,
        "shard_envs": config.num_envs // shards,
        "shard_batch": config.batch_size // shards,
        "shard_pool": config.pool_size // shards,
    }


def _intervals(config: TrainConfig, iterations: int, iteration_steps: int) -> dict[str, int]:
    """Iterations between log points, evaluations and checkpoints; the latter two fall on log points."""

    def every(steps: int, parts: int) -> int:
        return max(1, math.ceil(steps / iteration_steps) if steps else iterations // parts)

    log = min(every(config.log_every, 50), REPORTED)
    if (lines := iterations // log) > LOG_LINES:
        least = math.ceil(iterations / LOG_LINES) * iteration_steps
        raise RlxError(f"--log-every {config.log_every}: would log {lines:,} lines; raise it to {least} or more")
    evaluate = math.ceil(every(config.eval_every, 10) / log) * log
    checkpoint = math.ceil(every(config.checkpoint_every or config.eval_every, 10) / log) * log
    return {"log_iterations": log, "eval_iterations": evaluate, "checkpoint_iterations": checkpoint}


def _check_consistency(config: TrainConfig) -> None:
    """What each setting may be by itself, `rlx.config.check` has checked."""
    if config.seed + config.num_seeds > 2**32:
        raise RlxError(f"--seed {config.seed}: must stay under 2^32, the last seed there is")
    if config.noise_min > config.noise_max:
        raise RlxError(f"--noise-min {config.noise_min}: must not be over --noise-max {config.noise_max}")
    if config.replay_dtype == "float64" and not jax.config.read("jax_enable_x64"):
        raise RlxError(f"--replay-dtype {config.replay_dtype}: must be float32 or bfloat16 without jax_enable_x64")
    if config.total_env_steps == config.offline_steps == 0:
        raise RlxError("--total-env-steps 0: nothing to do; raise it, or give --dataset and --offline-steps")
    if config.dataset and not config.offline_steps:
        raise RlxError(f"--dataset {config.dataset}: goes with --offline-steps; add how many updates to make on it")
    if config.driver == "fused" and config.split != "1":
        raise RlxError(f"--split {config.split}: goes with --driver pipelined; add it")
