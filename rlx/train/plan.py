"""The numbers of iterations, updates and rows that follow from the settings of training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from rlx.errors import RlxError
from rlx.settings import flag_of
from rlx.train.config import MOST, TrainConfig

REPORTED = 2**24  # iterations that one report, sums of float32, can count
LOG_LINES = 1_000_000  # of a run, at most


class Plan(NamedTuple):
    """The counts that follow from a TrainConfig, for its online or its offline part.

    An iteration is `rollout_length` vector steps with their updates; offline, the updates alone.
    """

    critic_updates: int  # in a burst
    actor_updates: int  # in a burst
    bursts: int  # of updates in an iteration: one per vector step; on-policy one per epoch, every row of the block once
    iterations: int  # in the part
    warmup_iterations: int
    log_iterations: int  # between log points
    eval_iterations: int  # between evaluations
    checkpoint_iterations: int  # between checkpoints
    iteration_env_steps: int  # environment steps an iteration makes, per seed; 0 offline
    iteration_critic_steps: int
    iteration_actor_steps: int
    prior: tuple[int, int, int]  # iterations, critic and actor steps of the offline part, where this is the online one
    slots: int  # of the replay ring; 0 offline
    shards: int  # logical shards in all
    shard_envs: int
    shard_batch: int
    shard_offline: tuple[int, ...]  # of `shard_batch`, how many are drawn from each data set
    shard_pool: int

    @property
    def offline(self) -> bool:
        """Whether this part learns from the data set alone."""
        return self.iteration_env_steps == 0

    def steps(self, iterations: int, learned: int) -> tuple[int, int, int]:
        """Environment, critic and actor steps of the run after `iterations` iterations of this part; `learned` of
        them did."""
        _, critic, actor = self.prior
        return (
            iterations * self.iteration_env_steps,
            critic + learned * self.iteration_critic_steps,
            actor + learned * self.iteration_actor_steps,
        )

    @property
    def iteration_steps(self) -> int:
        """How far an iteration takes the run: environment steps, or updates of the critic (without any, the actor)."""
        return self.iteration_env_steps or self.iteration_critic_steps or self.iteration_actor_steps

    def run_step(self, iterations: int) -> int:
        """The number that names this moment of the run: updates offline plus environment steps."""
        _, critic, actor = self.prior
        return (critic or actor) + iterations * self.iteration_steps


def parse_ratio(text: str) -> tuple[int, int]:
    """`"8:4"` as (8, 4). Raises RlxError unless both are integers, and one of them at least 1."""
    parts = text.split(":")
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts) or not any(map(int, parts)):
        raise RlxError(
            f"--ratio {text}: must be two integers, critic:actor updates per vector step, as 8:4; not both 0"
        )
    return int(parts[0]), int(parts[1])


def parse_shares(config: TrainConfig) -> list[float]:
    """The share of each data set, adding up to 1. Raises RlxError for invalid or too many or few numbers."""
    sets = len(config.datasets)
    if not config.dataset_shares:
        return [1 / sets] * sets
    flag = f"--dataset-shares {config.dataset_shares}"
    try:
        shares = [float(share) for share in config.dataset_shares.split(",")]
    except ValueError:
        raise RlxError(f"{flag}: must be numbers separated by commas, as 0.3,0.7") from None
    if len(shares) != sets:
        raise RlxError(f"{flag}: has {len(shares)} shares but there are {sets} data sets; give one for each")
    if not all(share >= 0 for share in shares) or abs(sum(shares) - 1) > 1e-6:
        raise RlxError(f"{flag}: must be 0 or more and add up to 1")
    return shares


def share_out(count: int, shares: Sequence[float]) -> tuple[int, ...]:
    """Whole numbers that add up to `count`, in proportion to `shares`: what rounding down leaves goes, one by one, to
    the largest remainders."""
    total = sum(shares)
    exact = [round(count * share / total, 9) for share in shares]
    counts = [int(number) for number in exact]
    order = sorted(range(len(shares)), key=lambda i: counts[i] - exact[i])
    for i in order[: count - sum(counts)]:
        counts[i] += 1
    return tuple(counts)


def make_plan(config: TrainConfig, shards: int) -> Plan:
    """The plan of the steps in the environment. Raises RlxError, naming the flag, for sizes that cannot be."""
    common = _common(config, shards)
    iteration_env_steps = config.num_envs * config.rollout_length
    slots = config.replay_capacity // iteration_env_steps * config.rollout_length
    if config.epochs:
        slots = config.rollout_length * config.history_blocks
    elif slots < max(config.rollout_length, config.n_step):
        need = config.num_envs * max(config.rollout_length, config.n_step)
        raise RlxError(
            f"--replay-capacity {config.replay_capacity}: must hold a block of {need} transitions;"
            " raise it or lower --num-envs"
        )
    if config.batch_size > config.replay_capacity and not config.epochs:
        raise RlxError(
            f"--batch-size {config.batch_size}: is over --replay-capacity {config.replay_capacity};"
            " lower it or raise that"
        )
    iterations = math.ceil(config.total_env_steps / iteration_env_steps)
    for flag, value, count in (
        ("total-env-steps", config.total_env_steps, iterations * config.rollout_length),
        ("replay-capacity", config.replay_capacity, slots),
    ):
        if count > MOST:
            raise RlxError(f"--{flag} {value}: more than {MOST} vector steps cannot be counted; lower it")
    warmup = max(
        math.ceil(config.warmup_env_steps / iteration_env_steps), math.ceil(config.n_step / config.rollout_length)
    )
    if config.epochs:  # a full ring is learned from at once; the pipeline has a block an iteration later
        warmup = config.history_blocks - (config.driver == "fused")
    if warmup >= iterations:
        raise RlxError(
            f"--total-env-steps {config.total_env_steps}: ends before the first update, after"
            f" {warmup * iteration_env_steps} steps of warm-up; raise it or lower --warmup-env-steps"
        )
    return Plan(
        **common,
        **_intervals(config, iterations, iteration_env_steps),
        iterations=iterations,
        warmup_iterations=warmup,
        iteration_env_steps=iteration_env_steps,
        prior=_prior(config),
        slots=slots,
        shard_offline=_shard_offline(config, common["shard_batch"], config.offline_fraction),
    )


def make_offline_plan(config: TrainConfig, shards: int) -> Plan:
    """The plan of the updates on the data set. Raises RlxError, naming the flag, for sizes that cannot be."""
    common, iterations = _common(config, shards, config.offline_ratio), _offline_iterations(config)
    if not config.dataset:
        why = f"--offline-steps {config.offline_steps} learn from data"
        raise RlxError(f"missing --dataset: {why}; give one (see `rlx list`), or --offline-steps 0")
    return Plan(
        **common,
        **_intervals(config, iterations, common["iteration_critic_steps"] or common["iteration_actor_steps"]),
        iterations=iterations,
        warmup_iterations=0,
        iteration_env_steps=0,
        prior=(0, 0, 0),
        slots=0,
        shard_offline=_shard_offline(config, common["shard_batch"], 1.0),
    )


def _shard_offline(config: TrainConfig, shard_batch: int, fraction: float) -> tuple[int, ...]:
    """How many rows of a shard's minibatch come from each data set, where `fraction` of it do."""
    if not config.dataset:
        return ()
    return share_out(share_out(shard_batch, (fraction, 1 - fraction))[0], parse_shares(config))


