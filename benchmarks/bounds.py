"""What no implementation can be much faster than: the matrix products of an update alone, and bare copies."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Sizes(NamedTuple):
    """Of an observation and an action; HalfCheetah's unless said otherwise."""

    observation: int = 17
    action: int = 6


class Pass(NamedTuple):
    """A multilayer network used in an update: forward, and back to the weights, the inputs, or both."""

    widths: tuple[int, ...]  # of the input and of each layer
    copies: int = 1  # networks of an ensemble
    to_weights: bool = False
    to_inputs: bool = False


def passes(name: str, config: Any, sizes: Sizes = Sizes()) -> list[Pass]:  # noqa: B008 -- a tuple
    """What one update of an agent asks of each network, in any order."""
    o, a = sizes
    if name == "bc":
        return [Pass((o, *config.actor_hidden_sizes, a), to_weights=True)]
    if name in ("iql", "idql"):
        return _implicit(name, config, sizes)
    head = 2 * a if name in ("sac", "tqc") else a
    outputs = config.num_quantiles if name == "tqc" else config.num_atoms if getattr(config, "distributional", 0) else 1
    actor, critic = (o, *config.actor_hidden_sizes, head), (o + a, *config.critic_hidden_sizes, outputs)
    n = config.num_critics
    critic_half = [Pass(actor), Pass(critic, n), Pass(critic, n, to_weights=True)]
    climbed = 1 if name in ("td3", "td3_bc") else n  # critics that the actor half asks
    return [*critic_half, Pass(actor, to_weights=True), Pass(critic, climbed, to_inputs=True)]


def _implicit(name: str, config: Any, sizes: Sizes) -> list[Pass]:
    o, a = sizes
    critic, value = ((size, *config.critic_hidden_sizes, 1) for size in (o + a, o))
    n = config.num_critics
    critic_half = [Pass(critic, n), Pass(value, to_weights=True), Pass(value), Pass(critic, n, to_weights=True)]
    if name == "iql":  # whose actor half asks the new target critics and the new V
        return [*critic_half, Pass(critic, n), Pass(value), Pass((o, *config.actor_hidden_sizes, a), to_weights=True)]
    width = config.score_width
    score = (o + a + width, width, *(4 * width, width) * config.score_blocks, a)
    return [*critic_half, Pass((config.time_features, width, width), to_weights=True), Pass(score, to_weights=True)]


def products(wanted: list[Pass], batch: int) -> int:
    """Multiplications of all passes with `batch` rows."""
    total = 0
    for p in wanted:
        for i, (size, width) in enumerate(zip(p.widths, p.widths[1:], strict=False)):
            backward = p.to_weights + ((p.to_weights or p.to_inputs) and (i > 0 or p.to_inputs))
            total += p.copies * batch * size * width * (1 + backward)
    return total


def make_chain(wanted: list[Pass], batch: int) -> tuple[Any, Any]:
    """A function that makes the products of all `wanted`, and its arguments; the first is donated for the results.

    Of a Dense layer with B rows that is [B, I] x [I, O] forward, [I, B] x [B, O] for the weights' gradient, and
    [B, O] x [O, I] for the inputs', but where nobody needs that: the first layer, unless the gradient goes through it.
    """
    rng = iter(jax.random.split(jax.random.key(0), 10_000))
    networks = [
        [jax.random.normal(next(rng), shape) / shape[0] ** 0.5 for shape in zip(p.widths, p.widths[1:], strict=False)]
        for p in wanted
        for _ in range(p.copies)
    ]
    each = [p for p in wanted for _ in range(p.copies)]
    ends = [[jax.random.normal(next(rng), (batch, p.widths[i])) for i in (0, -1)] for p in each]

    def chain(scratch: Any, networks: Any, ends: Any) -> Any:
        del scratch
        return [run(p, *inputs) for p, *inputs in zip(each, networks, ends, strict=True)]

    def run(p: Pass, weights: list[jax.Array], ends: list[jax.Array]) -> list[jax.Array]:
        x, gradient = ends
        inputs = []
        for weight in weights:
            inputs.append(x)
            x = x @ weight
        results = [x]
        if p.to_weights or p.to_inputs:
            for i in reversed(range(len(weights))):
                if p.to_weights:
                    results.append(inputs[i].T @ gradient)
                if i or p.to_inputs:
                    gradient = gradient @ weights[i].T
            results += [gradient] * p.to_inputs
        return results

    results = jax.eval_shape(chain, None, networks, ends)
    scratch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), results)
    return jax.jit(chain, donate_argnums=0, keep_unused=True), (scratch, networks, ends)
