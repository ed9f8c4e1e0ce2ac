"""PPO: advantages against sums by hand, the two losses against NumPy, and what a run makes of its blocks."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import build, config, experiment, losses, networks, policies, replay
from rlx.agents import ppo
from rlx.errors import RlxError
from rlx.replay import Row
from rlx.train import learning
from rlx.train.task import Source
from tests import probes, processes
from tests.loss_tools import BATCHES, SMALL, SPEC, near, normals, stub, two_ways

CONTRACT = probes.Contract(config={"actor_hidden_sizes": (32, 32)}, hypers={"entropy_cost": 0.0}, updates=1000)
GAMMA, LAMBDA, STEPS, ENVS = 0.9, 0.8, 7, 3
normal = normals()
REWARD, VALUE, FOLLOWING = (normal(STEPS, ENVS) for _ in range(3))
NEVER = np.zeros((STEPS, ENVS), bool)
advantages = partial(losses.generalised_advantage, REWARD, VALUE, FOLLOWING, gamma=GAMMA, gae_lambda=LAMBDA)


def learned_at_ratio(module: Any, ratio: float, **hypers: float) -> Any:
    """An update on six rows whose behaviour gave each action 1 / `ratio` of its probability: the normalised advantages,
    the state before and after, the rows' extras and the metrics."""
    agent = module.make(module.Config(**SMALL), SPEC)
    old = jax.jit(agent.init)(jax.random.key(0), module.Hypers(reward_scale=2.0, **hypers))
    batch = probes.complete(agent, BATCHES)
    assert set(batch.extras) == {"log_prob", "pre_tanh", "advantage", "value_target"}
    extras = batch.extras | {"log_prob": batch.extras["log_prob"] - np.log(ratio), "value_target": normals(1)(6)}
    new, metrics = jax.jit(agent.update)(old, batch._replace(extras=extras), jax.random.key(1))
    advantage = np.asarray(extras["advantage"])
    return (advantage - advantage.mean()) / advantage.std(), old, new, extras, metrics


def ends(*places: tuple[int, int]) -> np.ndarray:
    """Flags [STEPS, ENVS] that are true at these steps and environments."""
    flags = NEVER.copy()
    flags[tuple(zip(*places, strict=True))] = True
    return flags


def test_an_advantage_is_a_sum_that_ends_with_the_episode() -> None:
    """Of discounted temporal-difference errors, one sum for each step."""
    terminated, truncated = ends((2, 0), (5, 1)), ends((3, 1), (6, 2))
    expected = np.zeros((STEPS, ENVS))
    for t, e in np.ndindex(STEPS, ENVS):
        for k in range(t, STEPS):
            error = REWARD[k, e] + GAMMA * (not terminated[k, e]) * FOLLOWING[k, e] - VALUE[k, e]
            expected[t, e] += (GAMMA * LAMBDA) ** (k - t) * error
            if terminated[k, e] or truncated[k, e]:
                break
    arguments = REWARD, VALUE, FOLLOWING, terminated, truncated, GAMMA, LAMBDA
    for advantage in two_ways(losses.generalised_advantage, *arguments):
        near(advantage, expected)


def test_with_gamma_and_lambda_1_it_is_the_return_less_the_value() -> None:
    """Bootstrapped from the last successor."""
    following = np.concatenate([VALUE[1:], FOLLOWING[-1:]])
    advantage = losses.generalised_advantage(REWARD, VALUE, following, NEVER, NEVER, 1.0, 1.0)
    near(advantage + VALUE, np.cumsum(REWARD[::-1], axis=0)[::-1] + FOLLOWING[-1])


def test_a_time_limit_bootstraps_and_leaves_later_steps_as_they_are() -> None:
    """From V of the true successor, in units of scaled rewards. Permuted environments permute the rows."""
    limit = ends((3, 0))
    cut, uncut = advantages(terminated=NEVER, truncated=limit), advantages(terminated=NEVER, truncated=NEVER)
    np.testing.assert_array_equal(cut[4:], uncut[4:])
    np.testing.assert_array_equal(cut[:, 1:], uncut[:, 1:])
    near(cut[3, 0], REWARD[3, 0] + GAMMA * FOLLOWING[3, 0] - VALUE[3, 0])

    nets = ppo.Networks(policies.squashed(stub(None)), stub(lambda params, x: x[..., 0]), ppo.clipped_surrogate, ())
    policy = ppo.Policy(None, None, ppo.Hypers(gamma=GAMMA, gae_lambda=LAMBDA, reward_scale=10.0))
    rows = Row(VALUE[..., None], None, REWARD, NEVER, limit, FOLLOWING[..., None])
    info = {"log_prob": VALUE}
    columns = ppo.record(nets, policy, rows, info)
    near(columns["advantage"][3, 0], 10 * REWARD[3, 0] + GAMMA * FOLLOWING[3, 0] - VALUE[3, 0])
    near(columns["value_target"], columns["advantage"] + VALUE)
    order = np.array([2, 0, 1])
    permuted = ppo.record(nets, policy, *jax.tree.map(lambda x: x[:, order], (rows, info)))
    jax.tree.map(np.testing.assert_array_equal, permuted, jax.tree.map(lambda x: x[:, order], columns))


