"""Problems so small that the right answer is known, each isolating one way for an agent to be wrong. Observations and
actions have one dimension. A probe makes transitions with random actions, or, for an on-policy agent, with its own;
`Query`s say what an agent must have learnt from them. All probes have the same shapes, so one compiled program per
agent serves them all."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlx import agents
from rlx.envs.base import advance, begin
from rlx.replay import Row
from rlx.types import Agent, EnvState, Key, Read, Spec, State, Step, Transition

SPEC = Spec(jax.ShapeDtypeStruct((1,), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.float32), 1000)
LEVELS = np.linspace(-1, 1, 5, dtype=np.float32)  # what discrete actions stand for
DISCRETE = SPEC._replace(action=jax.ShapeDtypeStruct(LEVELS.shape, jnp.float32), num_actions=len(LEVELS))
GAMMA = 0.5


class Query(NamedTuple):
    """What must be known at one observation: the value of one action, and the best action where there is one."""

    observation: float
    action: float
    value: float
    best: float | None = None


class Steps(NamedTuple):
    """Observations drawn from some places, random actions, discrete ones of `LEVELS`, and their rewards, discounts and
    next observations."""

    places: list[float]
    outcome: Callable[[Any, Any], tuple[Any, ...]]

    def __call__(self, rng: np.random.Generator, n: int, discrete: bool = False) -> tuple[np.ndarray, ...]:
        place, action = rng.choice(self.places, n), rng.uniform(-1, 1, n)
        action = np.round(2 * action) / 2 if discrete else action
        return place, action, *(np.broadcast_to(x, n) for x in self.outcome(place, action))


class Probe(NamedTuple):
    """`draw(rng, n)` gives n observations, actions, rewards, discounts and next observations, `[n]` each."""

    draw: Callable[..., tuple[np.ndarray, ...]]
    queries: tuple[Query, Query]


one_step_of_1 = Steps([0.0], lambda s, a: (1, 0, 0))  # the value's bias can be learnt, and nothing follows the end
two_steps = Steps([0.0, 1.0], lambda s, a: (s, 1 - s, 1))  # reward 1 at the second: the first is worth gamma
of_the_observation = Steps([-1.0, 1.0], lambda s, a: (s, 0, s))
of_the_action = Steps([0.0], lambda s, a: (1 - abs(a - 0.5), 0, 0))
of_both = Steps([-1.0, 1.0], lambda s, a: (1 - abs(a - s / 2), 0, s))  # the best action is half the observation
endless_reward = Steps([1.0], lambda s, a: (1, 1, 1))  # cut by time limits only, which are not the end
FOR_EVER = 1 / (1 - GAMMA)
PROBES = {
    "value": Probe(one_step_of_1, (Query(0, -0.5, 1), Query(0, 0.5, 1))),
    "discounting": Probe(two_steps, (Query(0, 0.5, GAMMA), Query(1, 0.5, 1))),
    "observation": Probe(of_the_observation, (Query(-1, 0, -1), Query(1, 0, 1))),
    "action": Probe(of_the_action, (Query(0, -0.5, 0, best=0.5), Query(0, 0, 0.5, best=0.5))),
    "policy": Probe(of_both, (Query(-1, 0.5, 0, best=-0.5), Query(1, 0, 0.5, best=0.5))),
    "time limit": Probe(endless_reward, (Query(1, -0.5, FOR_EVER), Query(1, 0.5, FOR_EVER))),
}
NUMBERS = {name: number for number, name in enumerate(PROBES)}


def batches(probe: Probe, count: int, size: int, seed: int = 0, discrete: bool = False) -> Transition:
    """`count` minibatches of a probe, `[count, size, ...]`."""
    drawn = probe.draw(np.random.default_rng(seed), count * size, discrete)
    arrays = (jnp.asarray(x.reshape(count, size), jnp.float32) for x in drawn)
    observation, action, reward, discount, following = arrays
    return Transition(observation[..., None], action[..., None], reward, discount, following[..., None])


def questions(probe: Probe) -> tuple[jax.Array, jax.Array]:
    """Observations and actions of the probe's queries, `[2, 1]` each."""
    asked = [[[query.observation, query.action]] for query in probe.queries]
    observation, action = jnp.moveaxis(jnp.array(asked, jnp.float32), 2, 0)
    return observation, action


