"""Networks against NumPy: what they compute, where they start, and that members of an ensemble are independent."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import networks
from rlx.errors import RlxError
from rlx.networks import Network
from rlx.types import Spec
from tests.loss_tools import near

O, A, HIDDEN = 5, 2, (16, 8)  # noqa: E741 -- the shapes' names
SPEC = Spec(jax.ShapeDtypeStruct((O,), jnp.float32), jax.ShapeDtypeStruct((A,), jnp.float32), 100)
OBSERVATION = np.random.default_rng(1).normal(size=(7, O)).astype(np.float32)
ACTION = np.random.default_rng(2).uniform(-1, 1, size=(7, A)).astype(np.float32)

ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda x: np.maximum(x, 0),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "gelu": lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "swish": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
}


def dense(x: np.ndarray, layer: Any) -> np.ndarray:
    return x @ layer["kernel"] + layer["bias"]


def normalised(x: np.ndarray, layer: Any) -> np.ndarray:
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * layer["scale"] + layer["bias"]


def residual_block(x: np.ndarray, block: Any, activation: Any) -> np.ndarray:
    inside = activation(dense(normalised(x, block["LayerNorm_0"]), block["Dense_0"]))
    return x + dense(inside, block["Dense_1"])


def bro_block(x: np.ndarray, block: Any, activation: Any) -> np.ndarray:
    inside = activation(normalised(dense(x, block["Dense_0"]), block["LayerNorm_0"]))
    return x + normalised(dense(inside, block["Dense_1"]), block["LayerNorm_1"])


def slow_mlp(
    params: Any, x: Any, activation: str = "relu", layer_norm: Any = False, residual: Any = False, **_: Any
) -> Any:
    """An MLP without dropout and with running statistics, in NumPy."""
    layers, stats = (jax.tree.map(np.asarray, params.get(name, {})) for name in ("params", "batch_stats"))
    x, act = np.asarray(x, np.float64), ACTIVATIONS[activation]

    def by_running(x: np.ndarray, i: int) -> np.ndarray:
        if (name := f"BatchNorm_{i}") not in layers:
            return x
        x = (x - stats[name]["mean"]) / np.sqrt(stats[name]["variance"] + 1e-3)
        return x * layers[name]["scale"] + layers[name]["bias"]

    if "input_layer_norm" in layers:
        x = normalised(x, layers["input_layer_norm"])
    last = len([name for name in layers if name.startswith("Dense")]) - 1
    for i in range(last):
        x = dense(by_running(x, i), layers[f"Dense_{i}"])
        if residual:
            bro = "BroBlock_0" in layers
            x = act(normalised(x, layers["LayerNorm_0"])) if bro else x
            for name in sorted(name for name in layers if "Block_" in name):
                x = (bro_block if bro else residual_block)(x, layers[name], act)
            x = x if bro else normalised(x, layers["LayerNorm_0"])
        else:
            x = act(normalised(x, layers[f"LayerNorm_{i}"]) if layer_norm else x)
    return dense(by_running(x, last), layers[f"Dense_{last}"])


def trained(network: Network) -> Any:
    """Parameters as training might leave them: nothing is zero or small any more."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: (0.5 * rng.normal(size=leaf.shape)).astype(leaf.dtype), shapes)
    if "batch_stats" in params:  # variances and counts are not negative
        params["batch_stats"] = jax.tree.map(np.abs, params["batch_stats"])
    return params


