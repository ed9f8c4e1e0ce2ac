"""The state of a half, and the first state of both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, TypeVar

import jax
import jax.numpy as jnp
import optax
from flax.struct import PyTreeNode

from rlx.networks import Network
from rlx.optim import Learner, make_optimizer
from rlx.types import Key, State, as_arrays


class HalfState(PyTreeNode):
    """One half of an agent. A half with several networks is a subclass with further learners."""

    learner: Any  # Learner; None of a half that learns nothing
    step: jax.Array  # [] int32, updates so far
    hypers: Any

    @classmethod
    def create(cls, hypers: Any, learner: Learner | None, **fields: Any) -> Self:
        """The half before its first update; `fields` are a subclass's own."""
        return cls(learner, jnp.zeros((), jnp.int32), hypers, **fields)

    def advance(self, **learners: Learner) -> Self:
        """The half after an update, with these learners in place of the old ones."""
        return self.replace(step=self.step + 1, **learners)


class SoftActorState(HalfState):
    """The actor half of maximum-entropy agents."""

    log_alpha: Learner  # of the temperature, parameters []


def limited_adam(hypers: Any) -> optax.GradientTransformation:
    """Adam of gradients that are scaled down to the norm `hypers.max_gradient_norm`."""
    return make_optimizer(max_gradient_norm=hypers.max_gradient_norm)


CriticHalf = TypeVar("CriticHalf", bound=HalfState)
ActorHalf = TypeVar("ActorHalf", bound=HalfState)


def make_init(
    defaults: type[Any],
    init_critic: Callable[[Key, Any], CriticHalf] | None,
    init_actor: Callable[[Key, Any], ActorHalf],
) -> Callable[..., State[CriticHalf, ActorHalf]]:
    """An agent's `init(key, hypers=None)` from `(key, hypers) -> state` of each half; `defaults` is its Hypers.

    Without `init_critic` the critic half learns nothing. No two leaves share memory, so callers may donate the state.
    """

    def init(key: Key, hypers: Any = None) -> State[Any, ActorHalf]:
        hypers = as_arrays(defaults() if hypers is None else hypers)
        if init_critic is None:
            state = State[Any, ActorHalf](critic=HalfState.create(hypers, None), actor=init_actor(key, hypers))
        else:
            critic_key, actor_key = jax.random.split(key)
            state = State(critic=init_critic(critic_key, hypers), actor=init_actor(actor_key, hypers))
        return jax.tree.map(jnp.copy, state)

    return init


def init_half(
    network: Network,
    optimizer: Callable[[Any], optax.GradientTransformation | None] = lambda hypers: None,
    target: bool = False,
) -> Callable[[Key, Any], HalfState]:
    """`(key, hypers) -> state` of a half with one network; `optimizer(hypers)` is Adam by default."""

    def init(key: Key, hypers: Any) -> HalfState:
        return HalfState.create(hypers, Learner.create(network.init(key), optimizer(hypers), target))

    return init


def init_soft_actor(
    network: Network,
    optimizer: Callable[[Any], optax.GradientTransformation | None] = lambda hypers: None,
    target: bool = False,
) -> Callable[[Key, Any], SoftActorState]:
    """The same with a temperature, which starts at the hyper-parameter `alpha_init`."""

    def init(key: Key, hypers: Any) -> SoftActorState:
        actor = Learner.create(network.init(key), optimizer(hypers), target)
        return SoftActorState.create(hypers, actor, log_alpha=Learner.create(jnp.log(hypers.alpha_init)))

    return init
