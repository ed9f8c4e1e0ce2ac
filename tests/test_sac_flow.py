"""SAC Flow: the density of a path by its Jacobian, and gradients through many steps."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import networks
from rlx.agents import sac_flow
from rlx.errors import RlxError
from tests import probes
from tests.loss_tools import SMALL, SPEC, normals, stub, three_ways

CONTRACT = probes.Contract(config={"flow_steps": 2}, hypers={"alpha_init": 1e-3, "alpha_lr": 0.0})

normal = normals()
OBSERVATION = normal(3)
ACTOR = stub(lambda w, o, x, t: (jnp.tanh(w @ o) * x + t - 0.3 * x**2, 0.1 * (w @ o) - 1))


def test_log_density_of_a_path() -> None:
    """That of the noise, changed by the Jacobian from it to the points of the path."""
    w, noise = normal(2, 3), normal(4, 2)

    def points(noise: Any) -> Any:
        """The path by a loop, `[1 + K, A]`."""
        xs = [noise[0]]
        for k in range(3):
            velocity, log_std = ACTOR.apply(w, OBSERVATION, xs[-1], k / 3)
            xs.append(xs[-1] + velocity / 3 + jnp.exp(log_std) * noise[k + 1])
        return jnp.stack(xs)

    jacobian = np.asarray(jax.jacobian(points)(jnp.asarray(noise)), np.float64).reshape(8, 8)
    expected = -0.5 * np.sum(noise**2 + np.log(2 * np.pi)) - np.linalg.slogdet(jacobian)[1]
    for end, log_density in three_ways(lambda noise: sac_flow.path(ACTOR, w, OBSERVATION, noise), noise):
        np.testing.assert_allclose(end, points(noise)[-1], rtol=1e-5)
        np.testing.assert_allclose(log_density, expected, rtol=1e-4)


def test_sample_is_squashed_with_its_change_of_variables() -> None:
    nets, key, observation = sac_flow.make_networks(sac_flow.Config(**SMALL), SPEC), jax.random.key(1), normal(5, 3)
    params = nets.actor.init(jax.random.key(0))
    end, log_density = sac_flow.path(nets.actor, params, observation, jax.random.normal(key, (5, 5, 2)))
    for action, log_prob in three_ways(
        lambda observation: nets.sample(nets.actor, params, observation, key), observation
    ):
        np.testing.assert_allclose(action, np.tanh(end), rtol=1e-5)
        np.testing.assert_allclose(log_prob, log_density - np.log1p(-(np.tanh(end) ** 2)).sum(-1), rtol=1e-4)


def test_gated_velocity_by_hand() -> None:
    """sigmoid(5 + gate) (candidate - x), and a deviation of the observation alone, within its bounds."""
    actor = sac_flow.make_networks(sac_flow.Config(**SMALL), SPEC).actor
    params = jax.tree.map(lambda p: 10 * p, actor.init(jax.random.key(0)))
    observation, x, time = normal(4, 3), normal(4, 2), normal(4, 1)
    together, mlp = np.concatenate([observation, x, time], axis=-1), networks.MLP((16,), 2)
    candidate, gate, deviation = (
        np.asarray(mlp.apply({"params": params["params"][name]}, inputs))
        for name, inputs in (("candidate", together), ("gate", together), ("deviation", observation))
    )
    velocity, log_std = actor.apply(params, observation, x, time)
    np.testing.assert_allclose(velocity, (candidate - x) / (1 + np.exp(-5 - gate)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(log_std, -5 + 7 * (1 + np.tanh(deviation)) / 2, rtol=1e-4)


def test_decoded_velocity_by_hand() -> None:
    """One layer of Flow-T: attention with the weights that it has on one token, which are 1."""
    config = sac_flow.Config(**SMALL, velocity="decoded", activation="tanh")
    actor = sac_flow.make_networks(config, SPEC).actor
    params = jax.tree.map(lambda p: 3 * p + 0.1, actor.init(jax.random.key(0)))
    observation, x, time = normal(4, 3), normal(4, 2), normal(4, 1)
    layers = {name: jax.tree.map(np.asarray, layer) for name, layer in params["params"]["candidate"].items()}

    def dense(x: Any, layer: Any) -> Any:
        return x @ layer["kernel"] + layer["bias"]

    def norm(x: Any, layer: Any) -> Any:
        centred = x - x.mean(axis=-1, keepdims=True)
        return layer["scale"] * centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6) + layer["bias"]

    memory = norm(dense(np.tanh(dense(observation, layers["Dense_0"])), layers["Dense_1"]), layers["LayerNorm_0"])
    token = dense(np.concatenate([x, time], axis=-1), layers["Dense_2"])
    token = token + dense(norm(token, layers["LayerNorm_1"]), layers["Dense_3"])
    token = token + dense(memory, layers["Dense_4"])
    block = layers["ResidualBlock_0"]
    token = token + dense(np.tanh(dense(norm(token, block["LayerNorm_0"]), block["Dense_0"])), block["Dense_1"])
    expected = dense(norm(token, layers["LayerNorm_2"]), layers["Dense_5"])
    for velocity, _ in three_ways(lambda *inputs: actor.apply(params, *inputs), observation, x, time):
        np.testing.assert_allclose(velocity, expected, rtol=1e-4, atol=1e-5)


def test_a_decoder_has_one_width() -> None:
    with pytest.raises(RlxError, match="16 8"):
        sac_flow.make_networks(sac_flow.Config(actor_hidden_sizes=(16, 8), velocity="decoded"), SPEC)


def slope(velocity: str, steps: int) -> float:
    """How strongly x_K depends on x_0, in the mean over noise, where the output layers have grown far."""
    actor = sac_flow.make_networks(sac_flow.Config(**SMALL, velocity=velocity), SPEC).actor
    params = actor.init(jax.random.key(0))
    for network in params["params"].values():
        network[max(name for name in network if name.startswith("Dense"))]["kernel"] *= 3000
    noise = jax.random.normal(jax.random.key(1), (64, 1 + steps, 2)).at[:, 1:].set(0.0)
    slopes = jax.vmap(jax.jacobian(lambda noise: sac_flow.path(actor, params, jnp.zeros(3), noise)[0]))(noise)
    return float(jnp.abs(slopes[:, :, 0]).mean())


def test_gradients_explode_over_many_steps_unless_the_velocity_is_gated_or_decoded() -> None:
    assert slope("plain", steps=1) < 20
    assert slope("plain", steps=16) > 500
    for velocity in ("gated", "decoded"):
        assert slope(velocity, steps=16) < 50
