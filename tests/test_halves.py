"""What agents share: network options reach every network, dropout its keys, batch statistics acting and targets."""

import dataclasses
from collections import Counter
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import agents, config, halves, losses, networks
from rlx.networks import Network
from rlx.types import as_arrays
from tests import probes
from tests.loss_tools import SPEC, near, normals, tanh_log_prob, transitions

BATCH, KEY = transitions(normals(), 12), jax.random.key(0)


def network_config(agent: str, **options: Any) -> Any:
    """The agent's Config as the command line makes it, with narrow layers."""
    names = [field.name for field in dataclasses.fields(agents.load(agent).Config)]
    small: dict[str, Any] = {name: (8, 8) for name in names if name.endswith("hidden_sizes")}
    small |= {name: 8 for name in ("score_width", "time_features") if name in names}
    small |= {name: 1 for name in ("chunk_size",) if name in names}  # batches here are no windows
    return config.resolve(agent, "gymnax:Pendulum-v1", **small, **options).network


PLAIN = [name for name in agents.REGISTRY if name not in ("xqc", "flash_sac")]
QUICK = ("sac", "td3", "rebrac", "iql", "idql", "bc", "pqn", "ppo", "fql", "reppo")  # build networks of their own


@pytest.mark.parametrize("name", [pytest.param(x, marks=[pytest.mark.slow] * (x not in QUICK)) for x in PLAIN])
def test_network_options_reach_every_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Residual blocks, orthogonal kernels and bfloat16 products in the critics, value networks and actors of all."""
    made: list[tuple[int, ...]] = []

    def orthogonal(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        made.append(shape)
        return jnp.zeros(shape, dtype)

    monkeypatch.setitem(networks.INITIALIZERS, "orthogonal", orthogonal)
    options = {"kernel_init": "orthogonal", "compute_dtype": "bfloat16", "residual": True}
    agent = probes.make(name, network_config(name, **options), SPEC)
    state = jax.eval_shape(agent.init, KEY)
    leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)}
    leaves = {path: leaf for path, leaf in leaves.items() if ".learner.params" in path or ".value.params" in path}
    first = {path: leaf for path, leaf in leaves.items() if path.endswith("['Dense_0']['kernel']")}
    halves = {"bc": {"actor"}, "cdsa": {"actor"}, "dqn": {"critic"}, "pqn": {"critic"}}.get(name, {"actor", "critic"})
    assert {path.split(".")[1] for path in first} == halves
    for path in first:
        assert "ResidualBlock" in path or path.replace("['Dense_0']", "['ResidualBlock_0']['Dense_0']") in leaves
    assert not Counter(kernel.shape[-2:] for kernel in first.values()) - Counter(made)
    published = jax.eval_shape(agent.critic_params, state.critic)
    policy = jax.eval_shape(agent.policy_params, state.actor, published)
    batch = jax.eval_shape(partial(probes.complete, agent), BATCH)
    act = jax.make_jaxpr(agent.act_greedy)(policy, BATCH.observation, KEY)
    learn = jax.make_jaxpr(agent.update_critic)(state.critic, policy, batch, KEY)
    assert "bf16" in str(act) and ("bf16" in str(learn) or "critic" not in halves)


@pytest.mark.parametrize("rate", [0.0, 0.5])
@pytest.mark.parametrize(("name", "actor_calls"), [("sac", 1), ("td3", 1), ("iql", 0)])
def test_critics_drop_out_by_keys_of_their_own(name: str, actor_calls: int, rate: float) -> None:
    """Targets, estimates and the actor's loss each by another key, and only where the rate is not 0."""
    module, keys = agents.load(name), list[Any]()
    real = halves.make_critic(network_config(name, critic_dropout=rate), SPEC)

    def apply(params: Any, *inputs: jax.Array, key: Any = None) -> jax.Array:
        if key is None:
            keys.append(None)
        else:
            jax.debug.callback(lambda data: keys.append(tuple(data.tolist())), jax.random.key_data(key))
        return real.apply(params, *inputs) if key is None else real.apply(params, *inputs, key=key)

    critic = Network(real.init, apply, real.dropout)
    if name == "iql":
        nets = module.make_critic_networks(network_config(name), SPEC)._replace(critic=critic)
        actor_nets = module.make_actor_networks(network_config(name), SPEC, (), lambda *inputs: 1.0)
        init_critic, init_actor = partial(module.init_critic, nets), halves.init_half(actor_nets.actor)
        state, actor = jax.jit(lambda key: (init_critic(key, as_arrays(module.Hypers())), init_actor(key, None)))(KEY)
        policy = None
    else:
        nets = module.make_networks(network_config(name), SPEC)
        nets = nets._replace(critic=critic, **({"published_critic": critic} if name == "td3" else {}))
        agent = module.assemble(nets)
        both = jax.jit(agent.init)(KEY)
        state, actor, policy = both.critic, both.actor, agent.policy_params(both.actor, None)
    run = jax.jit if rate else lambda function: partial(jax.eval_shape, function)  # without keys, tracing tells
    run(partial(module.update_critic, nets))(state, policy, BATCH, KEY)
    if actor_calls:
        run(partial(module.update_actor, nets))(actor, state.learner.params, BATCH, jax.random.fold_in(KEY, 1))
    jax.effects_barrier()
    assert len(keys) == 2 + actor_calls
    assert keys == [None] * len(keys) if rate == 0 else None not in keys and len(set(keys)) == len(keys)


