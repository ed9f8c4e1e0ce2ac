"""Policies evaluated from data: fitted Q evaluation, densities, the table, the command, and what is refused."""

import csv
import io
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import data, envs, ope
from rlx.data import Dataset
from rlx.data.dataset import take
from rlx.halves import HalfState
from rlx.networks import Network
from rlx.ope import checks, evaluation, fqe, learning, mixture, policies
from rlx.ope.table import Distribution, Row, Table
from rlx.optim import Learner
from rlx.statistics import Interval
from rlx.types import Transition
from tests.commands import one_line
from tests.loss_tools import near, three_ways

pytestmark = pytest.mark.usefixtures("reuse_programs")

TINY: dict[str, Any] = {"offline_steps": 400, "critic_hidden_sizes": (16,), "batch_size": 64, "critic_lr": 1e-2}
TINY |= {"tau": 0.1, "num_critics": 2}
GAMMA, LENGTH = 0.9, 3


def normal(mean: float, std: float) -> Any:
    """Functions of a policy that takes normal actions, whatever it sees; mostly within [-1, 1]."""

    def sample(params: Any, observation: jax.Array, key: Any) -> jax.Array:
        return params + std * jax.random.normal(key, (len(observation), 1))

    def log_prob(params: Any, observation: jax.Array, action: jax.Array) -> jax.Array:
        return jax.scipy.stats.norm.logpdf(action[:, 0], params, std)

    return sample, log_prob, mean


def episodes(count: int = 300, std: float = 0.3, **info: Any) -> Dataset:
    """Episodes of 3 steps, reward = action; those of normal(0, std). The last was cut after one step."""
    rng = np.random.default_rng(0)
    action = rng.normal(0, std, size=(count * LENGTH - 2, 1)).astype(np.float32)
    time = np.arange(len(action)) % LENGTH
    observation = np.stack([np.ones(len(time)), time], axis=1)
    return data.make_dataset(
        {"name": "steps", "episode_length": LENGTH} | info,
        observation=observation,
        action=action,
        reward=action[:, 0],
        terminated=np.zeros(len(time), bool),
        truncated=time == LENGTH - 1,
        next_observation=observation + np.array([0, 1]),
        extras={"log_prob": -0.5 * (action[:, 0] / std) ** 2 - math.log(std) - 0.5 * math.log(2 * math.pi)},
    )


@pytest.mark.parametrize("kind", ["mean", "quantiles", "mixture"])
def test_the_update_of_fitted_q_evaluation(kind: str) -> None:
    """Two critics of (1 and 2) times the action, target networks of 3 and 4; two candidates, two actions each.

    The second one's actions are 0.5 and 0.7: targets 1 + 0.5 * 3 * 0.6 and 1 + 0.5 * 4 * 0.6 against 0.2 and 0.4. The
    mixture has one component, of deviation e^-5 in the target networks and 1 in the critics.
    """

    def apply(w: jax.Array, observation: jax.Array, action: jax.Array) -> jax.Array:
        q = w.reshape(-1, *[1] * (action.ndim - 1)) * action[..., 0]
        if kind == "mixture":
            return jnp.stack([jnp.zeros(q.shape), q, jnp.where(w[0] > 2, -9.0, 0.0) * jnp.ones(q.shape)], axis=-1)
        return q if kind == "mean" else q[..., None]

    nets = fqe.Networks(Network(lambda key: jnp.zeros(2), apply), kind, (), 2)
    learner = Learner.create(jnp.array([1.0, 2]), target=True).replace(target_params=jnp.array([3.0, 4]))
    state = HalfState.create(fqe.Hypers(gamma=0.5, candidate=1.0), learner)
    target_action = jnp.array([[9.0, 9, 0.5, 0.7]])
    one, observation = jnp.ones(1), jnp.zeros((1, 3))
    batch = Transition(observation, jnp.full((1, 1), 0.2), one, one, observation, {"target_action": target_action})

    def loss(batch: Transition) -> jax.Array:
        return fqe.update_critic(nets, state, None, batch, jax.random.key(0))[1]["critic_loss"]

    def huber(delta: float) -> float:
        return 0.5 * (delta - 0.5 if delta > 1 else delta**2 / 2)  # the weight of one quantile is 1/2

    deltas = [1 + 0.5 * w * a - q for w, q in ((3, 0.2), (4, 0.4)) for a in (0.5, 0.7)]
    expected = {
        "mean": (1.9 - 0.2) ** 2 + (2.2 - 0.4) ** 2,
        "quantiles": sum(huber(delta) / 2 for delta in deltas),
        "mixture": sum((delta**2 / 2 + math.log(2 * math.pi) / 2) / 2 for delta in deltas),
    }
    for actual in three_ways(loss, batch):
        near(actual, expected[kind], rtol=2e-2 if kind == "mixture" else 1e-5)