def _prior(config: TrainConfig) -> tuple[int, int, int]:
    """Iterations, critic and actor steps of the offline part."""
    iterations = _offline_iterations(config)
    critic, actor = (
        iterations * count * config.rollout_length for count in parse_ratio(config.offline_ratio or config.ratio)
    )
    return iterations, critic, actor


def _offline_iterations(config: TrainConfig) -> int:
    critic, actor = parse_ratio(config.offline_ratio or config.ratio)
    iterations = math.ceil(config.offline_steps / ((critic or actor) * config.rollout_length))
    if iterations > MOST:
        raise RlxError(
            f"--offline-steps {config.offline_steps}: more than {MOST} iterations cannot be counted; lower it"
        )
    return iterations


def _common(config: TrainConfig, shards: int, ratio: str = "") -> dict[str, Any]:
    """What both parts of a run have; `ratio` is the part's, where it has its own."""
    _check_consistency(config)
    critic_updates, actor_updates = parse_ratio(ratio or config.ratio)
    bursts = config.rollout_length
    if config.epochs:
        critic_updates = actor_updates = _minibatches(config)
        bursts = config.epochs
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
        "bursts": bursts,
        "iteration_critic_steps": critic_updates * bursts,
        "iteration_actor_steps": actor_updates * bursts,
        "shards": shards,
        "shard_envs": config.num_envs // shards,
        "shard_batch": config.batch_size // shards,
        "shard_pool": config.pool_size // shards,
    }


