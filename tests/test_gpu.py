"""Checks for GPUs that need none: every program lowers for CUDA, and determinism must be requested in time."""

import os
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import rlx
from rlx import agents, config, parallel
from rlx.build import make_driver, setup
from rlx.errors import RlxError
from rlx.parallel import xla
from rlx.types import Spec, Transition
from tests import probes

CPU_ONLY = "inlineable"  # an annotation of rlx/parallel/xla.py for XLA on CPUs
SMALL = {"actor_hidden_sizes": (8, 8), "critic_hidden_sizes": (8, 8)}


def for_cuda(function: Any, *shapes: Any) -> str:
    """The program that a GPU would compile."""
    return function.trace(*shapes).lower(lowering_platforms=("cuda",)).as_text()


def shape(*sizes: int) -> Any:
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


QUICK = ("sac", "idql", "ppo", "pqn")  # one of each kind; others, whose pieces are the same, are slow


@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=[pytest.mark.slow] * (x not in QUICK)) for x in agents.REGISTRY]
)
def test_updates_lower_for_cuda(name: str) -> None:
    """Without the annotations that only XLA for CPUs needs."""
    known = config.settings(name)
    sizes = SMALL | {"chunk_size": 1}  # the batch below is no windows
    network = config.resolve(name, "none", **{k: v for k, v in sizes.items() if k in known}).network
    agent = probes.make(name, network, Spec(shape(3), shape(2), 1000))
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(agent.init, key)
    batch = Transition(shape(4, 3), shape(4, 2), shape(4), shape(4), shape(4, 3))
    batch = jax.eval_shape(lambda batch: probes.complete(agent, batch), batch)
    function = jax.jit(lambda state, *rest: agent.update(state, *rest)[0])
    assert "dot_general" in (text := for_cuda(function, state, batch, key)) and CPU_ONLY not in text
    if name == "sac":
        assert CPU_ONLY in function.lower(state, batch, key).as_text()


@pytest.mark.parametrize(
    ("agent", "settings"), [("sac", {"num_seeds": 2}), ("pql", {"driver": "pipelined", "split": "1"})]
)
def test_iterations_lower_for_cuda(monkeypatch: pytest.MonkeyPatch, agent: str, settings: dict[str, Any]) -> None:
    """Collecting, replay and learning in one program, fused and lagged; the environments go in one block."""

    def on_one(function: Any, devices: Any, in_axes: Any = 0, donate: tuple[int, ...] = ()) -> Any:
        mapped = jax.vmap(function, in_axes=in_axes, axis_name=parallel.DEVICE)  # a pmap lowers for what is here only
        return jax.jit(mapped, donate_argnums=donate)

    monkeypatch.setattr(parallel, "pmap", on_one)
    monkeypatch.setattr(xla.jax, "default_backend", lambda: "gpu")
    sizes = {"num_envs": 256, "batch_size": 8, "replay_capacity": 1024, "pool_size": 64, "ratio": "1:1"}
    sizes |= {"warmup_env_steps": 256, "total_env_steps": 1024}
    resolved = config.resolve(agent, "gymnax:Pendulum-v1", **(sizes | SMALL | settings))
    train = make_driver(setup(resolved)).train  # type: ignore[attr-defined]
    text = for_cuda(train._function, *train._argument_shapes())
    assert "256x3xf32" in text and "128x3xf32" not in text  # Pendulum's observations: all rows, and no block of them
    assert CPU_ONLY not in text and "tf.aliasing_output" in text  # replay is updated in place


def test_determinism_on_a_gpu_must_be_requested_before_jax_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    assert parallel.is_deterministic()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not parallel.is_deterministic()
    settings = {"total_env_steps": 1024, "num_envs": 8, "warmup_env_steps": 64}
    with pytest.raises(RlxError, match=f"set XLA_FLAGS={parallel.DETERMINISTIC} before"):
        rlx.fit("sac", "gymnax:Pendulum-v1", deterministic=True, **settings)
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=b")
    parallel.ask_for_determinism()
    parallel.ask_for_determinism()
    assert parallel.is_deterministic() and os.environ["XLA_FLAGS"] == f"--xla_a=b {parallel.DETERMINISTIC}"