def test_targets_stay_within_returns_that_can_be() -> None:
    """A critic of the action's value and a target network of ten times it: 1 + 0.5 * 10 * 0.8 is cut off at 3."""
    nets = fqe.Networks(
        Network(lambda key: jnp.zeros(1), lambda w, observation, action: w * action[None, ..., 0]), "mean", ()
    )
    learner = Learner.create(jnp.array([1.0]), target=True).replace(target_params=jnp.array([10.0]))
    one, observation = jnp.ones(1), jnp.zeros((1, 3))
    target_action = jnp.full((1, 1), 0.8)
    batch = Transition(observation, jnp.full((1, 1), 0.2), one, one, observation, {"target_action": target_action})

    def loss(least: Any, most: Any) -> jax.Array:
        hypers = fqe.Hypers(gamma=0.5, least=least, most=most, reward_scale=1.0)
        state = HalfState.create(hypers, learner)
        return fqe.update_critic(nets, state, None, batch, jax.random.key(0))[1]["critic_loss"]

    for actual in three_ways(loss, jnp.float32(-1), jnp.float32(3)):
        near(actual, (3 - 0.2) ** 2)
    near(loss(6.0, 9.0), (6 - 0.2) ** 2)
    near(loss(-fqe.UNBOUNDED, fqe.UNBOUNDED), (5 - 0.2) ** 2)


def test_returns_that_can_be() -> None:
    bounds = learning.return_bounds
    assert bounds(np.array([-1.0, 3]), 0.5, 2) == (-1.5, 4.5)
    assert bounds(np.array([1.0, 3]), 0.5, None) == (0, 6)  # an episode may end at once
    assert bounds(np.array([-2.0, -1]), 1.0, 10) == (-20, 0)
    assert bounds(np.array([0.0, 1]), 1.0, None) == (0, fqe.UNBOUNDED)


def test_mixtures_by_hand() -> None:
    """Weights 1/4 and 3/4, means 0 and 2, deviations 1 and 1/2."""
    outputs = np.concatenate([np.log([1.0, 3]), [0, 2], np.log([1, 0.5])])

    def every(outputs: Any, x: Any) -> Any:
        return mixture.log_prob(outputs, x), mixture.mean(outputs)

    density = 0.25 * math.exp(-0.5) / math.sqrt(2 * math.pi) + 0.75 * 2 * math.exp(-2) / math.sqrt(2 * math.pi)
    for actual in three_ways(every, outputs, 1.0):
        near(actual, (math.log(density), 1.5))
    drawn = np.asarray(jax.jit(mixture.sample)(np.tile(outputs, (4096, 1)), jax.random.key(0)))
    variance = 0.25 * (1 + 0) + 0.75 * (0.25 + 4) - 1.5**2
    np.testing.assert_allclose([drawn.mean(), drawn.var()], [1.5, variance], atol=0.1)