def with_reads(batch: Transition, reads: Mapping[str, Read]) -> Transition:
    """The batch with the extras that an agent reads of fields of a row, as if each row were an episode of its own. Then
    each rule means the row's own number. Raises KeyError for a column that is no field."""
    zeros = jnp.zeros_like(batch.reward)
    columns = batch._asdict() | {"terminated": batch.discount == 0, "truncated": batch.discount > 0}
    columns |= {"time": zeros.astype(jnp.int32), "source": zeros.astype(jnp.int32)}
    return batch._replace(extras={name: columns[read.column] for name, read in reads.items()})


def complete(agent: Agent, batch: Transition) -> Transition:
    """The batch with all extras that the agent reads and records, as if each row were an episode of its own."""
    batch = with_reads(batch, agent.reads)
    if agent.records is None:
        return batch
    policy = agent.acting_params(agent.init(jax.random.key(0)))
    return recorded(agent, policy, batch, agent.act(policy, batch.observation, jax.random.key(0))[1])


def recorded(agent: Agent, policy: Any, batch: Transition, info: dict[str, jax.Array]) -> Transition:
    """The batch with what the agent records of it, with this `info` of the actions."""
    assert agent.records is not None
    ends = batch.discount == 0, batch.discount > 0
    rows = Row(batch.observation, batch.action, batch.reward, *ends, batch.next_observation)
    lead = batch.reward.shape
    block = jax.tree.map(lambda x: x.reshape(1, -1, *x.shape[len(lead) :]), (rows, info))
    columns = jax.tree.map(lambda x: x.reshape(*lead, *x.shape[2:]), agent.records(policy, *block))
    return batch._replace(extras=batch.extras | columns)


def played(agent: Agent, state: State, batch: Transition, number: jax.Array, key: Key) -> Transition:
    """The batch with actions of the agent's own at its observations, and what follows in the probe of this number."""
    policy = agent.acting_params(state)
    action, info = agent.act(policy, batch.observation, key)
    place = batch.observation[:, 0]
    outcomes = [probe.draw.outcome(place, action[:, 0]) for probe in PROBES.values()]  # type: ignore[attr-defined]
    all_of_them = [[jnp.broadcast_to(jnp.float32(x), place.shape) for x in outcome] for outcome in outcomes]
    reward, discount, following = jnp.stack([jnp.stack(outcome) for outcome in all_of_them])[number]
    batch = batch._replace(action=action, reward=reward, discount=discount, next_observation=following[:, None])
    return recorded(agent, policy, batch, info)


def choosing(agent: Agent) -> Agent:
    """An agent of `DISCRETE` as one of `SPEC`: its actions are `LEVELS`, and it learns of an action as the nearest."""

    def choice(action: jax.Array) -> jax.Array:
        levels = LEVELS.reshape(*[1] * (action.ndim - 1), -1)
        return jax.nn.one_hot(jnp.argmin(jnp.abs(action[..., :1] - levels), axis=-1), len(LEVELS), dtype=jnp.float32)

    def of(rows: Any) -> Any:
        return rows if rows.action is None else rows._replace(action=choice(rows.action))

    def level(act: Callable[..., Any]) -> Callable[..., Any]:
        def acted(*inputs: Any) -> Any:
            action, *rest = act(*inputs)
            return (action @ LEVELS)[..., None], *rest

        return acted

    records, q_value = agent.records, agent.q_value
    return agent._replace(
        act=level(agent.act),
        act_greedy=level(agent.act_greedy),
        update_critic=lambda half, policy, batch, key: agent.update_critic(half, policy, of(batch), key),
        update_actor=lambda half, value, batch, key: agent.update_actor(half, value, of(batch), key),
        records=records and (lambda policy, rows, info: records(policy, of(rows), info)),
        q_value=q_value and (lambda half, observation, action: q_value(half, observation, choice(action))),
    )


def make(name: str, config: Any, spec: Spec) -> Agent:
    """The agent of this name for `spec`; one that only chooses among actions takes the first number of an action."""
    agent: Agent = agents.load(name).make(config, spec)
    if not agent.discrete:
        return agent
    return choosing(agents.load(name).make(config, spec._replace(action=DISCRETE.action, num_actions=len(LEVELS))))


class Learnt(NamedTuple):
    """What became of an agent, and what it knows of each query."""

    state: State
    value: jax.Array | None  # [2], Q or, on-policy, V; None of an agent that knows neither
    greedy: jax.Array  # [2, 1], actions
    explored: jax.Array  # [2, 1], actions


