"""Policies that are plain MLPs: as arrays, computed in NumPy, and as an ONNX graph."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from rlx.errors import RlxError, install
from rlx.export.runner import EPSILON, LAYERS
from rlx.types import Spec

OPSET, IR_VERSION = 20, 10  # of ONNX; the first with Gelu


class Layer(NamedTuple):
    """An operation of `rlx.export.runner.LAYERS` and its arrays, in the order of its arguments."""

    operation: str
    arrays: tuple[np.ndarray, ...] = ()


def forward(layers: Sequence[Layer], observation: np.ndarray) -> np.ndarray:
    """Raw observations `[B, O]` to actions `[B, A]`, in NumPy alone."""
    x: np.ndarray = observation
    for operation, arrays in layers:
        x = LAYERS[operation](x, *arrays)
    return x


def networks_in(policy: Any) -> list[Mapping[str, Any]]:
    """The variables of every flax network in an agent's acting parameters."""

    def is_network(tree: Any) -> bool:
        return isinstance(tree, Mapping) and isinstance(tree.get("params"), Mapping)

    return [tree for tree in jax.tree.leaves(policy, is_leaf=is_network) if is_network(tree)]


def of_actor(variables: Mapping[str, Any], activation: str, spec: Spec) -> list[Layer] | None:
    """The layers of an actor made of `rlx.networks.MLP` whose greedy action is the tanh of its first A outputs.

    None where `variables` (flax's, with the key "params") are of another network.
    """
    modules: Mapping[str, Any] = variables["params"]
    modules = modules.get("mlp", modules)
    if not modules or any(not re.fullmatch(r"(Dense|LayerNorm)_\d+", name) for name in modules):
        return None
    try:
        count = sum(name.startswith("Dense_") for name in modules)
        *hidden, (kernel, bias) = [_arrays(modules[f"Dense_{i}"], "kernel", "bias") for i in range(count)]
    except (KeyError, ValueError):
        return None
    if any(array.ndim != 2 for array, _ in [*hidden, (kernel, bias)]) or kernel.shape[1] < spec.action_size:
        return None
    if (hidden[0][0] if hidden else kernel).shape[0] != spec.actor_size:
        return None
    layers = []
    for i, arrays in enumerate(hidden):
        layers.append(Layer("dense", arrays))
        if f"LayerNorm_{i}" in modules:
            layers.append(Layer("layer_norm", _arrays(modules[f"LayerNorm_{i}"], "scale", "bias")))
        layers.append(Layer(activation))
    mean = Layer("dense", (kernel[:, : spec.action_size], bias[: spec.action_size]))  # a Gaussian's deviation follows
    return [*layers, mean, Layer("tanh")]


def _arrays(module: Mapping[str, Any], *names: str) -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(module[name], np.float32) for name in names)


def to_arrays(layers: Sequence[Layer]) -> dict[str, np.ndarray]:
    """Array j of layer i as "i.j", for a `.npz`; the names of the operations are stored elsewhere."""
    return {f"{i}.{j}": array for i, layer in enumerate(layers) for j, array in enumerate(layer.arrays)}


def check_onnx(flag: str) -> None:
    """Raises RlxError, about the flag that asked for it, where the package is not installed."""
    if importlib.util.find_spec("onnx") is None:
        raise RlxError(f"{flag}: needs the package onnx, which is not installed; {install('onnx')}")


def to_onnx(layers: Sequence[Layer], observation_size: int) -> bytes:
    """The graph `observation` `[B, O]` -> `action` `[B, A]`, float32, for any B."""
    from onnx import TensorProto, checker, helper, numpy_helper

    nodes: list[Any] = []

    def add(operation: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operation, inputs, [f"x{len(nodes)}"], **attributes))
        return f"x{len(nodes) - 1}"

    graphs: dict[str, Callable[..., str]] = {
        "normalize": lambda x, mean, std, low, high: add("Clip", add("Div", add("Sub", x, mean), std), low, high),
        "dense": lambda x, kernel, bias: add("Gemm", x, kernel, bias),
        "layer_norm": lambda x, scale, bias: add("LayerNormalization", x, scale, bias, axis=-1, epsilon=EPSILON),
        "relu": lambda x: add("Relu", x),
        "elu": lambda x: add("Elu", x),
        "gelu": lambda x: add("Gelu", x, approximate="tanh"),
        "swish": lambda x: add("Mul", x, add("Sigmoid", x)),
        "tanh": lambda x: add("Tanh", x),
    }
    x = "observation"
    for i, (operation, arrays) in enumerate(layers):
        x = graphs[operation](x, *(f"{i}.{j}" for j in range(len(arrays))))
    nodes[-1].output[0] = "action"
    sizes = {"observation": observation_size, "action": layers[-2].arrays[1].size}
    inputs_outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", size]) for name, size in sizes.items()
    ]
    constants = [numpy_helper.from_array(array, name) for name, array in to_arrays(layers).items()]
    graph = helper.make_graph(nodes, "policy", inputs_outputs[:1], inputs_outputs[1:], constants)
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="rlx")
    checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())
