"""Networks as records of pure functions: policies, values, ensembles of critics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from rlx.errors import RlxError
from rlx.networks.modules import MLP, Decoder, FlowHead, GaussianHead, MixtureHead
from rlx.types import Key, Params, Spec

IMPOSSIBLE = -1e9  # the logit or value of a discrete action that an observation does not allow; its probability is 0


class Apply(Protocol):
    """`(params, *inputs)` to outputs; several inputs `[..., I]` are concatenated on their last axis.

    With a `key` it drops out at random; without, as in acting and in targets, dropout does nothing. With `train`, batch
    norm takes the batch's statistics, and `(outputs, statistics)` is returned: `params | statistics` are the parameters
    with the new running ones.
    """

    def __call__(self, params: Params, *inputs: jax.Array, key: Key | None = None, train: bool = False) -> Any: ...


class Network(NamedTuple):
    """A network as a pair of pure functions."""

    init: Callable[[Key], Params]
    apply: Callable[..., Any]  # as `Apply`
    dropout: float = 0.0  # the rate at which `apply` drops out where it has a key

    def with_dropout(self, key: Key, index: int) -> Callable[..., Any]:
        """`apply` with dropout by the `index`-th key of an update's `key`; `apply` itself where the rate is 0."""
        return partial(self.apply, key=jax.random.fold_in(key, index)) if self.dropout else self.apply


def make_gaussian_policy(
    spec: Spec,
    hidden_sizes: Sequence[int],
    *,
    state_dependent_std: bool = True,
    log_std: tuple[str, float, float] | None = None,
    **options: Any,
) -> Network:
    """`apply(params, observation [..., O]) -> (mean, log_std)`, both `[..., A]`, not squashed.

    `log_std` bounds the latter, as `GaussianHead` has it.

    Of observations with parts, policies read those of the actor, critics and values those of the critic (see `Spec`).
    `options` here and below are the MLP's fields, and `input_size`, the numbers that the network reads of all inputs
    together, for networks that read others than these.
    """
    size = spec.action_size * (2 if state_dependent_std else 1)
    input_size = options.pop("input_size", spec.actor_size)
    head = GaussianHead(MLP(hidden_sizes, size, **options), state_dependent_std, log_std)
    return make_network(head, input_size, spec.actor_observation)


def make_mixture_policy(
    spec: Spec, hidden_sizes: Sequence[int], *, num_experts: int, log_std: tuple[str, float, float], **options: Any
) -> Network:
    """`apply(params, observation [..., O]) -> (logits [..., K], mean, log_std)`, the latter two `[..., K, A]`."""
    mlp = MLP(hidden_sizes, num_experts * (1 + 2 * spec.action_size), **options)
    return make_network(MixtureHead(mlp, num_experts, log_std), spec.actor_size, spec.actor_observation)


VELOCITIES = ("gated", "decoded", "plain")


def make_flow_policy(
    spec: Spec, hidden_sizes: Sequence[int], *, velocity: str, log_std: tuple[str, float, float], **options: Any
) -> Network:
    """`apply(params, observation [..., O], x [..., A], time [..., 1]) -> (velocity, log_std)`, both `[..., A]`.

    The velocity is one of VELOCITIES: with `FlowHead`'s gate, of a `Decoder`, or an MLP's.
    """
    mlps: list[Any] = [MLP(hidden_sizes, spec.action_size, **options) for _ in range(3)]
    candidate, gate, deviation = mlps
    if velocity == "decoded":
        own = {name: options[name] for name in ("activation", "kernel_init", "compute_dtype") if name in options}
        candidate = Decoder(hidden_sizes, spec.action_size, **own)
    head = FlowHead(candidate, gate if velocity == "gated" else None, deviation, spec.action_size, log_std)
    return make_network(head, spec.actor_size + spec.action_size + 1, spec.actor_observation)


def make_categorical_policy(spec: Spec, hidden_sizes: Sequence[int], **options: Any) -> Network:
    """`apply(params, observation [..., O]) -> logits [..., num_actions]`, `IMPOSSIBLE` where the mask is 0."""
    mlp = MLP(hidden_sizes, spec.num_actions, **options)
    return make_network(mlp, spec.actor_size, spec.actor_observation, mask=_mask(spec))


def make_discrete_critic(spec: Spec, hidden_sizes: Sequence[int], *, num_critics: int = 1, **options: Any) -> Network:
    """An ensemble of N critics: `apply(params, observation [..., O]) -> [N, ..., n]`, values of all discrete actions.

    They are `IMPOSSIBLE` where the mask is 0. Raises RlxError for `num_critics` below 1.
    """
    if num_critics < 1:
        raise RlxError(f"--num-critics {num_critics}: must be at least 1")
    mlp = MLP(hidden_sizes, spec.action_size, **options)
    return ensemble(make_network(mlp, spec.critic_size, spec.critic_observation, mask=_mask(spec)), num_critics)


def _mask(spec: Spec) -> Callable[[jax.Array], jax.Array] | None:
    return spec.possible_actions if spec.action_mask else None


