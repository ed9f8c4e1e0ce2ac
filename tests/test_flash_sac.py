"""FlashSAC: XQC's checks, the sphere of its norms, and noise that is held while acting."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.agents import flash_sac
from rlx.types import as_arrays
from tests.loss_tools import BATCHES, SPEC
from tests.test_xqc import CONTRACT as LIKE_XQC
from tests.test_xqc import SMALL, check_losses, check_sphere

CONTRACT = LIKE_XQC._replace(
    config={"num_atoms": 21, "actor_hidden_sizes": (16,), "critic_hidden_sizes": (16,)},
    probed_elsewhere=True,
    batch=32,  # with fewer rows, rounding in their statistics grows beyond the tolerance of 1e-3
)
LEARNS = CONTRACT._replace(  # the probes, but takes a minute
    probed_elsewhere=False,
    config={"num_atoms": 41, "actor_hidden_sizes": (32, 32), "critic_hidden_sizes": (16,)},
    hypers=LIKE_XQC.hypers | {"actor_lr": 3e-3, "v_min": -10, "v_max": 10},
    updates=1000,
    tolerance=2,
)


@pytest.mark.slow
def test_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests import test_contract  # which reads CONTRACT of this module

    monkeypatch.setattr(sys.modules[__name__], "CONTRACT", LEARNS)
    made = (test_contract.plain, test_contract.make, test_contract.some_batch, test_contract.programs)
    for cached in made:
        cached.cache_clear()
    test_contract.test_probes(test_contract.Case("flash_sac"))
    for cached in made:
        cached.cache_clear()


def test_losses() -> None:
    """`actor_loss` and `critic_loss`."""
    check_losses(flash_sac)


def test_weights_and_norms_stay_on_their_spheres() -> None:
    """Scale and bias of a norm of width W have norm sqrt(W) together; each critic has its own."""
    critics = check_sphere(flash_sac)["params"]
    layers = {name: layer for name, layer in critics.items() if "Norm" in name}
    assert {name.split("_")[0] for name in layers} == {"BatchNorm", "RMSNorm"}
    for layer in layers.values():
        together = np.concatenate([layer[name] for name in layer], axis=-1)
        np.testing.assert_allclose(np.linalg.norm(together, axis=-1), layer["scale"].shape[-1] ** 0.5, rtol=1e-5)


def test_the_target_entropy_is_half_that_of_a_narrow_gaussian() -> None:
    found = as_arrays(flash_sac.Hypers()).target_entropy_per_action
    np.testing.assert_allclose(found, np.log(0.15 * np.sqrt(2 * np.pi * np.e)), rtol=1e-5)


def test_acting_holds_its_noise_and_the_greedy_action_has_none() -> None:
    agent = flash_sac.make(flash_sac.Config(**SMALL), SPEC)
    assert agent.noise is not None
    policy = agent.acting_params(jax.jit(agent.init)(jax.random.key(0)))
    noise = jax.tree.map(lambda x: jnp.stack([x] * 6), agent.noise())._replace(steps_left=jnp.array([0, 1, 2, 0, 3, 0]))
    action, info, new = jax.device_get(jax.jit(agent.act)(policy, BATCHES.observation, jax.random.key(1), noise))
    greedy = np.asarray(jax.jit(agent.act_greedy)(policy, BATCHES.observation, jax.random.key(1))[0])
    held = np.array([False, True, True, False, True, False])
    np.testing.assert_allclose(action[held], greedy[held], rtol=1e-5)  # the noise that they hold is 0
    assert (new.draw[~held] != 0).all() and (action[~held] != greedy[~held]).all() and info == {}
