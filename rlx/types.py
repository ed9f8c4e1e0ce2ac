"""The records that all modules share: transitions, environments and agents.

Shapes are written as `[B, A]`: B batch, T time, E environments, N ensemble, O observation, A action.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable
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
COUNT = (1, 10**6)  # of networks, atoms, seeds, the width of a layer: more is a slip of the keyboard


def setting(
    default: Any,
    help: str,
    within: tuple[float, float] = (-math.inf, math.inf),
    *,
    choices: Iterable[str] = (),
    below: str = "",
    up_to: str = "",
    plan: str = "",
    describes: str = "",
) -> Any:
    """A dataclass field with the text that `--help` shows, units included, and what `rlx.settings.check` asks of it.

    Numbers must lie `within`, ends included, under the setting that `below` names, and not over the one that `up_to`
    names; text must be one of `choices`.
    Of a tuple each element must. An integer of a Config with a `plan`, "critic_updates" or "actor_updates" (of the
    run), "half_actor_updates" or "iteration_updates" (of the actor), is a schedule's length: where it is 0, the planned
    number takes its place. A text of a Config that `describes` a part that the agent `adopts` is the agent of the run
    that gives the part, and its settings (`rlx.agents.to_text`): the run writes it, so that it can be made again alone.
    """
    limits = {"within": within, "choices": tuple(choices), "below": below, "up_to": up_to}
    metadata = {"help": help, **limits, "plan": plan, "describes": describes}
    return dataclasses.field(default=default, metadata=metadata)


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


class Read(NamedTuple):
    """One of the extras of a minibatch: a column of the replay rows, and which row of an n-step window it is of.

    The column is a field of `rlx.replay.Row`, "time" (steps since the episode began), "source" (0: collected by this
    run; 1, 2, ...: the number of the data set), "return_to_go" of a data set (discounted rewards up to the episode's
    end), or comes from `act`'s info, `Spec.extras` or a data set's extras.
    """

    column: str
    rule: str = "first"  # one of RULES
    normalize: bool = False  # as observations are; only for columns of an observation's shape


RULES = (
    "first",  # of the row that the window starts with
    "last",  # of the last row taken
    "next",  # of the row after the last one taken; where the episode ended, the last one's own
    "sum",  # over the rows taken, discounted like rewards
    "future",  # of a row drawn uniformly from the later ones of the episode in replay; after the last, its own
)


class Spec(NamedTuple):
    """What an agent must know of an environment."""

    observation: jax.ShapeDtypeStruct  # of one observation, [O]
    action: jax.ShapeDtypeStruct  # of one action, [A], always in [-1, 1]; of a discrete one, one-hot
    episode_length: int  # steps to the time limit
    extras: dict[str, jax.ShapeDtypeStruct] = {}  # noqa: RUF012 -- of what `Step.extras` holds, such as a cost
    parts: dict[str, tuple[int, int]] = {}  # noqa: RUF012 -- of the observation: first column and the one after the last
    actor_parts: tuple[str, ...] = ()  # those that policies read; () for all of the observation
    critic_parts: tuple[str, ...] = ()  # and those that critics and value networks read
    metrics: tuple[str, ...] = ()  # numbers to report that `Step.metrics` has, such as terms of the reward
    num_actions: int = 0  # to choose from, where actions are discrete; `step` takes the index of the largest number
    action_mask: str = ""  # the part of the observation that tells which discrete actions are possible: 1, else 0

    def __hash__(self) -> int:  # so that whatever holds a Spec can be a static argument
        named = frozenset(self.extras.items()), frozenset(self.parts.items()), self.actor_parts, self.critic_parts
        return hash((self.observation, self.action, self.episode_length, self.metrics, *named))

    @property
    def observation_size(self) -> int:
        return self.observation.shape[-1]

    @property
    def actor_size(self) -> int:
        """Numbers of an observation that policies read."""
        return self._size(self.actor_parts)

    @property
    def critic_size(self) -> int:
        """Numbers of an observation that critics read."""
        return self._size(self.critic_parts)

    def actor_observation(self, observation: jax.Array) -> jax.Array:
        """What policies read of an observation `[..., O]`."""
        return self._cut(observation, self.actor_parts)

    def critic_observation(self, observation: jax.Array) -> jax.Array:
        """What critics read of an observation `[..., O]`."""
        return self._cut(observation, self.critic_parts)

    def of_actor(self, observation: jax.Array, rest: float = 0.0) -> jax.Array:
        """An observation `[..., O]` whose actor's part is `observation`, and everything else `rest`."""
        if not self.actor_parts:
            return observation
        ends = itertools.accumulate(end - start for start, end in map(self.parts.__getitem__, self.actor_parts))
        pieces = jnp.split(observation, list(ends)[:-1], axis=-1)
        full = jnp.full((*observation.shape[:-1], self.observation_size), rest, observation.dtype)
        for name, piece in zip(self.actor_parts, pieces, strict=True):
            full = full.at[..., slice(*self.parts[name])].set(piece)
        return full

    def possible_actions(self, observation: jax.Array) -> jax.Array:
        """Which discrete actions an observation `[..., O]` allows, `[..., n]` bool; all without an `action_mask`."""
        if not self.action_mask:
            return jnp.ones((*observation.shape[:-1], self.num_actions), bool)
        end = self.parts[self.action_mask][1]  # of several steps side by side, the last
        return observation[..., end - self.num_actions : end] > 0.5

    def _size(self, names: tuple[str, ...]) -> int:
        return sum(end - start for start, end in map(self.parts.__getitem__, names)) or self.observation_size

    def _cut(self, observation: jax.Array, names: tuple[str, ...]) -> jax.Array:
        """The named parts, one after the other."""
        if not names or names == tuple(self.parts):
            return observation
        return jnp.concatenate([observation[..., slice(*self.parts[name])] for name in names], axis=-1)

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
    metrics: dict[str, jax.Array]  # scalars: as `Spec.metrics` has it; from `vectorise` more, of the episode so far
    extras: dict[str, jax.Array] = {}  # noqa: RUF012 -- as `Spec.extras` has it


