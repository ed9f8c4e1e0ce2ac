"""CQL and Cal-QL: the loss against NumPy, the penalty and its limits, and the learned factor."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from rlx.agents import cql, sac
from rlx.commands import main as cli
from rlx.optim import Learner
from rlx.types import as_arrays
from tests import probes
from tests.kill_cases import write_dataset
from tests.loss_tools import BATCH, BATCHES, SMALL, SPEC, normals, stub, two_ways

CONTRACT = probes.Contract(
    config={"penalty_actions": 2, "backup_actions": 2},
    hypers={"penalty_weight": 0.01, "gap_target": 5.0, "alpha_init": 1e-3, "alpha_lr": 0.0},
    variants=({"lagrange": True},),
)

CONFIG = cql.Config(**SMALL, penalty_actions=3, backup_actions=4)
normal = normals()
POLICY: Any = sac.Policy({"mean": jnp.array([0.3, -0.5]), "log_std": jnp.array([-0.5, 0.2])}, jnp.float32(0.0))


def stub_policy(params: Any, observation: jax.Array) -> tuple[jax.Array, jax.Array]:
    return params["mean"] + observation[..., :2], jnp.broadcast_to(params["log_std"], (*observation.shape[:-1], 2))


def said(w: Any, observation: Any, action: Any) -> Any:
    """Of critics w [N]: w times the sum of the observation and the cubes of the action."""
    return w.reshape(-1, *[1] * (action.ndim - 1)) * (observation.sum(-1) + (action**3).sum(-1))


NETS = sac.make_networks(CONFIG, SPEC)._replace(actor=stub(stub_policy), critic=stub(said))
ONLINE, TARGET, BOUND = (
    np.array([0.5, -1.5], np.float32),
    np.array([1.2, 0.4], np.float32),
    np.float32(0.2) * normal(BATCH),
)
DATA = BATCHES._replace(extras={"return_to_go": BOUND})


def half(hypers: Any, online: Any = ONLINE, target: Any = TARGET, factor: Any = None) -> cql.CriticState:
    critic = Learner.create(online, target=True).replace(target_params=target)
    return cql.CriticState.create(hypers, critic, log_factor=None if factor is None else Learner.create(factor))


@pytest.mark.parametrize("calibrated", [False, True])
def test_critic_loss(calibrated: bool) -> None:
    """With the drawn actions as they are: squared error, and the penalty of values that sampling makes large."""
    config = cql.Config(**vars(CONFIG) | {"calibrated": calibrated})
    hypers, key = as_arrays(cql.Hypers(gamma=0.9, reward_scale=2.0, penalty_weight=1.5)), jax.random.key(0)
    actions, log_density = (np.asarray(x) for x in cql.draw(NETS, POLICY, DATA, jax.random.split(key)[0], 3))
    next_action = np.asarray(
        cql.policies.tanh_normal(NETS.actor, POLICY.params, DATA.next_observation).sample(
            seed=jax.random.split(key)[1], sample_shape=4
        )
    )
    best = said(TARGET, DATA.next_observation, next_action).min(0).max(0)
    y = 2 * DATA.reward + 0.9 * DATA.discount * best
    q, drawn = said(ONLINE, DATA.observation, DATA.action), said(ONLINE, DATA.observation, actions)
    np.testing.assert_allclose(log_density[:3], -2 * np.log(2), rtol=1e-6)
    if calibrated:
        drawn[:, 3:] = np.maximum(drawn[:, 3:], 2 * BOUND)
    gap = (logsumexp(drawn - log_density, axis=1) - q).mean(-1)

    def metrics(online: jax.Array, target: jax.Array) -> Any:
        return cql.update_critic(NETS, half(hypers, online, target), POLICY, DATA, key, config=config)[1]

    for actual in two_ways(metrics, ONLINE, TARGET):
        np.testing.assert_allclose(actual["critic_loss"], ((q - y) ** 2).mean(-1).sum() + 1.5 * gap.sum(), rtol=1e-5)
        np.testing.assert_allclose(actual["gap"], gap.mean(), rtol=1e-5)
        np.testing.assert_allclose(actual["q_mean"], q.mean(), rtol=1e-5)


def test_values_of_many_actions_are_the_critics_own() -> None:
    """Of so many rows that a CPU takes them in blocks."""
    critic = sac.make_networks(CONFIG, SPEC).critic
    params, action = critic.init(jax.random.key(0)), jnp.asarray(normal(40, BATCH, 2))
    observations = jnp.broadcast_to(BATCHES.observation, (40, *BATCHES.observation.shape))
    expected = critic.apply(params, observations, action)
    actual = jax.jit(partial(cql.values, critic.apply))(params, BATCHES.observation, action)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


def test_the_penalty_tends_to_its_integral() -> None:
    """Uniform actions and both policies' estimate the same integral of exp(Q), each with its own density."""
    n, rows = 40_000, jax.tree.map(lambda x: x[:1], BATCHES)
    actions, log_density = cql.draw(NETS, POLICY, rows, jax.random.key(1), n)
    q = jnp.concatenate([said(jnp.ones(1), np.zeros(3), x) for x in (rows.action[None], actions)], axis=1)
    of_data, grid = q[0, 0, 0], np.linspace(-1, 1, 20_001)
    integral = 2 * np.log(np.trapezoid(np.exp(grid**3), grid))
    for part in (slice(0, n), slice(n, 2 * n), slice(2 * n, 3 * n)):
        actual = cql.gap(jnp.concatenate([q[:, :1], q[:, 1:][:, part]], axis=1), log_density[part])[0, 0] - np.log(n)
        np.testing.assert_allclose(actual, integral - of_data, atol=0.06)