def _minibatches(config: TrainConfig) -> int:
    """How many minibatches on-policy blocks make. Raises RlxError where one would be smaller than the others."""
    block = config.num_envs * config.rollout_length
    if block * config.history_blocks % config.batch_size:
        raise RlxError(
            f"--batch-size {config.batch_size}: must divide the block of {block} transitions, --num-envs times"
            f" --rollout-length{' times --history-blocks' * (config.history_blocks > 1)}"
        )
    return block * config.history_blocks // config.batch_size


def _intervals(config: TrainConfig, iterations: int, iteration_steps: int) -> dict[str, int]:
    """Iterations between log points, evaluations and checkpoints; the latter two fall on log points.

    Unless `log_every` is set, points are no farther apart than evaluations and checkpoints are asked for.
    """

    def every(steps: int, parts: int) -> int:
        return max(1, math.ceil(steps / iteration_steps) if steps else iterations // parts)

    names = ["log_every"] if config.log_every else ["eval_every", "checkpoint_every"]
    asked = {name: every(getattr(config, name), 50) for name in names}
    name = min(asked, key=lambda name: asked[name])
    log = min(asked[name], REPORTED)
    if (lines := iterations // log) > LOG_LINES:
        least = math.ceil(iterations / LOG_LINES) * iteration_steps
        message = f"{flag_of(name)} {getattr(config, name)}: would log {lines:,} lines; raise it to {least} or more"
        raise RlxError(message)
    evaluate = math.ceil(every(config.eval_every, 10) / log) * log
    checkpoint = math.ceil(every(config.checkpoint_every or config.eval_every, 10) / log) * log
    return {"log_iterations": log, "eval_iterations": evaluate, "checkpoint_iterations": checkpoint}


ON_POLICY: dict[str, Any] = {  # what settings must be where a run learns from each new block, and nothing else
    "ratio": TrainConfig.ratio,
    "dataset": "",
    "mirror_observation": (),
    "replay_dtype": "float32",
    "warmup_env_steps": 0,
    "n_step": 1,
    "noise_max": 0.0,
}


def _check_consistency(config: TrainConfig) -> None:
    """Checks of several settings together; `rlx.settings.check` has checked each."""
    for name, needed in ON_POLICY.items():
        value = getattr(config, name)
        if config.epochs and value != needed:
            remedy = f"use {needed:g}" if isinstance(needed, (int, float)) else "leave one of them out"
            raise RlxError(
                f"{flag_of(name)} {value}: does not go with --epochs {config.epochs}, which is for learning"
                f" from each new block alone; {remedy}"
            )
    if config.history_blocks > 1 and not config.epochs:
        raise RlxError(f"--history-blocks {config.history_blocks}: is for on-policy agents; use --replay-capacity")
    if config.seed + config.num_seeds > 2**32:
        raise RlxError(f"--seed {config.seed}: must stay under 2^32, the last seed there is")
    if config.noise_hold > 1 and not config.noise_max:
        raise RlxError(f"--noise-hold {config.noise_hold}: there is no noise to hold; add --noise-max")
    if config.normalize_rewards and (config.offline_only or config.offline_steps):
        raise RlxError(
            "--normalize-rewards: needs returns of the environment from the first update; of a data set, use"
            " --scale-rewards range"
        )
    if config.max_return and not config.normalize_rewards:
        raise RlxError(f"--max-return {config.max_return:g}: limits normalised rewards; add --normalize-rewards")
    if config.replay_dtype == "float64" and not jax.config.read("jax_enable_x64"):
        raise RlxError(f"--replay-dtype {config.replay_dtype}: must be float32 or bfloat16 without jax_enable_x64")
    if config.offline_only and not config.offline_steps:
        raise RlxError("--total-env-steps 0: nothing to do; raise it, or give --dataset and --offline-steps")
    if config.dataset and not config.offline_steps and not config.offline_fraction:
        raise RlxError(f"--dataset {config.dataset}: nothing reads it; add --offline-steps or --offline-fraction")
    if config.trajectory_weights != "none" and not config.dataset:
        raise RlxError(f"--trajectory-weights {config.trajectory_weights}: weighs a data set; give --dataset")
    if config.dataset:
        parse_shares(config)
    if config.driver == "fused" and config.split != "1":
        raise RlxError(f"--split {config.split}: goes with --driver pipelined; add it")
