"""One update of an agent against its matrix products alone: `python benchmarks/updates.py --agents iql idql`.

The update is `jax.jit(agent.update)` with the state donated and the whole of it returned. Its chain is every product of
two matrices that the equations ask for, and nothing else: no bias, activation, loss, optimiser or target network. Of a
Dense layer with B rows that is [B, I] x [I, O] forward, [I, B] x [B, O] for the weights' gradient, and
[B, O] x [O, I] for the inputs', but where nobody needs that (the first layer, unless the gradient goes through it).
They are written as `x @ w`, `x.T @ g` and `g @ w.T`, as differentiating makes them.

Both run in turns on one core, timed by the processor's time of this process, so that what else runs on the machine
counts less. The ratio is chain's time / update's time: 1 would be an update made of those products only. More is
possible, for rlx may find a faster way to the same numbers: `rlx.networks.product` transposes x first, and IDQL embeds
each of its few times once, while its chain embeds the time of every row.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlx import agents
from rlx.results import origin
from rlx.types import Spec, Transition

O, A = 17, 6  # noqa: E741 -- HalfCheetah's sizes
SPEC = Spec(jax.ShapeDtypeStruct((O,), jnp.float32), jax.ShapeDtypeStruct((A,), jnp.float32), 1000)


class Pass(NamedTuple):
    """A multilayer network used in an update: forward, and back to the weights, the inputs, or both."""

    widths: tuple[int, ...]  # of the input and of each layer
    copies: int = 1  # networks of an ensemble
    to_weights: bool = False
    to_inputs: bool = False


def passes(name: str, config: Any) -> list[Pass]:
    """What one update asks of each network, in any order."""
    if name in ("sac", "tqc"):
        actor = (O, *config.actor_hidden_sizes, 2 * A)
        critic = (O + A, *config.critic_hidden_sizes, getattr(config, "num_quantiles", 1))
        n = config.num_critics
        critic_half = [Pass(actor), Pass(critic, n), Pass(critic, n, to_weights=True)]
        return [*critic_half, Pass(actor, to_weights=True), Pass(critic, n, to_inputs=True)]
    critic, value = ((size, *config.critic_hidden_sizes, 1) for size in (O + A, O))
    n = config.num_critics
    critic_half = [Pass(critic, n), Pass(value, to_weights=True), Pass(value), Pass(critic, n, to_weights=True)]
    if name == "iql":  # whose actor half asks the new target critics and the new V
        return [*critic_half, Pass(critic, n), Pass(value), Pass((O, *config.actor_hidden_sizes, A), to_weights=True)]
    width = config.score_width
    score = (O + A + width, width, *(4 * width, width) * config.score_blocks, A)
    return [*critic_half, Pass((config.time_features, width, width), to_weights=True), Pass(score, to_weights=True)]


def make_chain(wanted: list[Pass], batch: int) -> tuple[Any, Any]:
    """A function that makes the products of all `wanted`, and its arguments; the first is donated for the results."""
    rng = iter(jax.random.split(jax.random.key(0), 10_000))
    networks = [
        [jax.random.normal(next(rng), shape) / shape[0] ** 0.5 for shape in zip(p.widths, p.widths[1:], strict=False)]
        for p in wanted
        for _ in range(p.copies)
    ]
    each = [p for p in wanted for _ in range(p.copies)]
    ends = [[jax.random.normal(next(rng), (batch, p.widths[i])) for i in (0, -1)] for p in each]

    def products(scratch: Any, networks: Any, ends: Any) -> Any:
        del scratch
        return [run(p, *given) for p, *given in zip(each, networks, ends, strict=True)]

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

    results = jax.eval_shape(products, None, networks, ends)
    scratch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), results)
    return jax.jit(products, donate_argnums=0, keep_unused=True), (scratch, networks, ends)


def make_update(name: str, batch: int) -> tuple[Any, Any, Transition]:
    """An agent's compiled update with published widths, its state and a minibatch."""
    module = agents.load(name)
    agent = module.make(module.Config(), SPEC)
    keys = jax.random.split(jax.random.key(1), 4)
    observation, following = (jax.random.normal(key, (batch, O)) for key in keys[:2])
    action, reward = jnp.tanh(jax.random.normal(keys[2], (batch, A))), jax.random.normal(keys[3], (batch,))
    transition = Transition(observation, action, reward, jnp.ones(batch), following)
    return jax.jit(agent.update, donate_argnums=0), jax.jit(agent.init)(jax.random.key(0)), transition


def measure(name: str, batch: int, repeats: int, seconds: float) -> dict[str, Any]:
    """Updates and chains a second, `[median, least, most]`, and the ratio of each pair of neighbours in time."""
    update, state, transition = make_update(name, batch)
    chain, (scratch, *given) = make_chain(passes(name, agents.load(name).Config()), batch)
    key = jax.random.key(2)

    def updates(count: int) -> None:
        nonlocal state
        for _ in range(count):
            state, _ = update(state, transition, key)
        jax.block_until_ready(state)

    def chains(count: int) -> None:
        nonlocal scratch
        for _ in range(count):
            scratch = chain(scratch, *given)
        jax.block_until_ready(scratch)

    def rate(run: Any, count: int) -> float:
        begun = time.process_time()  # of all threads here, but of nobody else on the core
        run(count)
        return count / (time.process_time() - begun)

    for run in (updates, chains):
        run(3)  # compiles
    count = max(1, round(seconds * rate(chains, 3)))
    pairs = [(rate(updates, count), rate(chains, count)) for _ in range(repeats)]
    columns = {"update/s": [u for u, _ in pairs], "chain/s": [c for _, c in pairs], "ratio": [u / c for u, c in pairs]}
    return {what: [round(f(values), 3) for f in (statistics.median, min, max)] for what, values in columns.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", nargs="+", default=["sac", "tqc", "iql", "idql"])
    parser.add_argument("--batch", nargs="+", type=int, default=[256])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each side in each repeat, about")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # before jax makes its threads, which inherit it
    results = {}
    for name in arguments.agents:
        for batch in arguments.batch:
            found = measure(name, batch, arguments.repeats, arguments.seconds)
            results[f"{name}, batch {batch}"] = found
            text = "  ".join(f"{what} {m:.3g} ({low:.3g} to {high:.3g})" for what, (m, low, high) in found.items())
            print(f"{name:5} batch {batch:4}  {text}", flush=True)
    print(json.dumps({"results": results, "repeats": arguments.repeats, "cores": 1} | origin()))


if __name__ == "__main__":
    main()