@pytest.mark.parametrize(
    ("num_atoms", "options"),
    [
        *((None, {"activation": name}) for name in networks.ACTIVATIONS),
        (1, {"layer_norm": True}),
        (3, {"input_layer_norm": True, "activation": "swish"}),
        (None, {"residual": True, "hidden_sizes": (8, 8, 8)}),
        (3, {"residual": True, "residual_block": "bro", "hidden_sizes": (8, 8, 8), "dropout": 0.5}),
        (3, {"batch_norm": "batch"}),
        (None, {"batch_norm": "renorm", "dropout": 0.5, "layer_norm": True}),
    ],
)
def test_critic_is_an_ensemble_of_mlps(num_atoms: int | None, options: dict[str, Any]) -> None:
    """Plain, jitted and vmapped, each member equals its own parameters alone; `[N, B]`, or `[N, B, M]` for atoms."""
    options = {"hidden_sizes": HIDDEN} | options
    network = networks.make_critic(SPEC, num_critics=3, num_atoms=num_atoms, **options)
    params = trained(network)
    x = np.concatenate([OBSERVATION, ACTION], axis=1)
    want = np.stack([slow_mlp(jax.tree.map(lambda p, i=i: p[i], params), x, **options) for i in range(3)])
    want = want if num_atoms else want[..., 0]
    assert want.shape == ((3, 7, num_atoms) if num_atoms else (3, 7))
    over_samples = jax.vmap(network.apply, in_axes=(None, 0, 0), out_axes=1)
    both = jax.jit(lambda *inputs: (network.apply(*inputs), over_samples(*inputs)))
    for got in (network.apply(params, OBSERVATION, ACTION), *both(params, OBSERVATION, ACTION)):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_any_number_of_inputs() -> None:
    """A goal beside observation and action, and an observation with a goal: as if they were one array."""
    goal = ACTION[:, ::-1]
    for network, inputs in (
        (networks.make_critic(SPEC, HIDDEN, input_size=O + 2 * A), (OBSERVATION, ACTION, goal)),
        (networks.make_gaussian_policy(SPEC, HIDDEN, input_size=O + A), (OBSERVATION, goal)),
        (networks.make_value(SPEC, HIDDEN, input_size=O + A, input_layer_norm=True), (OBSERVATION, goal)),
    ):
        params = trained(network)
        one = network.apply(params, np.concatenate(inputs, axis=1))
        jax.tree.map(np.testing.assert_array_equal, network.apply(params, *inputs), one)


def test_dropout_needs_a_key() -> None:
    """Without one nothing is dropped; with one each member drops a share of its own, and scales the rest."""
    network = networks.make_critic(SPEC, (4000,), num_critics=2, dropout=0.25)
    params = trained(network)
    ones = jax.tree.map(lambda x: np.full_like(x, 1 / 4000), params)  # all units are equal, so the sum counts them
    full = network.apply(ones, OBSERVATION, np.abs(ACTION) + 9)
    for apply in (network.apply, jax.jit(network.apply)):
        some = apply(ones, OBSERVATION, np.abs(ACTION) + 9, key=jax.random.key(0))
        share = (some - 1 / 4000) / (full - 1 / 4000)
        assert np.all(np.abs(share - 1) < 0.05) and len(np.unique(np.asarray(share))) > 7 and np.any(some[0] != some[1])
    plain = networks.make_critic(SPEC, (4000,), num_critics=2)
    keyed = plain.apply(params, OBSERVATION, ACTION, key=jax.random.key(0))
    np.testing.assert_array_equal(keyed, network.apply(params, OBSERVATION, ACTION))


def slow_batch_norm(x: np.ndarray, r: Any = 1.0, d: Any = 0.0) -> np.ndarray:
    return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-3) * r + d


