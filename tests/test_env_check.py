"""`rlx.envs.check`, and its quick part in `rlx.fit`: each fault of an environment is one line that names it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx
from rlx import envs
from rlx.envs.base import advance, begin
from rlx.errors import RlxError
from rlx.types import EnvState, Key, Spec


class Faulty:
    """An environment that passes the check, but for one fault."""

    def __init__(self, fault: str = "", **spec: Any) -> None:
        self.fault, self.calls = fault, 0
        size = jax.ShapeDtypeStruct((2,), jnp.float32)
        self.spec = Spec(size, jax.ShapeDtypeStruct((1,), jnp.float32), 5)._replace(**spec)

    def reset(self, key: Key) -> EnvState:
        if self.fault == "dictionary":
            return begin({"x": jnp.zeros(2)}, jnp.zeros(2)).replace(observation={"state": jnp.zeros(2)})
        return begin({"x": jnp.zeros(2)}, jnp.zeros(3 if self.fault == "size" else 2))

    def step(self, state: EnvState, action: jax.Array, key: Key) -> Any:
        self.calls += 1
        x = state.inner["x"] + 0.1 * action[0]
        if self.fault == "if" and x[0] > 1:
            return state
        if self.fault == "state outside":
            x = x + self.calls
        if self.fault == "numpy":
            x = x + jax.pure_callback(lambda: np.random.default_rng().random(2).astype("f"), self.spec.observation)
        x = jnp.where(state.time == 2, {"nan": jnp.nan, "large": 1e12}.get(self.fault, x), x)
        after, step = advance(state, {"x": x}, x, x[0], False, 99 if self.fault == "no limit" else 5)
        if self.fault == "resets":
            after = jax.tree.map(lambda a, b: jnp.where(state.time == 3, a, b), self.reset(key), after)
        changes: dict[str, Any] = {
            "integer": {"next_observation": x.astype(jnp.int32)},
            "reward": {"reward": x},
            "flag": {"terminated": jnp.float32(0.0)},
            "both": {"terminated": step.truncated},
            "extras": {"extras": {"cost": x[0]}},
        }
        if self.fault == "state":
            after = after.replace(inner={"x": x[:1]})
        if self.fault == "entries":
            after = after.replace(inner=(x,))
        return step if self.fault == "tuple" else (after, step._replace(**changes.get(self.fault, {})))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("", ""),
        ("dictionary", "dict"),
        ("size", r"reset's observation is float32 \[3\]; it must be float32 \[2\]"),
        ("if", "TracerBoolConversionError, test_env_check.py line .*; use jnp.where"),
        ("integer", r"step's next_observation is int32 \[2\]"),
        ("reward", r"step's reward is float32 \[2\]; it must be float32 \[\]"),
        ("flag", "step's terminated is float32"),
        ("extras", "differ in 'cost'"),
        ("state", r"the state's .*'x'.* is float32 \[2\] after reset and float32 \[1\] after step"),
        ("entries", "different entries"),
        ("tuple", r"step must return \(EnvState, Step\)"),
        ("nan", "observation is nan in step 2"),
        ("large", r"observation is 1e\+12 in step 2"),
        ("both", "terminated and truncated at once"),
        ("no limit", "is not truncated after spec.episode_length, 5 steps"),
        ("resets", "state.time is 0 after 4 steps"),
        ("state outside", "keep no state outside|draw random numbers"),
        ("numpy", "draw random numbers from the keys"),
    ],
)
def test_the_check_says_what_is_wrong(fault: str, message: str) -> None:
    if not message:
        return envs.check(Faulty(fault))
    with pytest.raises(RlxError, match=message) as error:
        envs.check(Faulty(fault))
    assert str(error.value).startswith("Faulty") and "\n" not in str(error.value)
    return None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": ("speed",)}, "'speed', which a step does not report"),
        ({"parts": {"state": (0, 3)}}, r"parts\['state'\] is \(0, 3\)"),
        ({"observation": jax.ShapeDtypeStruct((64, 64, 3), jnp.float32)}, r"image .*\[64, 64, 3\]"),
        ({"observation": {"state": 3}}, "dictionary"),
        ({"observation": jax.ShapeDtypeStruct((2,), jnp.int32)}, r"int32 \[2\]; it must be float32"),
        ({"action": jax.ShapeDtypeStruct((), jnp.float32)}, "flat vector"),
        ({"action": 1}, "ShapeDtypeStruct"),
        ({"episode_length": 1e3}, "integer of at least 1"),
    ],
)
def test_fit_makes_the_quick_check_before_it_compiles(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RlxError, match=message):
        rlx.fit("sac", Faulty(**changes), total_env_steps=64, warmup_env_steps=16, num_envs=8)
