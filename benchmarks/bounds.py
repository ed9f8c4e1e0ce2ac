"""What no implementation can be much faster than: the matrix products of an update alone, and bare copies."""

from __future__ import annotations

from collections.abc import Callable
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
    rows: int = 1  # minibatches of them, whose products are made one after the other, as caches like it
    steps: int = 1  # so often in a row, every output the next input
    gradients: int = 1  # that go back through the same activations, one after the other


Widths = tuple[int, ...]


class Networks:
    """The widths of an agent's networks, by its configuration."""

    def __init__(self, config: Any, sizes: Sizes) -> None:
        o, a = sizes.observation, sizes.action * getattr(config, "chunk_size", 1)
        atoms = getattr(config, "num_atoms", 0) if getattr(config, "distributional", True) else 0
        outputs = atoms or getattr(config, "num_quantiles", 1)
        actor, critic = (getattr(config, f"{half}_hidden_sizes", ()) for half in ("actor", "critic"))
        self.config, self.critics = config, getattr(config, "num_critics", 1)
        self.policy, self.gaussian = (o, *actor, a), (o, *actor, 2 * a)
        self.critic, self.value = (o + a, *critic, outputs), (o, *critic, 1)
        # a flow reads observation, action and time, CFGRL's a label too; of a step in a chain the action alone is new
        self.flow, self.labelled_flow, self.flow_step = ((n, *actor, a) for n in (o + a + 1, o + a + 3, a))
        self.one_step = (o + a, *actor, a)
        if width := getattr(config, "score_width", 0):
            blocks = (width, *(4 * width, width) * config.score_blocks)
            self.times = (config.time_features, width, width)
            self.score, self.pair_score = ((o + a + width, *blocks, size) for size in (a, o + a))
            self.score_step = (a, *blocks, a)


def forward(widths: Widths, copies: int = 1, rows: int = 1, steps: int = 1) -> Pass:
    """Forward alone."""
    return Pass(widths, copies, rows=rows, steps=steps)


def weight_gradient(widths: Widths, copies: int = 1, **options: int) -> Pass:
    """Forward, and back to the weights."""
    return Pass(widths, copies, to_weights=True, **options)


def input_gradient(widths: Widths, copies: int = 1) -> Pass:
    """Forward, and back to the inputs."""
    return Pass(widths, copies, to_inputs=True)


def q_learning(n: Networks) -> list[Pass]:
    """All critics towards their targets' values of an action that is there already."""
    return [forward(n.critic, n.critics), weight_gradient(n.critic, n.critics)]


def actor_critic(n: Networks, actor: Widths, ascended: int | None = None) -> list[Pass]:
    """Critics at the actor's next action, and an actor that climbs so many of them; all, unless said otherwise."""
    ascended = n.critics if ascended is None else ascended
    return [forward(actor), *q_learning(n), weight_gradient(actor), input_gradient(n.critic, ascended)]


def iql_critics(n: Networks) -> list[Pass]:
    """IQL's critic half; its target critics' values of the data's actions are the actor half's, too."""
    return [
        forward(n.critic, n.critics),
        weight_gradient(n.value),
        forward(n.value),
        weight_gradient(n.critic, n.critics),
    ]


def weighted_imitation(n: Networks, policy: Widths) -> list[Pass]:
    """IQL, and what else weighs the data by target critics less the new V."""
    return [*iql_critics(n), forward(n.value), weight_gradient(policy)]


def cql(n: Networks) -> list[Pass]:
    """CQL: the target's actions, and those of the penalty beside the data's."""
    c = n.config
    target, penalty = forward(n.critic, n.critics, c.backup_actions), 1 + 3 * c.penalty_actions
    of_critics = [target, weight_gradient(n.critic, n.critics, rows=penalty)]
    return [forward(n.gaussian), *of_critics, weight_gradient(n.gaussian), input_gradient(n.critic, n.critics)]


def diffusion_critic(n: Networks, steps: int) -> list[Pass]:
    """EDP's critic half, with a chain of so many steps for the next action."""
    return [forward(n.score_step, steps=steps), *q_learning(n)]