def test_the_clipped_surrogate() -> None:
    """Beyond the range it is flat where the policy gains, and grows no better than linearly where it loses."""
    ratio, advantage = jnp.array([1.5, 1.5, 0.5, 0.5, 1.1]), jnp.array([2.0, -2.0, 2.0, -2.0, 1.0])
    for objective in two_ways(ppo.clipped_surrogate, ratio, advantage, ppo.Hypers(clip_range=0.2)):
        near(objective, [2.4, -3.0, 1.0, -1.6, 1.1])


def test_losses_of_a_minibatch() -> None:
    """At ratio 1.3. The value learns the block's targets, and each half has counted an update."""
    advantage, old, new, extras, metrics = learned_at_ratio(ppo, 1.3, entropy_cost=0.5)
    objective = np.minimum(1.3 * advantage, 1.2 * advantage).mean() + 0.5 * metrics["entropy"]
    near((metrics["actor_loss"], metrics["kl"]), (-objective, 0.3 - np.log(1.3)))
    value = networks.make_value(SPEC, (16,)).apply(old.critic.learner.params, BATCHES.observation)
    near((metrics["critic_loss"], metrics["v_mean"]), (((value - extras["value_target"]) ** 2).mean(), value.mean()))
    assert (new.critic.step, new.actor.step, new.actor.rate) == (1, 1, 1.0) and metrics["entropy"] < 2 * np.log(2)


def test_a_choice_of_actions() -> None:
    """Log-probabilities, entropy and greedy action of logits, one of which is impossible; and of a run."""
    policy = policies.categorical(stub(lambda params, x: params + 0 * x[..., :1]))
    logits = jnp.array([0.0, 1.0, -200.0])
    action, info = policy.act(logits, jnp.zeros((1000, 3)), jax.random.key(0))
    p = np.exp([0.0, 1.0]) / (1 + np.e)
    near(action.mean(0)[:2], p, atol=0.05)
    near(info["log_prob"], jnp.log(action[:, :2] @ p), rtol=1e-4)
    batch = BATCHES._replace(action=jax.nn.one_hot(jnp.array([0, 1, 0, 1, 0, 2]), 3))
    for log_prob, entropy in two_ways(lambda logits: policy.score(logits, batch, jax.random.key(0)), logits):
        near((log_prob[:2], entropy), (np.log(p), -(p * np.log(p)).sum()))
        assert np.isfinite(log_prob).all()
    assert policy.act_greedy(logits, jnp.zeros(3), jax.random.key(0))[0].tolist() == [0, 1, 0]
    slope = jax.grad(lambda logits: policy.score(logits, batch, jax.random.key(0))[0].sum())
    assert np.isfinite(slope(logits)).all()


@pytest.mark.parametrize(
    ("kl", "desired", "factor"),
    [(0.021, 0.01, 1 / 1.5), (0.004, 0.01, 1.5), (0.01, 0.01, 1.0), (0.0, 0.01, 1.0), (9.0, 0.0, 1.0)],
)
def test_the_learning_rate_follows_the_kl(kl: float, desired: float, factor: float) -> None:
    for rate in two_ways(ppo.adapted, 2.0, kl, desired):
        near(rate, 2 * factor)
    assert ppo.adapted(jnp.float32(9.0), 0.001, 0.01) == 10.0


RUN: dict[str, Any] = {"num_envs": 4, "rollout_length": 8, "batch_size": 32, "epochs": 1, "total_env_steps": 128}
RUN |= {"log_every": 32, "eval_every": 128, "eval_episodes": 1, "pool_size": 4}
RUN |= {"actor_hidden_sizes": (8,), "critic_hidden_sizes": (8,)}


def run(agent: str = "ppo", **changes: Any) -> tuple[Any, list[Any]]:
    """A run's task and its reports."""
    setup = build.setup(config.resolve(agent, "gymnax:Pendulum-v1", **RUN | changes))
    driver = build.make_driver(setup)
    return driver.task, [moment.report for moment in experiment.run(setup, driver)]