@pytest.mark.parametrize("renormalize", [False, True])
def test_batch_norm_in_training(renormalize: bool) -> None:
    """By the batch's statistics, which move the running ones by 1 %; renormalised, only once these are warm."""
    module = networks.BatchNorm(renormalize, warmup=1)
    x = np.random.default_rng(0).normal([0, 100, 1, 1], [1, 1, 1, 50], size=(64, 4)).astype(np.float32)
    params = module.init(jax.random.key(0), x, False)
    running, wanted = np.stack([np.zeros(4), np.ones(4)]), [slow_batch_norm(x)] * 2
    new = 0.99 * running + 0.01 * np.stack([x.mean(0), x.var(0)])
    if renormalize:  # the second feature's shift and the fourth's scale are beyond their bounds
        r, d = np.sqrt((x.var(0) + 1e-3) / (new[1] + 1e-3)), (x.mean(0) - new[0]) / np.sqrt(new[1] + 1e-3)
        assert d[1] > 5 and r[3] > 3
        wanted[1] = slow_batch_norm(x, np.clip(r, 1 / 3, 3), np.clip(d, -5, 5))
    apply = jax.jit(partial(module.apply, mutable=["batch_stats"]), static_argnums=2)
    over_members = jax.vmap(lambda params, x: apply(params, x, True), in_axes=(0, None))
    for i, want in enumerate(wanted):
        got, stats = apply(params, x, True)
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)
        two, _ = over_members(jax.tree.map(lambda p: jnp.stack([p, p]), params), x)
        np.testing.assert_allclose(two, [got, got], rtol=1e-5, atol=1e-5)
        params = params | stats
        if i == 0:
            np.testing.assert_allclose(params["batch_stats"]["mean"], new[0], rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(params["batch_stats"]["variance"], new[1], rtol=1e-4)
    assert params["batch_stats"]["batches"] == 2


@pytest.mark.parametrize(
    ("name", "deviation", "largest"),
    [
        ("he", (2 / 64) ** 0.5, (6 / 64) ** 0.5),
        ("xavier", (2 / 320) ** 0.5, (6 / 320) ** 0.5),
        ("lecun", 1 / 8, 3**0.5 / 8),
        ("orthogonal", None, None),
    ],
)
def test_initialisers(name: str, deviation: float | None, largest: float | None) -> None:
    """Of a hidden kernel with 64 inputs and 256 outputs; output kernels are small, biases 0, critics all different."""
    network = networks.make_critic(SPEC, (64, 256), kernel_init=name)
    layers = jax.jit(network.init)(jax.random.key(0))["params"]
    kernel = layers["Dense_1"]["kernel"][0]
    if deviation is None:  # rows of length sqrt 2, orthogonal
        np.testing.assert_allclose(kernel @ kernel.T, 2 * np.eye(64), atol=1e-5)
    else:
        np.testing.assert_allclose([kernel.std(), jnp.abs(kernel).max()], [deviation, largest], rtol=0.02)
    np.testing.assert_allclose(layers["Dense_2"]["kernel"].std(), 0.01 / np.sqrt(256), rtol=0.1)
    assert not any(np.any(layer["bias"]) for layer in layers.values())
    assert np.all(layers["Dense_1"]["kernel"][0] != layers["Dense_1"]["kernel"][1])


def test_members_and_seeds_are_independent() -> None:
    """Several seeds by one vmap over init and apply; the loss of one critic moves no other."""
    network = networks.make_critic(SPEC, HIDDEN, num_critics=2)
    params = jax.jit(jax.vmap(network.init))(jax.random.split(jax.random.key(0), 3))
    kernels = params["params"]["Dense_0"]["kernel"]
    assert kernels.shape == (3, 2, O + A, 16) and len(np.unique(kernels[:, :, 0, 0])) == 6

    def first(params: Any) -> jax.Array:
        return network.apply(params, OBSERVATION, ACTION)[0].sum()

    one = jax.tree.map(lambda p: p[1], params)
    slopes = jax.jit(jax.vmap(jax.grad(first)))(params)
    for mapped, alone in zip(*map(jax.tree.leaves, (slopes, jax.jit(jax.grad(first))(one))), strict=True):
        np.testing.assert_allclose(mapped[1], alone, rtol=1e-4, atol=1e-6)
        assert np.any(alone[0]) and not np.any(alone[1])


@pytest.mark.parametrize("lead", [(), (4,), (2, 3)])
def test_leading_axes_are_free(lead: tuple[int, ...]) -> None:
    observation, action = jnp.ones((*lead, O)), jnp.ones((*lead, A))
    for network, inputs, want in (
        (networks.make_critic(SPEC, HIDDEN), (observation, action), (2, *lead)),
        (networks.make_critic(SPEC, HIDDEN, num_atoms=3), (observation, action), (2, *lead, 3)),
        (networks.make_value(SPEC, HIDDEN), (observation,), lead),
        (networks.make_deterministic_policy(SPEC, HIDDEN), (observation,), (*lead, A)),
        (networks.make_gaussian_policy(SPEC, HIDDEN), (observation,), ((*lead, A), (*lead, A))),
        (networks.make_gaussian_policy(SPEC, (), state_dependent_std=False), (observation,), ((*lead, A), (*lead, A))),
    ):
        shapes = jax.eval_shape(lambda key, f=network, x=inputs: f.apply(f.init(key), *x), jax.random.key(0))
        got = shapes.shape if hasattr(shapes, "shape") else tuple(s.shape for s in shapes)
        assert got == want


def test_values_and_policies_against_numpy() -> None:
    def outputs(network: Network) -> tuple[Any, Any]:
        params = trained(network)
        return params, jax.jit(network.apply)(params, OBSERVATION)

    check = partial(near, rtol=1e-4, atol=1e-5)
    params, got = outputs(networks.make_value(SPEC, HIDDEN, activation="elu", layer_norm=True))
    check(got, slow_mlp(params, OBSERVATION, "elu", layer_norm=True)[:, 0])
    params, got = outputs(networks.make_deterministic_policy(SPEC, HIDDEN))
    check(got, np.tanh(slow_mlp(params, OBSERVATION)))
    params, (mean, log_std) = outputs(networks.make_gaussian_policy(SPEC, HIDDEN))
    want = slow_mlp({"params": params["params"]["mlp"]}, OBSERVATION)
    check(mean, want[:, :A])
    check(log_std, want[:, A:])


def test_bounds_of_the_log_deviation() -> None:
    """Clipped, or by tanh, which has 0 in the middle and a gradient everywhere."""
    x = np.float32([-20.0, 0.0, 1.0])
    for kind, want, slope in (("clip", [-10, 0, 1], [0, 1, 1]), ("tanh", -4 + 6 * np.tanh(x), 6 / np.cosh(x) ** 2)):
        bounded = partial(networks.bounded_log_std, kind=kind, low=-10.0, high=2.0)
        for way in (bounded, jax.jit(bounded), jax.vmap(bounded)):
            np.testing.assert_allclose(way(x), want, rtol=1e-5)
        np.testing.assert_allclose(jax.vmap(jax.grad(bounded))(x), slope, rtol=1e-4, atol=1e-6)
    policy = networks.make_gaussian_policy(SPEC, HIDDEN, log_std=("tanh", -5.0, 0.0))
    np.testing.assert_allclose(policy.apply(policy.init(jax.random.key(0)), OBSERVATION)[1], -2.5, atol=0.1)


def test_state_independent_std_is_a_parameter() -> None:
    network = networks.make_gaussian_policy(SPEC, HIDDEN, state_dependent_std=False)
    params = jax.jit(network.init)(jax.random.key(0))
    np.testing.assert_array_equal(params["params"]["log_std"], np.zeros(A))
    slope = jax.jit(jax.grad(lambda p: network.apply(p, OBSERVATION)[1].sum()))(params)
    np.testing.assert_array_equal(slope["params"]["log_std"], np.full(A, 7.0))
    np.testing.assert_array_equal(slope["params"]["mlp"]["Dense_0"]["kernel"], 0)


def test_bfloat16_computes_inside_only() -> None:
    """Parameters, output layer and output stay float32; the hidden products are bfloat16; results are close."""
    low, high = (networks.make_critic(SPEC, HIDDEN, layer_norm=True, compute_dtype=d) for d in ("bfloat16", "float32"))
    params = trained(low)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
    got, want = (jax.jit(network.apply)(params, OBSERVATION, ACTION) for network in (low, high))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, atol=0.05 * float(jnp.abs(want).max()))
    result = list(product_types(jax.make_jaxpr(low.apply)(params, OBSERVATION, ACTION).jaxpr))
    assert result == [jnp.bfloat16, jnp.bfloat16, jnp.float32]