class Env(Protocol):
    """One environment. Actions are in [-1, 1]; nothing resets by itself (see `rlx.envs.vectorise`)."""

    @property
    def spec(self) -> Spec: ...

    def reset(self, key: Key, /) -> EnvState: ...

    def step(self, state: EnvState, action: jax.Array, key: Key, /) -> tuple[EnvState, Step]: ...


class Half(Protocol):
    """One half of an agent: a PyTreeNode that owns its parameters, targets and optimiser state."""

    step: Any  # [] int32, updates this half has made
    hypers: Any  # traced scalars; `gamma` and `reward_scale` always

    def replace(self, **changes: Any) -> Self: ...


class State(PyTreeNode, Generic[C, A]):
    """An agent's full state."""

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
    act: Callable[..., Any]  # explores: (policy parameters, observation [..., O], key) -> (action [..., A], info)
    act_greedy: Callable[..., Any]
    update_critic: Callable[[C, P, Transition, Key], tuple[C, Metrics]]
    update_actor: Callable[[A, V, Transition, Key], tuple[A, Metrics]]  # the batch has the fields of `actor_reads` only
    actor_reads: tuple[str, ...] = ("observation",)  # fields and extras of the actor half's batch
    reads: dict[str, Read] = {}  # noqa: RUF012 -- extras of a minibatch, by their names in its extras
    # (policy parameters, rows [K, E, ...] as the agent sees them, act's info) -> columns [K, E, ...], once a block;
    # they are stored, and are extras of every minibatch by their own names
    records: Callable[[P, Any, dict[str, jax.Array]], dict[str, jax.Array]] | None = None
    # (policy parameters, observation [..., O], action [..., A] in [-1, 1]) -> the log-density of `act`'s actions, [...]
    log_prob: Callable[[P, jax.Array, jax.Array], jax.Array] | None = None
    # (critic half, observation [..., O], action [..., A]) -> value [...] in units of scaled rewards
    q_value: Callable[[C, jax.Array, jax.Array], jax.Array] | None = None
    # () -> the acting state of one environment, a pytree. `act` and `act_greedy` then take it after the key, with
    # leaves [..., *shape], and return it third; it begins anew with every episode
    carry: Callable[[], Any] | None = None
    # () -> the same of exploration noise alone, in place of `carry`: `act` takes and returns it, `act_greedy` does not
    noise: Callable[[], Any] | None = None
    window: int = 0  # L > 0: the leaves of a minibatch are [B, L, ...], with extras["mask"] [B, L]
    discrete: bool = False  # chooses among `Spec.num_actions` actions; else actions are continuous
    on_policy: bool = False  # learns from the newest block alone, in `--epochs` passes over it
    keeps_statistics: bool = (
        False  # what it adopts sees observations normalised as in the run that gave it, offline too
    )
    # parts that another agent's run may give: (state, the other agent's state) -> state
    adopts: dict[str, Callable[[State[C, A], Any], State[C, A]]] = {}  # noqa: RUF012

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
        names = {*self.actor_reads, "mask"}
        fields: dict[str, Any] = {
            name: value if name in self.actor_reads else None for name, value in transition._asdict().items()
        }
        fields["extras"] = {name: value for name, value in transition.extras.items() if name in names}
        return Transition(**fields)


def fix_types(tree: Any) -> Any:
    """The same values without weak types, so that a first call and the next compile to one program."""
    return jax.tree.map(lambda x: x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else jnp.asarray(x, x.dtype), tree)


def as_arrays(hypers: Any) -> Any:
    """A copy of hyper-parameters as float32 arrays, so that plain numbers and vmapped ones make the same program."""
    return jax.tree.map(lambda x: jnp.array(x, jnp.float32), hypers)
