"""A linear agent and environment, simple enough to be written again in NumPy: what the pipeline is proved on."""

from typing import Any

import jax
import jax.numpy as jnp
from flax.struct import PyTreeNode

from rlx import parallel
from rlx.envs.base import vectorise
from rlx.optim import gradient_step
from rlx.train.config import TrainConfig
from rlx.train.plan import make_plan
from rlx.train.task import Task
from rlx.types import Agent, EnvState, Spec, State, Step

SIZE, A = 3, 2
GAMMA, CRITIC_LR, ACTOR_LR = 0.9, 0.05, 0.02
DYNAMICS = [[0.8, 0.1, 0.0], [0.0, 0.7, 0.2], [0.1, 0.0, 0.6]]
PUSH = [[0.3, 0.0], [0.1, 0.2], [0.0, 0.4]]
COST = [0.5, -0.3, 0.2]
TIME_LIMIT, FATAL = 5, 1.2  # an episode ends in a terminal state where the first observation exceeds FATAL


# small, odd where it can be, and exact: float64 from the environment through replay to the parameters
CONFIG = TrainConfig(
    num_envs=8,
    total_env_steps=10_000,
    warmup_env_steps=48,
    ratio="3:2",
    batch_size=16,
    rollout_length=2,
    replay_capacity=192,
    replay_dtype="float64",
    n_step=2,
    normalize_observations=False,
    noise_min=0.1,
    noise_max=0.5,
    pool_size=8,
)


class Hypers(PyTreeNode):
    gamma: Any = GAMMA


class Half(PyTreeNode):
    params: jax.Array
    step: jax.Array
    hypers: Hypers


class LinearEnv:
    """x' = D x + P a, reward c.x - |a|^2 / 10, in float64."""

    spec = Spec(jax.ShapeDtypeStruct((SIZE,), jnp.float64), jax.ShapeDtypeStruct((A,), jnp.float64), TIME_LIMIT)

    def reset(self, key: jax.Array) -> EnvState:
        x = jax.random.uniform(key, (SIZE,), jnp.float64, -1, 1)
        return EnvState(inner=x, observation=x, time=jnp.zeros((), jnp.int32))

    def step(self, state: EnvState, action: jax.Array, key: jax.Array) -> tuple[EnvState, Step]:
        x = jnp.asarray(DYNAMICS) @ state.inner + jnp.asarray(PUSH) @ action
        reward = jnp.asarray(COST) @ state.inner - 0.1 * action @ action
        time, terminated = state.time + 1, x[0] > FATAL
        truncated = (time >= TIME_LIMIT) & ~terminated
        return EnvState(inner=x, observation=x, time=time), Step(x, x, reward, terminated, truncated, {})


def make_agent(axes: parallel.Axes) -> Agent:
    """Q = w . [s, a], a = K s; plain gradient steps, so that any factor in a gradient shows."""

    class Plain:
        init = staticmethod(lambda params: ())
        update = staticmethod(lambda gradient, state, params: (gradient, state))

    def init(key: jax.Array, hypers: Any = None) -> State:
        critic_key, actor_key = jax.random.split(key)
        w = 0.1 * jax.random.normal(critic_key, (SIZE + A,), jnp.float64)
        k = 0.1 * jax.random.normal(actor_key, (A, SIZE), jnp.float64)
        hypers = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), hypers or Hypers())
        step = jnp.zeros((), jnp.int32)
        return State(critic=Half(w, step, hypers), actor=Half(k, step, hypers))

    def q(w: jax.Array, s: jax.Array, a: jax.Array) -> jax.Array:
        return jnp.concatenate([s, a], axis=-1) @ w

    def act(policy: jax.Array, s: jax.Array, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        return s @ policy.T, {}

    def update_critic(critic: Half, policy: jax.Array, batch: Any, key: jax.Array) -> tuple[Half, dict[str, jax.Array]]:
        next_q = q(critic.params, batch.next_observation, batch.next_observation @ policy.T)
        target = jax.lax.stop_gradient(batch.reward + GAMMA * batch.discount * next_q)

        def loss(w: jax.Array) -> Any:
            value = jnp.mean((q(w, batch.observation, batch.action) - target) ** 2)
            return value, {"critic_loss": value}

        params, _, metrics = gradient_step(loss, Plain, axes)(critic.params, (), CRITIC_LR)
        return critic.replace(params=params, step=critic.step + 1), metrics

    def update_actor(actor: Half, value: jax.Array, batch: Any, key: jax.Array) -> tuple[Half, dict[str, jax.Array]]:
        s = batch.observation

        def loss(k: jax.Array) -> Any:
            value_ = -jnp.mean(q(value, s, s @ k.T))
            return value_, {"actor_loss": value_}

        params, _, metrics = gradient_step(loss, Plain, axes)(actor.params, (), ACTOR_LR)
        return actor.replace(params=params, step=actor.step + 1), metrics

    return Agent(
        init=init,
        critic_params=lambda critic: critic.params,
        policy_params=lambda actor, critic_params: actor.params,
        act=act,
        act_greedy=act,
        update_critic=update_critic,
        update_actor=update_actor,
    )


def make_task(config: TrainConfig, shards: int) -> Task:
    """The linear problem for `shards` logical shards."""
    plan, axes = make_plan(config, shards), (parallel.DEVICE, parallel.SHARD)
    env = LinearEnv()
    batch = vectorise(env, plan.shard_envs, plan.shard_pool)
    return Task(make_agent(axes), env, batch, config, plan, axes)