@pytest.mark.parametrize("name", ["sac", "td3", "rebrac", "pql", "iql", "idql"])
def test_critics_with_batch_norm_publish_running_statistics(name: str) -> None:
    agent = agents.load(name).make(network_config(name, batch_norm="batch"), SPEC)
    state = jax.eval_shape(agent.init, KEY)
    new, _ = jax.eval_shape(agent.update, state, probes.complete(agent, BATCH), KEY)
    chex.assert_trees_all_equal_shapes_and_dtypes(new, state)
    assert "batch_stats" in str(jax.eval_shape(agent.critic_params, new.critic))


@pytest.mark.parametrize("name", ["sac", "tqc", "awac", "iql", "bc"])
def test_log_prob_of_stochastic_policies(name: str) -> None:
    """Against a Gaussian in float64; where tanh squashes the sample, with its Jacobian. `act` reports the same."""
    squashed, agent = name in ("sac", "tqc", "awac"), agents.load(name).make(network_config(name), SPEC)
    assert agent.log_prob is not None
    actor, log_prob = (
        networks.make_gaussian_policy(SPEC, (8, 8), state_dependent_std=name in ("sac", "tqc")),
        agent.log_prob,
    )

    @jax.jit
    def everything(policy: Any, *rows: Any) -> Any:
        densities = log_prob(policy, *rows), jax.vmap(log_prob, (None, 0, 0))(policy, *rows)
        output, (sampled, info) = (
            actor.apply(getattr(policy, "params", policy), rows[0]),
            agent.act(policy, rows[0], KEY),
        )
        return output, densities, sampled, info, log_prob(policy, rows[0], sampled)

    policy = jax.tree.map(lambda x: x + 0.1, jax.device_get(agent.acting_params(jax.jit(agent.init)(KEY))))
    output, densities, sampled, info, reported = jax.device_get(everything(policy, BATCH.observation, BATCH.action))
    mean, log_std, action = (np.asarray(x, np.float64) for x in (*output, BATCH.action))
    plain = -0.5 * ((action - np.tanh(mean)) / np.exp(log_std)) ** 2 - log_std - 0.5 * np.log(2 * np.pi)
    expected = tanh_log_prob(mean, log_std, action) if squashed else plain.sum(-1)
    for density in densities:
        np.testing.assert_allclose(density, expected, rtol=1e-4, atol=1e-4)
    if squashed:
        exact = np.abs(sampled).max(-1) < 0.999
        assert exact.sum() > 3  # nearer to +-1, float32 rounds the action
        np.testing.assert_allclose(reported[exact], info["log_prob"][exact], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["td3", "td3_bc", "rebrac", "pql", "idql"])
def test_deterministic_and_diffusion_policies_have_no_density(name: str) -> None:
    assert agents.load(name).make(network_config(name), SPEC).log_prob is None


def critic_step(critic: Network, axes: tuple[str, ...], half: Any, batch: Any) -> Any:
    """One step of Q-learning at the data's actions: the target by running statistics, the estimates by the batch's."""
    next_q = critic.apply(half.learner.target_variables, batch.next_observation, batch.action)
    target = halves.td_target(batch, losses.ensemble_min(next_q), half.hypers)
    return halves.update_critics(half, critic.apply, batch, target, axes, tau=0.25)


@pytest.mark.parametrize("batch_norm", ["batch", "renorm"])
def test_batch_norm_in_a_half(batch_norm: str) -> None:
    """One shard of 12 rows equals two of 6: parameters, moments, target, statistics and metrics, to 1e-6. Statistics
    move as `apply` says, have no moments, and are what target and acting read."""
    make = partial(networks.make_critic, SPEC, (8,), batch_norm=batch_norm, activation="tanh")
    one, two = make(axes=()), make(axes=("shard",))
    half = jax.jit(halves.init_half(one, target=True))(KEY, as_arrays(halves.Hypers()))
    assert "batch_stats" not in half.learner.params and "batch_stats" not in half.learner.opt_state.mu
    assert set(half.learner.target_params) == {"params"} and set(half.learner.variables) == {"params", "batch_stats"}
    step = jax.jit(lambda half, batch: critic_step(one, (), half, batch))
    sharded = partial(critic_step, two, ("shard",))
    shards = jax.jit(jax.vmap(sharded, (None, 0), axis_name="shard"))
    whole_batch, metrics = step(half, BATCH)
    got = shards(half, jax.tree.map(lambda x: x.reshape(2, 6, *x.shape[1:]), BATCH))
    for shard in range(2):
        near(jax.tree.map(lambda x, i=shard: x[i], got), (whole_batch, metrics), rtol=1e-6)
    new, old = whole_batch.learner, half.learner
    apply = jax.jit(one.apply, static_argnames="train")
    _, statistics = apply(old.variables, BATCH.observation, BATCH.action, train=True)
    near(new.statistics, statistics)
    assert np.any(new.statistics["batch_stats"]["BatchNorm_0"]["mean"] != 0)
    target = jax.tree.map(lambda t, p: 0.75 * t + 0.25 * p, *jax.device_get((old.target_params, new.params)))
    near(new.target_params, target)
    wanted = apply(target | statistics, BATCH.observation, BATCH.action)
    near(apply(new.target_variables, BATCH.observation, BATCH.action), wanted)
