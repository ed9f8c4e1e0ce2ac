"""The records that everything else speaks: transitions, environments and agents.

Shapes are written as `[B, A]`: B batch, T time, E environments, N ensemble, O observation, A action.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar

import jax
import jax.numpy as jnp
from flax.struct import PyTreeNode

Key = jax.Array  # a typed key, `jax.random.key(0)`
Params = Any  # a pytree of arrays, as flax.linen makes it
Metrics = dict[str, jax.Array]  # scalars by name

C = TypeVar("C", bound="Half")  # critic half
A = TypeVar("A", bound="Half")  # actor half
V = TypeVar("V")  # parameters that the critic half publishes
P = TypeVar("P")  # parameters that acting and the critic half read


SHARE = (0.0, 1.0)  # what a discount, an expectile or a Polyak step lies within
POSITIVE = (0.0, math.inf)


def setting(default: Any, help: str, within: tuple[float, float] = (-math.inf, math.inf)) -> Any:
    """A dataclass field with the text that `--help` shows, units included; numbers must lie `within`, ends included."""
    return dataclasses.field(default=default, metadata={"help": help, "within": within})


class Transition(NamedTuple):
    """What agents learn from; every leaf has the same leading axes, written `[B, ...]`.

    The learning target is always `reward + gamma * discount * Q(next_observation)`: for n-step windows `reward` is the
    discounted sum of the m <= n rewards really taken and `discount` is `gamma^(m-1) * (1 - terminated)`.
    """

    observation: jax.Array  # [B, O], normalised where the run normalises
    action: jax.Array  # [B, A] in [-1, 1]
    reward: jax.Array  # [B]
    discount: jax.Array  # [B], 0 where the task ended; a time limit never stops bootstrapping
    next_observation: jax.Array  # [B, O], the true successor, also where the episode ended
    extras: dict[str, jax.Array] = {}  # noqa: RUF012 -- NamedTuple defaults are shared and never written


class Spec(NamedTuple):
    """What an agent must know of an environment."""

    observation: jax.ShapeDtypeStruct  # of one observation, [O]
    action: jax.ShapeDtypeStruct  # of one action, [A], always in [-1, 1]
    episode_length: int  # steps to the time limit

    @property
    def observation_size(self) -> int:
        return self.observation.shape[-1]

    @property
    def action_size(self) -> int:
        return self.action.shape[-1]


class EnvState(PyTreeNode):
    """The state of one environment inside an episode."""

    inner: Any  # the wrapped library's own state
    observation: jax.Array  # [O]
    time: jax.Array  # [] int32, steps since the reset


class Step(NamedTuple):
    """What one environment step shows."""

    observation: jax.Array  # [O], to act on next: after an auto-reset, the first of the new episode
    next_observation: jax.Array  # [O], the true successor of the observation acted on
    reward: jax.Array  # []
    terminated: jax.Array  # [] bool, the task ended
    truncated: jax.Array  # [] bool, a limit cut the episode; never together with `terminated`
    metrics: dict[str, jax.Array]  # from `vectorise`: episode_return and episode_length, of the episode so far


class Env(Protocol):
    """One environment. Actions are in [-1, 1]; nothing resets by itself (see `rlx.envs.vectorise`)."""

    @property
    def spec(self) -> Spec: ...

    def reset(self, key: Key) -> EnvState: ...

    def step(self, state: EnvState, action: jax.Array, key: Key) -> tuple[EnvState, Step]: ...


class Half(Protocol):
    """One half of an agent: a PyTreeNode that owns its parameters, targets and optimiser state."""

    step: Any  # [] int32, updates this half has made
    hypers: Any  # traced scalars; `gamma` and `reward_scale` always

    def replace(self, **changes: Any) -> Self: ...


class State(PyTreeNode, Generic[C, A]):
    """An agent's whole state."""

    critic: C
    actor: A

    def with_hypers(self, hypers: Any) -> State[C, A]:
        """The same state under other hyper-parameters, a copy in each half, so that the state can be donated."""
        critic, actor = (half.replace(hypers=as_arrays(hypers)) for half in (self.critic, self.actor))
        return self.replace(critic=critic, actor=actor)


class Agent(NamedTuple, Generic[C, A, V, P]):
    """An algorithm as a record of pure functions in two halves, as optax's GradientTransformation is to optimisers.

    Either half can be jitted, vmapped over seeds and hyper-parameters, or placed on devices of its own.
    """

    init: Callable[..., State[C, A]]  # (key, hypers=None)
    critic_params: Callable[[C], V]  # the parameters that the critic half publishes
    policy_params: Callable[[A, V], P]  # the parameters that acting and the critic half read
    act: Callable[[P, jax.Array, Key], tuple[jax.Array, dict[str, jax.Array]]]  # explores; [..., O] -> [..., A]
    act_greedy: Callable[[P, jax.Array, Key], tuple[jax.Array, dict[str, jax.Array]]]
    update_critic: Callable[[C, P, Transition, Key], tuple[C, Metrics]]
    update_actor: Callable[[A, V, Transition, Key], tuple[A, Metrics]]  # the batch has the fields of `actor_reads` only
    actor_reads: tuple[str, ...] = (
        "observation",
    )  # fields of a transition, or of its extras, that the actor half reads

    def update(self, state: State[C, A], transition: Transition, key: Key) -> tuple[State[C, A], Metrics]:
        """One critic step, then one actor step that sees it. For embedding: `jax.jit(agent.update)`."""
        critic_key, actor_key = jax.random.split(key)
        policy = self.acting_params(state)
        critic, critic_metrics = self.update_critic(state.critic, policy, transition, critic_key)
        batch = self.actor_batch(transition)
        actor, actor_metrics = self.update_actor(state.actor, self.critic_params(critic), batch, actor_key)
        return State(critic=critic, actor=actor), critic_metrics | actor_metrics

    def acting_params(self, state: State[C, A]) -> P:
        """The parameters to act with."""
        return self.policy_params(state.actor, self.critic_params(state.critic))

    def actor_batch(self, transition: Transition) -> Transition:
        """The batch as the actor half gets it: fields that it does not read are None, and not in the extras."""
        fields: dict[str, Any] = {
            name: value if name in self.actor_reads else None for name, value in transition._asdict().items()
        }
        fields["extras"] = {name: value for name, value in transition.extras.items() if name in self.actor_reads}
        return Transition(**fields)


def fix_types(tree: Any) -> Any:
    """The same values without weak types, so that a first call and the next compile to one program."""
    return jax.tree.map(lambda x: x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else jnp.asarray(x, x.dtype), tree)


def as_arrays(hypers: Any) -> Any:
    """A copy of hyper-parameters as float32 arrays, so that plain numbers and vmapped ones make the same program."""
    return jax.tree.map(lambda x: jnp.array(x, jnp.float32), hypers)