def test_estimates_of_a_known_problem() -> None:
    """Reward = action, so J = mean * (1 + g + g^2); FQE knows the time and that the limit ends an episode."""
    true = 1 + GAMMA + GAMMA**2
    sample, log_prob, _ = normal(0, 0.3)
    chosen = [ope.Policy(f"mean {m}", sample, log_prob, jnp.float32(m)) for m in (0.0, 0.1)]
    table = ope.evaluate(chosen, episodes(), gamma=GAMMA, values=TINY, clusters=3, bootstraps=50)
    assert table.policies == ["mean 0.0", "mean 0.1"] and table.episodes == 299
    assert not any("have not settled" in note for note in table.notes) and "DM change" in str(table)
    assert any("1 of 300 episodes were cut" in note for note in table.notes)
    for mean, policy in zip((0, 0.1), table.policies, strict=True):
        for name in table.estimators:
            row = table.row(policy, name)
            assert abs(row.value.estimate - mean * true) < 0.12 and row.is_credible
            assert row.value.low <= row.value.estimate <= row.value.high
    assert table.row("mean 0.0", "TIS").sample_size == pytest.approx(299, rel=1e-4)
    assert table.row("mean 0.1", "TIS").sample_size < table.row("mean 0.1", "PDIS").sample_size < 299
    near(table.row("mean 0.0", "PDIS").value.estimate, table.behaviour.estimate, rtol=1e-3)
    std = 0.3 * math.sqrt(1 + GAMMA**2 + GAMMA**4)
    assert table.distributions[0].std == pytest.approx(std, rel=0.1)
    assert table.distributions[0].cvar == pytest.approx(-1.27 * std, abs=0.1)
    for interval in ("t", "hoeffding"):
        other = ope.evaluate(
            chosen[:1], episodes(), gamma=GAMMA, values=False, features=0, clusters=0, bootstraps=5, interval=interval
        )
        assert "DM" not in other.estimators and other.row("mean 0.0", "TIS").value.low < table.behaviour.estimate


def test_values_that_have_not_settled_are_said() -> None:
    """With a fifth of the updates, and target networks that hardly follow, values are on their way."""
    sample, log_prob, _ = normal(0.6, 0.3)
    policy = ope.Policy("on its way", sample, log_prob, jnp.float32(0.6))
    table = ope.evaluate(
        policy, episodes(), gamma=GAMMA, values=TINY | {"offline_steps": 80, "tau": 0.02}, features=0, bootstraps=5
    )
    note = next(note for note in table.notes if "have not settled" in note)
    assert "on its way" in note and "--updates" in note and abs(table.change["on its way"]) > 0.05
    returns = np.array([-1.0, 1])  # of deviation 1
    assert checks.change_note({"a": 0.09, "b": -0.09}, returns) == []
    assert "1 of 2 policies" in checks.change_note({"a": 0.09, "b": -0.11}, returns)[0]
    assert "1 of 1 policies" in checks.change_note({"a": np.nan}, returns)[0]
    assert checks.scale_of(returns) == 1
    constant = np.array([-30.0, -30.0])  # a tenth of a hundredth of 30 is allowed
    assert checks.scale_of(constant) == pytest.approx(0.3)
    assert checks.change_note({"a": 0.029}, constant) == [] and checks.change_note({"a": 0.031}, constant)


def test_values_without_a_time_limit_and_a_discount() -> None:
    """Episodes that all terminate: their length has no bound, and with gamma = 1 neither has a return."""
    source = episodes(40)
    rows = source.rows._replace(
        terminated=source.rows.terminated | source.rows.truncated, truncated=False & source.rows.truncated
    )
    sample, log_prob, _ = normal(0.1, 0.3)
    policy = ope.Policy("p", sample, log_prob, jnp.float32(0.1))
    ended = data.make_dataset({"name": "steps"}, **rows._asdict())
    options: dict[str, Any] = {"features": 0, "clusters": 0, "bootstraps": 5, "densities": "none"}
    table = ope.evaluate(policy, ended, gamma=1.0, values=TINY, **options)
    assert abs(table.row("p", "DM").value.estimate - 0.3) < 0.15