def test_gradient_and_limits_of_the_penalty() -> None:
    """The gradient is the softmax of Q - log density, less 1 for the data's action; the policy's values below the
    bound have none, and a bound of minus infinity bounds nothing."""
    q, log_density = normal(2, 7, BATCH), normal(6, BATCH)
    weights = np.exp(q[:, 1:] - log_density)
    expected = np.concatenate([-np.ones((2, 1, BATCH)), weights / weights.sum(1, keepdims=True)], axis=1)
    slope = jax.grad(lambda q, floor: cql.gap(q, log_density, floor).sum())
    plain = slope(q, None)
    np.testing.assert_allclose(plain, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(slope(q, jnp.full(BATCH, -jnp.inf)), plain)
    bounded = slope(q, jnp.full(BATCH, 30.0))
    assert not bounded[:, 3:].any() and bounded[:, :3].all()


@pytest.mark.usefixtures("plain_descent")
def test_the_factor_grows_while_the_gap_is_too_large() -> None:
    hypers = as_arrays(cql.Hypers(critic_lr=0.01, penalty_weight=1.5, gap_target=0.8))
    update = jax.jit(lambda state: cql.update_critic(NETS, state, POLICY, DATA, jax.random.key(0), config=CONFIG))
    (new, actual), (plain, of_plain) = update(half(hypers, factor=jnp.float32(1.0))), update(half(hypers))
    np.testing.assert_allclose(actual["gap"], of_plain["gap"], rtol=1e-5)
    step = 0.01 * np.e * 1.5 * (actual["gap"] - 0.8)
    np.testing.assert_allclose(new.log_factor.params, 1 + step, rtol=1e-5)
    extra = 1.5 * 2 * ((np.e - 1) * actual["gap"] - np.e * 0.8)
    np.testing.assert_allclose(actual["critic_loss"] - of_plain["critic_loss"], extra, rtol=1e-4)
    assert plain.log_factor is None


@pytest.mark.slow
def test_calibrated_run_has_one_discount_and_continues_online(tmp_path: Path, capsys: Any) -> None:
    """Rows of the data set are bounded by their returns, rows of the run by nothing."""
    write_dataset(tmp_path / "data")
    sizes = "--num-envs 4 --batch-size 8 --pool-size 4 --eval-episodes 1 --penalty-actions 2 --backup-actions 2"
    layers = "--actor-hidden-sizes 8 --critic-hidden-sizes 8 --warmup-env-steps 16 --replay-capacity 64 --ratio 1:1"
    command = f"train cql --calibrated --env gymnax:Pendulum-v1 --dataset {tmp_path}/data --run-dir {tmp_path} {sizes}"
    words = f"{command} {layers} --offline-steps 8 --total-env-steps 32 --quiet --run-name run".split()
    assert cli.main([*words, "--gamma", "0.9", "0.99"]) != 0
    assert "one discount" in capsys.readouterr().err
    assert cli.main([*words, "--gamma", "0.9"]) == 0, capsys.readouterr().err
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    gaps = [line["train/gap"] for line in lines if "train/gap" in line]
    assert lines[-1]["env_step"] == 32 and len(gaps) > 1 and np.isfinite(gaps).all()
