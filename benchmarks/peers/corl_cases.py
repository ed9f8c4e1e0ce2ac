"""JAX-CORL's IQL, TD3+BC, AWAC and CQL as workers: the compiled program of eight updates that its scripts call."""

from __future__ import annotations

from typing import Any

import jax

import scripts

AGENTS = {  # script, class, what makes its state, settings
    "iql": ("iql", "IQL", "create_iql_train_state", ("layer_norm=false",)),
    "td3_bc": ("td3bc", "TD3BC", "create_td3bc_train_state", ("policy_freq=1",)),
    "awac": ("awac", "AWAC", "create_awac_train_state", ()),
    "cql": ("cql", "CQL", "create_cql_train_state", ()),
}


def main() -> None:
    args = scripts.parse(__doc__, AGENTS)
    script, name, create, settings = AGENTS[args.agent]
    module: Any = scripts.load("corl-source/algos", script, f"batch_size={args.batch}", *settings)
    rows = scripts.columns(args.capacity, args.sizes)
    names = {"observations": "observation", "actions": "action", "rewards": "reward"}
    names |= {"next_observations": "next_observation", "dones": "done", "dones_float": "done"}
    data = module.Transition(**{field: rows[names[field]] for field in module.Transition._fields})
    if args.agent == "cql":
        module.config.action_dim = data.actions.shape[-1]
    update = jax.jit(getattr(module, name)().update_n_times, static_argnums=(3,))

    def step(state: Any) -> Any:
        learnt, key = state
        key, used = jax.random.split(key)
        return update(learnt, data, used, module.config)[0], key

    first = getattr(module, create)(jax.random.PRNGKey(0), data.observations[0], data.actions[0], module.config)
    scripts.work(step, (first, jax.random.PRNGKey(1)), module.config.n_jitted_updates)


if __name__ == "__main__":
    main()
