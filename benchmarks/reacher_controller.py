"""What Brax's reacher can return, by a controller that knows its arm: `python -m benchmarks.reacher_controller`.

The torques are those of a spring from the tip to the target and of a damper of each joint, for a grid of both gains.
The best of them says what each physics allows, whatever an agent has learned.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

LINKS = (0.1, 0.11)  # metres, as in the observations
STIFFNESS = (1.0, 5.0, 20.0, 80.0, 300.0)
DAMPING = (0.0, 0.005, 0.02, 0.08, 0.3)
EPISODES, STEPS = 8, 1000


def torques(observation: jax.Array, stiffness: jax.Array, damping: jax.Array) -> jax.Array:
    """-k J' (tip - target) - d velocity, `[2]`, within [-1, 1]; J is the tip's Jacobian in the joints' angles."""
    cos, sin, velocity, error = observation[:2], observation[2:4], observation[6:8], observation[8:10]
    sin_sum, cos_sum = sin[0] * cos[1] + cos[0] * sin[1], cos[0] * cos[1] - sin[0] * sin[1]
    first, second = LINKS
    jacobian = jnp.array(
        [[-first * sin[0] - second * sin_sum, -second * sin_sum], [first * cos[0] + second * cos_sum, second * cos_sum]]
    )
    return jnp.clip(-stiffness * jacobian.T @ error - damping * velocity, -1, 1)


def main() -> None:
    from brax import envs

    gains = jnp.array([[k, d] for k in STIFFNESS for d in DAMPING])
    keys = jax.random.split(jax.random.key(0), EPISODES)
    for backend in ("spring", "positional", "generalized"):
        env = envs.get_environment("reacher", backend=backend)

        def episode(gain: jax.Array, key: jax.Array, env: envs.Env = env) -> tuple[jax.Array, jax.Array]:
            def step(state: envs.State, _: None) -> tuple[envs.State, tuple[jax.Array, jax.Array]]:
                state = env.step(state, torques(state.obs, *gain))
                return state, (state.reward, jnp.linalg.norm(state.obs[8:11]))

            _, (rewards, distances) = jax.lax.scan(step, env.reset(key), None, length=STEPS)
            return rewards.sum(), distances[-200:].mean()

        every = jax.jit(jax.vmap(jax.vmap(episode, (None, 0)), (0, None)))
        returns, distances = (x.mean(axis=1) for x in every(gains, keys))
        best = int(jnp.argmax(returns))
        stiffness, damping = gains[best]
        print(
            f"{backend}: return {returns[best]:.1f} with stiffness {stiffness:g} and damping {damping:g};"
            f" {1000 * distances[best]:.0f} mm from the target in the last 200 steps",
            flush=True,
        )


if __name__ == "__main__":
    main()