def learner(agent: Agent) -> Callable[..., Learnt]:
    """A function `(state, batches [T, B, ...], (observation, action) [2, 1], key, act_key, updates, number=0)`: of an
    agent after `updates` updates, at most T; their number may be traced, so that one program makes few and many.
    An on-policy agent gets the batches as it plays them, in the probe of this number."""

    def value(state: State, policy: Any, observation: jax.Array, action: jax.Array, key: Key, size: int) -> Any:
        """Of one query, as the agent says it or, where it does not, as its critic's update reports it."""
        if agent.q_value is not None:
            return agent.q_value(state.critic, observation[None], action[None])[0]
        observation, action = (jnp.broadcast_to(x, (size, 1)) for x in (observation, action))
        nothing = jnp.zeros(size)
        batch = complete(agent, Transition(observation, action, nothing, nothing, observation))
        _, metrics = agent.update_critic(state.critic, policy, batch, key)
        return metrics.get("q_mean", metrics.get("v_mean"))

    def learn(
        state: State, batches: Transition, query: tuple[Any, Any], key: Key, act_key: Key, updates: Any, number: Any = 0
    ) -> Learnt:
        def update(i: Any, state: State) -> State:
            batch, update_key = jax.tree.map(lambda x: x[i], batches), jax.random.fold_in(key, i)
            if agent.on_policy:
                batch = played(agent, state, batch, number, jax.random.fold_in(update_key, 1))
            return agent.update(state, batch, update_key)[0]

        state = jax.lax.fori_loop(0, updates, update, state)
        policy = agent.acting_params(state)
        greedy, explored = (act(policy, query[0], act_key)[0] for act in (agent.act_greedy, agent.act))
        size = batches.reward.shape[1]  # which updates are traced for
        values = jax.vmap(lambda *row: value(state, policy, row[0], row[1], act_key, size))(*query)
        return Learnt(state, values, greedy, explored)

    return learn


def with_hypers(state: State, **changes: Any) -> State:
    """The state with these changes to the hyper-parameters of both halves."""
    halves = {name: getattr(state, name) for name in ("critic", "actor")}
    return state.replace(**{name: half.replace(hypers=half.hypers.replace(**changes)) for name, half in halves.items()})


class Contract(NamedTuple):
    """What tests/test_contract.py needs to know of an agent, beyond what it finds out for itself."""

    config: dict[str, Any] = {}  # noqa: RUF012 -- changes to its Config that make it small, beside hidden sizes
    hypers: dict[str, Any] = {}  # noqa: RUF012 -- changes to its Hypers that make it learn the probes quickly
    variants: tuple[dict[str, Any], ...] = ()  # further changes to its Config, each worth the same checks
    slow_probes: bool = False  # it needs so many updates for the probes that they are in the slow set
    probed_elsewhere: bool = False  # by the agent's own tests, at other sizes or with other answers
    tolerance: float = 1.0  # factor on how far values and actions may be off, where they jitter
    updates: int = 700  # of each probe
    batch: int = 16  # rows of a minibatch
    small_steps: bool = (
        False  # batch norm leaves kernels behind one number without gradient: Adam would step by rounding
    )
    discrete: bool = False  # whether it chooses among actions
    samples: bool = False  # whether its greedy action is chosen among samples, and so depends on the key


def small(config: type[Any], width: int = 32, layers: int = 2, actor_layers: int | None = None, **changes: Any) -> Any:
    """An agent's Config with narrow networks, `layers` deep."""
    names = [f.name for f in dataclasses.fields(config) if f.name.endswith("hidden_sizes")]
    depth = {"actor_hidden_sizes": layers if actor_layers is None else actor_layers}
    return config(**{name: (width,) * depth.get(name, layers) for name in names} | changes)


def quick(hypers: type[Any], **changes: Any) -> Any:
    """An agent's Hypers for the probes: high learning rates, gamma 0.5."""
    rates = {f.name: 3e-3 for f in dataclasses.fields(hypers) if f.name.endswith("_lr")}
    known = {f.name for f in dataclasses.fields(hypers)}
    wanted = {"gamma": GAMMA, "tau": 0.1} | rates
    return hypers(**{name: value for name, value in wanted.items() if name in known} | changes)


class EndlessReward(NamedTuple):
    """`endless_reward` as an environment: reward 1 a step and a time limit of 5 steps; the observation is always 0."""

    spec: Spec = SPEC._replace(episode_length=5)

    def reset(self, key: Key) -> EnvState:
        del key
        return begin(jnp.zeros(()), jnp.zeros(1))

    def step(self, state: EnvState, action: jax.Array, key: Key) -> tuple[EnvState, Step]:
        del action, key
        return advance(state, state.inner, jnp.zeros(1), jnp.ones(()), jnp.zeros((), bool), self.spec.episode_length)