def make_deterministic_policy(spec: Spec, hidden_sizes: Sequence[int], **options: Any) -> Network:
    """`apply(params, observation [..., O]) -> action [..., A]` in [-1, 1], by tanh."""
    input_size = options.pop("input_size", spec.actor_size)
    return make_network(MLP(hidden_sizes, spec.action_size, **options), input_size, spec.actor_observation, jnp.tanh)


def make_velocity(spec: Spec, hidden_sizes: Sequence[int], *, timed: bool = True, **options: Any) -> Network:
    """`apply(params, observation [..., O], x [..., A], time [..., 1]) -> [..., A]`, a flow's velocity at x.

    Without `timed` there is no time: then it is a map from noise to actions, not bounded.
    """
    input_size = options.pop("input_size", spec.actor_size + spec.action_size + timed)
    return make_network(MLP(hidden_sizes, spec.action_size, **options), input_size, spec.actor_observation)


def make_value(spec: Spec, hidden_sizes: Sequence[int], **options: Any) -> Network:
    """`apply(params, observation [..., O]) -> value [...]`."""
    input_size = options.pop("input_size", spec.critic_size)
    mlp = MLP(hidden_sizes, 1, **options)
    return make_network(mlp, input_size, spec.critic_observation, lambda output: output[..., 0])


def make_critic(
    spec: Spec, hidden_sizes: Sequence[int], *, num_critics: int = 2, num_atoms: int | None = None, **options: Any
) -> Network:
    """An ensemble of N critics: `apply(params, observation [..., O], action [..., A]) -> [N, ...]`.

    With `num_atoms` M the output is `[N, ..., M]`: quantiles, or logits over a support. Parameters are stacked on axis
    0. Raises RlxError for `num_critics` or `num_atoms` below 1.
    """
    if num_critics < 1:
        raise RlxError(f"--num-critics {num_critics}: must be at least 1")
    if num_atoms is not None and num_atoms < 1:
        raise RlxError(f"num_atoms {num_atoms}: must be at least 1")
    input_size = options.pop("input_size", spec.critic_size + spec.action_size)
    mlp = MLP(hidden_sizes, num_atoms or 1, **options)
    critic = make_network(
        mlp, input_size, spec.critic_observation, lambda output: output if num_atoms else output[..., 0]
    )
    return ensemble(critic, num_critics)


def ensemble(network: Network, size: int) -> Network:
    """N independent copies by vmap: parameters are stacked on axis 0, outputs are `[N, ...]`, inputs are shared.

    Each copy drops out by a key of its own. With `each` in `apply`, inputs are `[N, ...]`, every copy's own.
    """

    def init(key: Key) -> Params:
        return jax.vmap(network.init)(jax.random.split(key, size))

    def apply(params: Params, *inputs: jax.Array, key: Key | None = None, each: bool = False, **options: Any) -> Any:
        # Copies of the inputs are small and make every layer a batched product. Shared inputs would make the first one
        # a single wide product, whose large output must then be transposed: 5 % slower, forward and backward, on a CPU.
        count = jax.tree.leaves(params)[0].shape[0]  # `size`, or fewer: parameters of some of the copies will do
        copies = list(inputs) if each else [jnp.broadcast_to(x, (count, *x.shape)) for x in inputs]
        keys = {} if key is None else {"key": jax.random.split(key, count)}
        return jax.vmap(lambda params, inputs, keys: network.apply(params, *inputs, **keys, **options))(
            params, copies, keys
        )

    return network._replace(init=init, apply=apply)


def random_members(params: Params, key: Key, count: int) -> Params:
    """The parameters of `count` different members of an ensemble, drawn at random, `[N, ...]` -> `[count, ...]`."""
    size = jax.tree.leaves(params)[0].shape[0]
    members = jax.random.choice(key, size, (count,), replace=False)
    return jax.tree.map(lambda x: jnp.take(x, members, axis=0), params)


def make_network(
    module: Any,
    input_size: int,
    read: Callable[[jax.Array], jax.Array],
    output: Callable[[Any], Any] = lambda output: output,
    mask: Callable[[jax.Array], jax.Array] | None = None,
) -> Network:
    """A module as a record; `read` is what it reads of the observation, its first input, `output` maps its outputs.

    They are `IMPOSSIBLE` where `mask(observation)` is False. The module is called like an MLP, and has its field
    `dropout`.
    """

    def apply(params: Params, *inputs: jax.Array, key: Key | None = None, train: bool = False) -> Any:
        rngs = None if key is None else {"dropout": key}
        observation = inputs[0]
        inputs = (read(observation), *inputs[1:])

        def finished(outputs: Any) -> Any:
            return output(outputs) if mask is None else jnp.where(mask(observation), output(outputs), IMPOSSIBLE)

        if not train:
            return finished(module.apply(params, *inputs, rngs=rngs))
        outputs, statistics = module.apply(params, *inputs, train=True, rngs=rngs, mutable=["batch_stats"])
        return finished(outputs), statistics

    dropout = module.mlp.dropout if isinstance(module, GaussianHead) else module.dropout
    return Network(lambda key: module.init(key, jnp.zeros(input_size)), apply, dropout)