def test_a_kernel_makes_ratios_of_a_deterministic_policy() -> None:
    policy = ope.Policy("fixed", lambda params, observation, key: jnp.full((len(observation), 1), 0.1))
    table = ope.evaluate(policy, episodes(), gamma=GAMMA, values=False, clusters=0, bandwidth=0.1, bootstraps=20)
    for name in ("SNPDIS", "MIS"):
        assert abs(table.row("fixed", name).value.estimate - 0.271) < 0.1


@pytest.mark.slow
def test_without_log_prob_a_clone_of_who_collected_gives_it() -> None:
    source = episodes()
    without = source._replace(rows=source.rows._replace(extras={}))
    small = {"offline_steps": 400, "actor_hidden_sizes": (8,), "actor_lr": 1e-2, "batch_size": 64}
    clone = learning.fit_behaviour(without, **small)
    actual = policies.log_probs(clone, source.rows.observation, source.rows.action)
    assert np.abs(actual - source.rows.extras["log_prob"]).mean() < 0.2
    log_prob, notes = evaluation._behaviour(source, "data", 0)
    assert log_prob is source.rows.extras["log_prob"] and notes == []
    far = clone, np.full(3, 2.0)  # log-ratios
    said = [checks.ratio_note(*far, is_estimated) for is_estimated in (True, False)]
    assert "estimated densities" in said[0] and "the data's log_prob" in said[1]


def table() -> Table:
    rows = [Row("a", "TIS", Interval(2e20, 0.5e20, 3.5e20), 3.0), Row("a", "DM", Interval(-20, -21, -19), math.nan)]
    return Table(rows, [Distribution("a", 1, 2, 3, 4, 3.0)], Interval(0, -1, 1), 10, {"a": 0.25}, ["a note"])


def test_a_table_marks_what_is_not_credible() -> None:
    text = str(table())
    assert "2e+20 +-1.5e+20 ?" in text and "-20.0 +-1" in text and "-20.0 +-1 ?" not in text and "a note" in text
    assert "| a | 2e+20 +-1.5e+20 ? | -20.0 +-1 | 0.25 |" in table().text("md")
    rows = list(csv.reader(io.StringIO(table().text("csv"))))
    assert rows[1:] == [
        ["a", "TIS", "2e+20", "5e+19", "3.5e+20", "3.0", "0"],
        ["a", "DM", "-20", "-21", "-19", "", "1"],
    ]
    assert table().estimates("DM") == [-20]
    with one_line("no estimate DR of a", "TIS, DM"):
        table().row("a", "DR")


def broken(name: str) -> Any:
    source = episodes(5)
    extras, rows = source.rows.extras, source.rows
    if name == "not finite":
        return source._replace(rows=rows._replace(extras={"log_prob": np.full(source.size, np.nan, np.float32)}))
    if name == "a matrix":
        return source._replace(rows=rows._replace(extras={"log_prob": np.stack([extras["log_prob"]] * 2, 1)}))
    if name == "cut":
        return source._replace(info={"name": "steps", "episode_length": 9})
    return source._replace(info=source.info | {"env": "gymnax:Pendulum-v1"})


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("not finite", "log_prob is not finite in 13 rows"),
        ("a matrix", "store one number for each transition"),
        ("cut", "0 of its 5 episodes are complete"),
        ("other environment", "its environment is brax:ant, but steps is of gymnax:Pendulum-v1"),
    ],
)
def test_data_that_cannot_be_used(name: str, words: str) -> None:
    sample, log_prob, mean = normal(0, 0.3)
    with one_line(words):
        ope.evaluate(ope.Policy("p", sample, log_prob, mean, env="brax:ant"), broken(name), values=False)