CHAINS: dict[str, Callable[[Networks], list[Pass]]] = {
    "bc": lambda n: [weight_gradient(n.policy)],
    "sac": lambda n: actor_critic(n, n.gaussian),
    "tqc": lambda n: actor_critic(n, n.gaussian),
    "crossq": lambda n: actor_critic(n, n.gaussian),
    "dsac": lambda n: actor_critic(n, n.gaussian),
    "dsac_t": lambda n: actor_critic(n, n.gaussian),
    "ace": lambda n: actor_critic(n, n.gaussian),
    "mdpo": lambda n: [*actor_critic(n, n.gaussian), forward(n.gaussian)],
    "redq": lambda n: [
        forward(n.gaussian),
        forward(n.critic, n.config.num_target_critics),
        weight_gradient(n.critic, n.critics),
        weight_gradient(n.gaussian),
        input_gradient(n.critic, n.critics),
    ],
    # the critics' slopes at the data's actions, and their derivative: two passes to the inputs, the latter to the
    # weights too, through activations that are there already
    "edac": lambda n: [*actor_critic(n, n.gaussian), Pass(n.critic, n.critics, to_weights=True, to_inputs=True)],
    "pql": lambda n: actor_critic(n, n.policy),
    "aro_ddpg": lambda n: actor_critic(n, n.policy),
    "fast_td3": lambda n: actor_critic(n, n.policy),
    "td3": lambda n: actor_critic(n, n.policy, 1),
    "td3_bc": lambda n: actor_critic(n, n.policy, 1),
    "rebrac": lambda n: actor_critic(n, n.policy),
    "mcep": lambda n: [*actor_critic(n, n.policy, 1), weight_gradient(n.policy), input_gradient(n.critic)],
    "awac": lambda n: [
        forward(n.policy),
        *q_learning(n),
        weight_gradient(n.policy),
        *2 * [forward(n.critic, n.critics)],
    ],
    "cql": cql,
    "iql": lambda n: weighted_imitation(n, n.policy),
    "riql": lambda n: weighted_imitation(n, n.policy),
    "dual_rl": lambda n: weighted_imitation(n, n.policy),
    # V at both observations by both parameters, one of them with the gradients of two terms; then the new residual
    "odice": lambda n: [
        weight_gradient(n.value, gradients=2),
        weight_gradient(n.value),
        forward(n.value, 4),
        weight_gradient(n.policy),
    ],
    "idql": lambda n: [*iql_critics(n), weight_gradient(n.times), weight_gradient(n.score)],
    "ifql": lambda n: [*iql_critics(n), weight_gradient(n.flow)],
    "cfgrl": lambda n: weighted_imitation(n, n.labelled_flow),
    "srpo": lambda n: [
        *iql_critics(n),
        weight_gradient(n.policy),
        input_gradient(n.critic, n.critics),
        *(each for use in (forward, weight_gradient) for each in (use(n.times), use(n.score))),
    ],
    "edp": lambda n: [
        *diffusion_critic(n, n.config.solver_steps),
        weight_gradient(n.times),
        weight_gradient(n.score),
        input_gradient(n.critic),
    ],
    "dql": lambda n: [
        *diffusion_critic(n, n.config.diffusion_steps),
        weight_gradient(n.times),
        weight_gradient(n.score),
        weight_gradient(n.score_step, steps=n.config.diffusion_steps),
        forward(n.critic),
        input_gradient(n.critic),
    ],
    "fql": lambda n: [
        forward(n.one_step),
        *q_learning(n),
        forward(n.flow_step, steps=n.config.flow_steps),
        weight_gradient(n.flow),
        weight_gradient(n.one_step),
        input_gradient(n.critic, n.critics),
    ],
    "cdsa": lambda n: [weight_gradient(n.times), weight_gradient(n.pair_score)],
}
CHAINS["qc"] = CHAINS["fql"]  # of chunks


def passes(name: str, config: Any, sizes: Sizes = Sizes()) -> list[Pass]:  # noqa: B008 -- a tuple
    """What one update of an agent asks of each network, in any order. Raises KeyError for an agent not in CHAINS."""
    return CHAINS[name](Networks(config, sizes))


def products(wanted: list[Pass], batch: int) -> int:
    """Multiplications of all passes with `batch` rows."""
    total = 0
    for p in wanted:
        layers = list(zip(p.widths, p.widths[1:], strict=False)) * p.steps
        for i, (size, width) in enumerate(layers):
            backward = p.to_weights + ((p.to_weights or p.to_inputs) and (i > 0 or p.to_inputs))
            total += p.copies * p.rows * batch * size * width * (1 + p.gradients * backward)
    return total


def make_chain(wanted: list[Pass], batch: int) -> tuple[Any, Any]:
    """A function that makes the products of all `wanted`, and its arguments; the first is donated for the results.

    Of a Dense layer with B rows that is [B, I] x [I, O] forward, [I, B] x [B, O] for the weights' gradient, and
    [B, O] x [O, I] for the inputs', but where nobody needs that: the first layer, unless the gradient goes through it.
    """
    rng = iter(jax.random.split(jax.random.key(0), 10_000))
    each = [p for p in wanted for _ in range(p.copies)]
    networks = [
        [jax.random.normal(next(rng), shape) / shape[0] ** 0.5 for shape in zip(p.widths, p.widths[1:], strict=False)]
        for p in each
    ]
    ends = [
        [jax.random.normal(next(rng), (p.rows, batch, p.widths[i])) for i in (0, *p.gradients * (-1,))] for p in each
    ]

    def chain(scratch: Any, networks: Any, ends: Any) -> Any:
        del scratch
        return [run(p, *inputs) for p, *inputs in zip(each, networks, ends, strict=True)]

    def run(p: Pass, weights: list[jax.Array], ends: list[jax.Array]) -> Any:
        if p.rows == 1:
            return once(p, weights, [x[0] for x in ends])
        shapes = jax.eval_shape(lambda: once(p, weights, [x[0] for x in ends])[0])
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

        def add(total: Any, ends: list[jax.Array]) -> Any:
            of_weights, others = once(p, weights, ends)
            return jax.tree.map(jnp.add, total, of_weights), others

        return jax.lax.scan(add, zeros, ends)

    def once(p: Pass, weights: list[jax.Array], ends: list[jax.Array]) -> tuple[list[Any], list[jax.Array]]:
        """The weights' gradients, and the results of which there is one for each row."""
        x, *gradients = ends
        layers, inputs = p.steps * weights, []
        for weight in layers:
            inputs.append(x)
            x = x @ weight
        of_weights, others = [], [x]
        for gradient in gradients if p.to_weights or p.to_inputs else ():
            found: list[Any] = [0.0] * len(weights)
            for i in reversed(range(len(layers))):
                if p.to_weights:
                    found[i % len(weights)] += inputs[i].T @ gradient
                if i or p.to_inputs:
                    gradient = gradient @ layers[i].T
            of_weights += found * p.to_weights
            others += [gradient] * p.to_inputs
        return of_weights, others

    results = jax.eval_shape(chain, None, networks, ends)
    scratch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), results)
    return jax.jit(chain, donate_argnums=0, keep_unused=True), (scratch, networks, ends)