def product_types(jaxpr: Any) -> Iterator[Any]:
    """Types of the products of matrices in a program, in order, those inside functions with their own gradient too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation.outvars[0].aval.dtype
        for inner in equation.params.values():
            if hasattr(inner, "jaxpr"):
                yield from product_types(inner.jaxpr)


SCORE = networks.make_score(SPEC, num_steps=3, width=8, num_blocks=1, time_features=4)
EVERY: dict[str, tuple[Network, Callable[[jax.Array, jax.Array], tuple[Any, ...]]]] = {
    "critic": (networks.make_critic(SPEC, HIDDEN, layer_norm=True), lambda o, a: (o, a)),
    "value": (networks.make_value(SPEC, HIDDEN, activation="elu", batch_norm="renorm"), lambda o, a: (o,)),
    "residual value": (networks.make_value(SPEC, (8, 8), residual=True, dropout=0.1), lambda o, a: (o,)),
    "deterministic policy": (networks.make_deterministic_policy(SPEC, HIDDEN), lambda o, a: (o,)),
    "gaussian policy": (networks.make_gaussian_policy(SPEC, HIDDEN), lambda o, a: (o,)),
    "score": (SCORE, lambda o, a: (o, a, jnp.ones(a.shape[:-1], jnp.int32), jax.random.key(0))),
}


QUICK = ("critic", "value", "gaussian policy")


@pytest.mark.parametrize("name", [pytest.param(x, marks=[pytest.mark.slow] * (x not in QUICK)) for x in EVERY])
def test_derivatives_forward_reverse_and_under_meshes(name: str) -> None:
    """Slopes by parameters and inputs both ways; forward over reverse, which is how a Hessian is computed; and the
    gradient where the batch is sharded over a mesh's axis, explicitly or by shard_map."""
    network, inputs = EVERY[name]
    rows = trained(network), jnp.asarray(OBSERVATION), jnp.asarray(ACTION)
    along = jax.tree.map(lambda x: jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), rows)

    def loss(params: Any, observation: jax.Array, action: jax.Array) -> Any:
        return sum(jnp.mean(x**2) for x in jax.tree.leaves(network.apply(params, *inputs(observation, action))))

    @jax.jit
    def slopes(*rows: Any) -> Any:
        gradients, second = jax.jvp(jax.grad(loss, argnums=(0, 1, 2)), rows, along)
        return jax.jvp(loss, rows, along)[1], _dot(gradients, along), _dot(second, along), gradients[0]

    forward, reverse, curvature, wanted = slopes(*rows)
    np.testing.assert_allclose(forward, reverse, rtol=1e-3)
    assert np.isfinite(curvature)

    data, replicated, gradient = jax.P("data"), jax.P(), jax.grad(loss)
    with jax.set_mesh(jax.make_mesh((1,), ("data",), (jax.sharding.AxisType.Explicit,))):
        sharded = [jax.reshard(x, data) for x in rows[1:]]
        explicit = jax.jit(gradient)(jax.tree.map(lambda x: jax.reshard(x, replicated), rows[0]), *sharded)
    mesh = jax.make_mesh((1,), ("data",), (jax.sharding.AxisType.Auto,))
    mapped = jax.shard_map(
        gradient, mesh=mesh, in_specs=(replicated, data, data), out_specs=replicated, check_vma=False
    )
    for got in (explicit, jax.jit(mapped)(*rows)):
        near(got, wanted, rtol=1e-4)


def _dot(left: Any, right: Any) -> jax.Array:
    return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, left, right)), jnp.zeros(()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "rleu"}, "activation rleu: unknown; did you mean relu"),
        ({"activation": "xyz"}, "choose from relu, elu"),
        ({"kernel_init": "orthognal"}, "did you mean orthogonal"),
        ({"batch_norm": "layer"}, "choose from none, batch, renorm"),
        ({"residual": True}, "residual layers need two or more"),
        ({"hidden_sizes": (16, 0)}, "hidden sizes 16 0 .*: each must be at least 1"),
        ({"num_critics": 0}, "^--num-critics 0: must be at least 1$"),
        ({"num_atoms": 0}, "^num_atoms 0: must be at least 1$"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RlxError, match=message):
        networks.make_critic(SPEC, **{"hidden_sizes": HIDDEN} | options)