def test_policies_and_arguments_that_cannot_be() -> None:
    sample, log_prob, mean = normal(0, 0.3)
    policy = ope.Policy("p", sample, log_prob, mean)
    for wrong, words in (
        ([], "the list is empty"),
        ([policy, policy], "two are called 'p'"),
        (3, "int is no policy"),
        (policy._replace(sizes=(3, 1)), "numbers, but steps has 2 and 1"),
    ):
        with one_line(words):
            ope.evaluate(wrong, episodes(3), values=False)
    begun: list[int] = []
    for arguments, words in (
        ({"gamma": 1.5}, "gamma 1.5: must be 0 to 1"),
        ({"bandwidth": 0.0}, "bandwidth 0: must be above 0"),
        ({"bandwidth": math.inf}, "bandwidth inf: must be above 0 and finite"),
        ({"values": {"offline_steps": 10**30}}, "iterations cannot be counted; lower it"),
        ({"values": {"critic_hidden_size": 3}}, "critic_hidden_size"),
        ({"interval": "z"}, "interval z: must be bootstrap, t, bernstein or hoeffding"),
        ({"seed": -1}, "seed -1: must be 0 to"),
        ({"features": 10**8}, "features 100000000: must be 0 to 5,000"),
        ({"clusters": (20, -3)}, "clusters -3: must be 0 to 5,000"),
        ({"window": 0}, "window 0: must be 1 to"),
        ({"densities": "none", "features": 0}, "without any of them nothing can be estimated"),
    ):
        with one_line(words):
            ope.evaluate(policy, episodes(3), **{"values": False, "begins": lambda: begun.append(0), **arguments})
    assert not begun


def test_wrong_densities_and_few_episodes_are_said() -> None:
    sample, log_prob, _ = normal(0, 0.3)
    source = episodes(60)
    wrong = source.rows._replace(extras={"log_prob": source.rows.extras["log_prob"] - 2})
    table = ope.evaluate(
        [ope.Policy("far", sample, log_prob, jnp.float32(0.8))],
        source._replace(rows=wrong),
        values=False,
        features=0,
        bootstraps=5,
    )
    said = "\n".join(table.notes)
    assert "importance ratios average" in said and "should not be trusted" in said and "?" in str(table)


def test_numbers_that_are_no_densities_are_said() -> None:
    """Uniform actions in [-1, 1] have log-density -log 2 everywhere."""
    source = episodes(60)
    uniform = np.full(source.size, -math.log(2), np.float32)
    assert checks.density_note(source, source.rows.extras["log_prob"]) == []
    assert checks.density_note(source, uniform) == []
    assert "0 in every row" in checks.density_note(source, 0 * uniform)[0]
    assert "too small" in checks.density_note(source, source.rows.extras["log_prob"] - 3)[0]


def test_one_episode_is_too_few() -> None:
    sample, log_prob, mean = normal(0, 0.3)
    one = data.make_dataset(
        {"name": "steps"}, **take(episodes(2), np.arange(4) < LENGTH).rows._replace(terminated=[0, 0, 1])._asdict()
    )
    for source, words in ((one, "holds one episode"), (take(episodes(2), np.arange(4) < 2), "name the time limit")):
        with one_line(words):
            ope.evaluate(ope.Policy("p", sample, log_prob, mean), source._replace(info={"name": "steps"}), values=False)


def test_simulated_returns_are_discounted() -> None:
    """The pendulum, left alone for 2 steps from starts that depend on the seed alone."""
    env = envs.make("gymnax:Pendulum-v1", episode_length=2)
    still = ope.Policy("still", lambda params, observation, key: jnp.zeros((len(observation), 1)))

    @jax.jit
    def rewards() -> list[jax.Array]:
        state = jax.vmap(env.reset)(jax.random.split(jax.random.split(jax.random.key(0), 3)[0], 4))
        collected = []
        for _ in range(2):
            state, step = jax.vmap(env.step)(state, jnp.zeros((4, 1)), jax.random.split(jax.random.key(1), 4))
            collected.append(step.reward)
        return collected

    first, second = rewards()
    near(ope.simulate([still], env, 4, GAMMA)[0], first + GAMMA * second)
