"""PROPS: the objective of the policy that collects by hand, whose turn an update is, and a ring of several blocks."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import build, config
from rlx.agents import props
from rlx.errors import RlxError
from tests import probes
from tests.loss_tools import BATCHES, SMALL, SPEC, near, two_ways
from tests.test_ppo import RUN, run

CONTRACT = probes.Contract(hypers={"entropy_cost": 0.0}, updates=1000)


def test_the_objective_of_the_policy_that_collects() -> None:
    """Probabilities of what replay holds fall, to 0.7 times the policy's; the KL holds them back from there."""
    ratio, hypers = jnp.array([1.3, 0.8, 0.5]), props.Hypers(behaviour_clip=0.3, behaviour_kl_weight=2.0)
    for objective in two_ways(props.sampling_surrogate, ratio, hypers):
        near(objective, -np.array([1.3, 0.8, 0.7]) - 2 * np.array([0.3, -0.2, -0.5]) + 2 * np.log(ratio))
    slope = jax.grad(lambda r: props.sampling_surrogate(r, hypers).sum())(ratio)
    near(slope, [-1 - 2 * (1 - 1 / 1.3), -1 + 0.5, 2.0])


def test_first_the_policy_learns_and_then_the_one_that_collects() -> None:
    """Of four updates two each; ratios are to the other one, which is still, whatever the behaviour's probabilities."""
    agent = props.make(props.Config(**SMALL, iteration_updates=4, policy_every=1), SPEC)
    hypers = props.Hypers(actor_lr=0.01, behaviour_lr=0.01, max_behaviour_kl=9.0, entropy_cost=0.0)
    states = [jax.jit(agent.init)(jax.random.key(0), hypers)]
    batch, update = probes.complete(agent, BATCHES), jax.jit(agent.update)
    extras = batch.extras | {"updates_before": jnp.array([4, 8, 4, 8, 8, 8])}
    batch = batch._replace(extras=extras)
    metrics: list[Any] = []
    for i in range(6):
        state, found = update(states[-1], batch, jax.random.key(i))
        states, metrics = [*states, state], [*metrics, found]
    policies, behaviours = (
        [p.learner.params for p in half]
        for half in ([s.actor for s in states], [s.actor.replace(learner=s.actor.behaviour) for s in states])
    )

    def same(one: Any, other: Any) -> bool:
        return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((x == y).all()), one, other)))

    moves = [not same(*policies[i : i + 2]) for i in range(6)]
    assert moves == [True, True, False, False, True, True]
    assert same(behaviours[1], policies[0]) and same(behaviours[2], policies[2])
    assert not same(behaviours[3], policies[2]) and not same(behaviours[4], behaviours[3])
    assert same(behaviours[5], policies[4])  # a copy of the policy at the next iteration's start
    near(np.array([metrics[i]["ratio_deviation"] for i in (0, 2, 4)]), np.zeros(3), atol=1e-5)
    near(metrics[2]["actor_loss"], 4 / 6)  # without the two rows of the oldest block
    near(metrics[0]["actor_loss"], 0.0, atol=1e-5)  # advantages are normalised

    acting, seen = agent.acting_params(states[4]), BATCHES.observation
    assert agent.log_prob is not None
    of_policy = agent.log_prob(acting._replace(behaviour_params=acting.params), seen, BATCHES.action)
    of_behaviour = agent.log_prob(acting, seen, BATCHES.action)
    action, info = agent.act(acting, seen, jax.random.key(0))
    near(info["log_prob"], agent.log_prob(acting, seen, action), rtol=1e-3)
    assert (of_policy != of_behaviour).any()
    greedy = agent.act_greedy(acting, seen, jax.random.key(0))[0]
    near(greedy, agent.act_greedy(acting._replace(behaviour_params=None), seen, jax.random.key(0))[0])

    second = props.make(props.Config(**SMALL, iteration_updates=2, policy_every=2), SPEC)
    third = jax.jit(second.update)(states[4], batch, jax.random.key(9))[0].actor  # its iterations have two updates
    assert same(third.learner.params, policies[4]) and not same(third.behaviour.params, policies[4])

    bounded = states[3].replace(actor=states[3].actor.replace(hypers=hypers.replace(max_behaviour_kl=0.0)))
    stopped = update(bounded, batch, jax.random.key(3))[0].actor
    assert same(stopped.behaviour.params, behaviours[3]) and stopped.step == 4


def test_passes_are_over_the_newest_blocks() -> None:
    """From the iteration on in which the ring is full, in as many minibatches more."""
    task, result = run("props", history_blocks=2, total_env_steps=96, batch_size=16)
    assert [(r.env_step, r.critic_step) for r in result] == [(32, 0), (64, 4), (96, 8)]
    assert task.plan.slots == 2 * RUN["rollout_length"]
    ring = result[-1].state.replay
    assert np.ravel(ring.cursor.size) == 16 and not np.array_equal(*np.split(np.ravel(ring.rows.reward), 2))
    network = build.setup(config.resolve("props", "gymnax:Pendulum-v1", **RUN | {"history_blocks": 2})).config.network
    assert network.iteration_updates == 2
    with pytest.raises(RlxError, match="--history-blocks 2: is for on-policy agents"):
        build.setup(config.resolve("sac", "gymnax:Pendulum-v1", history_blocks=2))


@pytest.mark.slow
def test_passes_in_the_pipeline() -> None:
    _, result = run("props", history_blocks=2, driver="pipelined", total_env_steps=96)
    assert [r.critic_step for r in result] == [0, 0, 2]
