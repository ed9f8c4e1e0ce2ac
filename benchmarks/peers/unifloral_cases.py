"""unifloral's BC, TD3+BC, IQL, ReBRAC, SAC-N and EDAC as workers: the train step that its scripts scan.

A call is a jitted scan of `BLOCK` updates, where the scripts scan 2500 between two evaluations.
"""

from __future__ import annotations

from typing import Any

import jax

import scripts

BLOCK = 8
AGENTS = ("bc", "td3_bc", "iql", "rebrac", "sac_n", "edac")


def networks(module: Any, args: Any, data: Any) -> dict[str, tuple[Any, list[Any]]]:
    """Each part of an agent's state as a module and the inputs that it is initialised with."""
    observation, action = data.obs[0], data.action[0]
    size, statistics = len(action), (data.obs.mean(axis=0), data.obs.std(axis=0))
    alone, both = [observation], [observation, action]
    if args.algorithm in ("sac_n", "edac"):
        critic = module.VectorQ(args.num_critics)
        parts = {"actor": (module.TanhGaussianActor(size), alone), "vec_q": (critic, both)}
        return parts | {"vec_q_target": (critic, both), "alpha": (module.EntropyCoef(), [])}
    if args.algorithm == "iql":
        critic = module.DualQNetwork(*statistics)
        parts = {"actor": (module.TanhGaussianActor(size, *statistics), alone), "dual_q": (critic, both)}
        return parts | {"dual_q_target": (critic, both), "value": (module.StateValueFunction(*statistics), alone)}
    rebrac = args.algorithm == "rebrac"
    options = [(args.actor_ln, args.norm_obs), (args.critic_ln, args.norm_obs)] if rebrac else [(), ()]
    actor = module.DeterministicTanhActor(size, *statistics, *options[0]), alone
    if args.algorithm == "bc":
        return {"actor": actor}
    critic = module.DualQNetwork(*statistics, *options[1])
    return {"actor": actor, "actor_target": actor, "dual_q": (critic, both), "dual_q_target": (critic, both)}


def main() -> None:
    args = scripts.parse(__doc__, AGENTS)
    module = scripts.load("unifloral-source/algorithms", args.agent)
    settings = module.Args(algorithm=args.agent, batch_size=args.batch)
    if hasattr(settings, "num_critic_updates_per_step"):
        settings.num_critic_updates_per_step = 1
    names = {"obs": "observation", "next_obs": "next_observation"}
    rows = scripts.columns(args.capacity, args.sizes)
    data = module.Transition(**{field: rows[names.get(field, field)] for field in module.Transition._fields})
    parts = networks(module, settings, data)
    state = {name: module.create_train_state(settings, jax.random.PRNGKey(0), *each) for name, each in parts.items()}
    functions = [module_.apply for name, (module_, _) in parts.items() if not name.endswith("_target")]
    step = module.make_train_step(settings, *functions, data)
    scan = jax.jit(lambda carry: jax.lax.scan(step, carry, None, BLOCK)[0])
    scripts.work(scan, (jax.random.PRNGKey(1), module.AgentTrainState(**state)), BLOCK)


if __name__ == "__main__":
    main()
