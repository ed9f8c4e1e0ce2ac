"""Networks on the unit sphere, against NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.networks import unit
from rlx.networks.unit import UnitMLP, UnitResidualMLP
from tests.loss_tools import near
from tests.test_networks import ACTION, OBSERVATION, SPEC, trained


def test_to_sphere_by_hand() -> None:
    """Plain, jitted, vmapped; of two stacked critics each by itself; statistics and biases of Dense stay."""
    kernel = np.float32([[[3, 0], [4, 2]], [[6, 1], [8, 0]]])
    params = {
        "params": {
            "Dense_0": {"kernel": kernel, "bias": np.float32([[7, 7]] * 2)},
            "BatchNorm_0": {"scale": np.float32([[3, 0]] * 2), "bias": np.float32([[0, 4]] * 2)},
        },
        "batch_stats": {"BatchNorm_0": {"scale": np.float32([9.0])}},
    }
    want = {
        "params": {
            "Dense_0": {
                "kernel": np.float32([[[0.6, 0], [0.8, 1]], [[0.6, 1], [0.8, 0]]]),
                "bias": np.float32([[7, 7]] * 2),
            },
            "BatchNorm_0": {
                "scale": np.sqrt(2) * np.float32([[0.6, 0]] * 2),
                "bias": np.sqrt(2) * np.float32([[0, 0.8]] * 2),
            },
        },
        "batch_stats": {"BatchNorm_0": {"scale": np.float32([9.0])}},
    }

    def project(params: Any) -> Any:
        return unit.to_sphere(params, norms=True)

    for way in (project, jax.jit(project)):
        near(way(params), want)
    near(jax.vmap(project)({"params": params["params"]}), {"params": want["params"]})
    weights_only = unit.to_sphere(params)["params"]["BatchNorm_0"]
    near(weights_only, params["params"]["BatchNorm_0"])


def slow_network(variables: Any, x: np.ndarray, residual: bool, train: bool) -> np.ndarray:
    layers, stats = (jax.tree.map(np.asarray, variables[name]) for name in ("params", "batch_stats"))

    def norm(x: np.ndarray, i: int) -> np.ndarray:
        layer, seen = layers[f"BatchNorm_{i}"], stats[f"BatchNorm_{i}"]
        mean, variance = (x.mean(0), x.var(0)) if train else (seen["mean"], seen["variance"])
        return (x - mean) / np.sqrt(variance + (1e-5 if residual else 1e-3)) * layer["scale"] + layer["bias"]

    x = norm(np.asarray(x, np.float64), 0)
    last = len([name for name in layers if name.startswith("Dense")]) - 1
    if residual:
        x = x @ layers["Dense_0"]["kernel"]
        for i in range(1, last, 2):
            y = np.maximum(norm(x @ layers[f"Dense_{i}"]["kernel"], i), 0)
            x = x + np.maximum(norm(y @ layers[f"Dense_{i + 1}"]["kernel"], i + 1), 0)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * layers["RMSNorm_0"]["scale"]
    else:
        for i in range(last):
            x = np.maximum(norm(x @ layers[f"Dense_{i}"]["kernel"], i + 1), 0)
    return x @ layers[f"Dense_{last}"]["kernel"] + layers[f"Dense_{last}"]["bias"]


@pytest.mark.parametrize("module", [UnitMLP, UnitResidualMLP])
def test_networks_against_numpy(module: Any) -> None:
    """Critics and policies, in training and out of it; they start on the sphere, with critics that all differ."""
    residual, options = module is UnitResidualMLP, {"project": unit.to_sphere}
    critic = unit.make_critic(SPEC, module, (8, 8), 2, 5, **options)
    start, variables = jax.jit(critic.init)(jax.random.key(0)), trained(critic)
    kernel = start["params"]["Dense_1"]["kernel"]
    np.testing.assert_allclose(np.linalg.norm(kernel, axis=-2), 1, rtol=1e-5)
    assert (kernel[0] != kernel[1]).any()
    x = np.concatenate([OBSERVATION, ACTION], axis=1)
    for train in (False, True):
        want = [slow_network(jax.tree.map(lambda p, i=i: p[i], variables), x, residual, train) for i in range(2)]
        actual = jax.jit(critic.apply, static_argnames="train")(variables, OBSERVATION, ACTION, train=train)
        np.testing.assert_allclose(actual[0] if train else actual, want, rtol=1e-3, atol=1e-3)

    policy = unit.make_policy(SPEC, module, (8, 8), ("tanh", -10.0, 2.0), **options)
    variables = trained(policy)
    mean, log_std = policy.apply(variables, OBSERVATION)
    output = slow_network({name: tree["mlp"] for name, tree in variables.items()}, OBSERVATION, residual, False)
    np.testing.assert_allclose(mean, output[:, :2], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(log_std, -4 + 6 * np.tanh(output[:, 2:]), rtol=1e-3, atol=1e-3)
    half = unit.make_critic(SPEC, module, (8, 8), 2, 5, compute_dtype="bfloat16", **options)
    assert half.apply(trained(half), OBSERVATION, ACTION).dtype == jnp.float32