def test_ratios_start_at_1_and_every_row_is_used_once_an_epoch() -> None:
    """With one minibatch a block, all ratios do: the block moves the statistics only after it has been learned from."""
    task, result = run(normalize_rewards=True, gamma=0.0)
    assert [(r.env_step, r.critic_step, r.actor_step) for r in result] == [(32 * i, i, i) for i in (1, 2, 3, 4)]
    assert all(r.metrics["ratio_deviation"] < 1e-5 for r in result)
    state = result[-1].state
    assert np.ravel(state.statistics.count) == 128 and task.plan.slots == RUN["rollout_length"]

    rows, cursor = (jax.tree.map(lambda x: x[0], part) for part in (state.replay.rows, state.replay.cursor))
    ring = replay.Replay(jax.tree.map(lambda x: x[0, 0], rows), cursor)
    scale = ring.rows.extras["value_target"] / ring.rows.reward  # of rewards as the agent sees them, times 0.1
    assert np.ptp(scale) < 1e-5 and abs(scale.mean() - 0.1) > 1e-3

    four = task._replace(plan=task.plan._replace(shard_batch=8))
    draw = jax.jit(lambda key: learning.sample(four, Source(ring), 0.9, key, 4).extras["advantage"])
    one, other = (draw(jax.random.key(seed)) for seed in (0, 1))
    stored = np.sort(np.ravel(ring.rows.extras["advantage"]))
    for drawn in (one, other):
        np.testing.assert_array_equal(np.sort(np.ravel(drawn)), stored)
    assert (one != other).any()
    with pytest.raises(RlxError, match="each of 8 x 4 rows once"):
        learning.sample(task, Source(ring), jnp.float32(0.9), jax.random.key(0), 4)


@pytest.mark.slow
def test_pipelined_it_learns_from_the_block_before() -> None:
    """From the second iteration on, in as many minibatches, by ratios to the policy that collected them."""
    _, result = run(driver="pipelined", batch_size=8, epochs=2, total_env_steps=96)
    assert [(r.env_step, r.critic_step, r.actor_step) for r in result] == [(32, 0, 0), (64, 8, 8), (96, 16, 16)]
    assert all(0 < r.metrics["ratio_deviation"] < 0.5 for r in result[1:])


@pytest.mark.slow
def test_three_groups_of_devices_learn_as_one_program(tmp_path: Path) -> None:
    """Collector, value learner and policy learner, each on a device, from the same blocks in the same minibatches."""
    flags = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in RUN.items() if "hidden" not in name)
    command = f"rlx train ppo --env gymnax:Pendulum-v1 --driver pipelined --quiet {flags} --run-dir {tmp_path}"
    command += " --actor-hidden-sizes 8 --critic-hidden-sizes 8 --batch-size 8 --epochs 2 --run-name"
    runs = []
    for name, split in (("one", "1"), ("three", "1,1,1")):
        processes.run([*command.split(), name, "--split", split], devices=3)
        runs.append([json.loads(line) for line in (tmp_path / name / "metrics.jsonl").open()])
    one, three = runs
    assert [line["critic_step"] for line in one] == [line["critic_step"] for line in three] == [0, 8, 16, 24]
    for name in ("train/critic_loss", "train/actor_loss", "train/kl", "train/ratio_deviation", "train/entropy"):
        found = [np.array([line[name] for line in run if name in line]) for run in (one, three)]
        assert len(found[0]) == 3
        near(found[1], found[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("agent", "changes", "words"),
    [
        ("ppo", {"epochs": 0, "batch_size": 8}, "--epochs 0: ppo learns from each new block alone; give 4"),
        ("sac", {"epochs": 4, "ratio": "16:16"}, "--epochs 4: sac learns from replay or data; leave it out"),
        ("ppo", {"batch_size": 24}, "--batch-size 24: must divide the block of 32 transitions"),
        ("ppo", {"warmup_env_steps": 8}, "--warmup-env-steps 8: does not go with --epochs 1, .* use 0"),
        ("ppo", {"ratio": "8:4"}, "--ratio 8:4: .* leave one of them out"),
        ("ppo", {"noise_max": 0.1}, "--noise-max 0.1: .* use 0"),
        ("sac", {"env": "gymnax:CartPole-v1"}, "gymnax:CartPole-v1: has discrete actions, and sac continuous ones"),
        ("ppo", {"dataset": "data.npz"}, "--dataset data.npz: "),
    ],
)
def test_what_does_not_go_with_on_policy_learning(agent: str, changes: dict[str, Any], words: str) -> None:
    settings = {"warmup_env_steps": 0} | ({} if "env" in changes else RUN) | changes
    with pytest.raises(RlxError, match=words):
        build.setup(config.resolve(agent, settings.pop("env", "gymnax:Pendulum-v1"), **settings))
