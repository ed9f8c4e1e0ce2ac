"""What other libraries call a setting: Stable-Baselines3, Brax, CleanRL and what people write by habit."""

from __future__ import annotations

from collections.abc import Collection

RATE = ("actor_lr", "critic_lr")
SIZES = ("actor_hidden_sizes", "critic_hidden_sizes")
NAMES: dict[str, tuple[str, ...]] = {  # to the settings of rlx; only those that an agent has are suggested
    **dict.fromkeys(
        ("total_timesteps", "num_timesteps", "timesteps", "total_steps", "num_steps", "steps"),
        ("total_env_steps", "num_transitions"),
    ),
    **dict.fromkeys(("learning_rate", "lr"), RATE),
    **dict.fromkeys(("policy_lr", "actor_learning_rate", "pi_lr"), ("actor_lr",)),
    **dict.fromkeys(("q_lr", "qf_lr", "critic_learning_rate", "value_lr"), ("critic_lr",)),
    **dict.fromkeys(("buffer_size", "max_replay_size", "replay_size", "memory_size"), ("replay_capacity",)),
    **dict.fromkeys(("learning_starts", "min_replay_size", "start_steps", "start_timesteps"), ("warmup_env_steps",)),
    **dict.fromkeys(("gradient_steps", "grad_updates_per_step", "utd", "utd_ratio"), ("ratio",)),
    **dict.fromkeys(("episode_length", "max_episode_steps", "time_limit"), ("env_args",)),  # as its episode_length
    **dict.fromkeys(("n_epochs", "num_epochs", "update_epochs", "num_updates_per_batch"), ("epochs",)),
    **dict.fromkeys(("num_learning_epochs", "ppo_epochs"), ("epochs",)),
    **dict.fromkeys(("num_minibatches", "n_minibatches", "num_mini_batches"), ("batch_size",)),
    "train_freq": ("ratio", "rollout_length"),
    **dict.fromkeys(("unroll_length", "num_steps_per_env", "horizon_length"), ("rollout_length",)),
    **dict.fromkeys(("gae", "lam", "lambda", "lmbda"), ("gae_lambda", "td_lambda")),
    **dict.fromkeys(("clip", "clip_eps", "clip_coef", "clip_param", "clip_epsilon"), ("clip_range", "ratio_range")),
    "clipping_epsilon": ("clip_range", "ratio_range"),
    **dict.fromkeys(("max_grad_norm", "gradient_clipping"), ("max_gradient_norm",)),
    "target_kl": ("desired_kl",),
    "policy_frequency": ("ratio", "policy_delay"),
    **dict.fromkeys(("discounting", "discount", "discount_factor"), ("gamma",)),
    **dict.fromkeys(("polyak", "soft_target_tau", "target_smoothing_coefficient"), ("tau",)),
    **dict.fromkeys(("n_envs", "num_environments", "env_num"), ("num_envs",)),
    **dict.fromkeys(("num_evals", "eval_freq", "eval_frequency", "eval_interval"), ("eval_every",)),
    **dict.fromkeys(("num_eval_envs", "n_eval_episodes", "num_eval_episodes"), ("eval_episodes",)),
    **dict.fromkeys(("log_interval", "log_freq"), ("log_every",)),
    **dict.fromkeys(("save_freq", "checkpoint_freq", "save_interval"), ("checkpoint_every",)),
    "reward_scaling": ("reward_scale",),
    **dict.fromkeys(("net_arch", "hidden_sizes", "hidden_dims", "hidden_layer_sizes", "policy_kwargs"), SIZES),
    **dict.fromkeys(("policy_hidden_layer_sizes", "actor_hidden_dims"), SIZES[:1]),
    **dict.fromkeys(("value_hidden_layer_sizes", "critic_hidden_dims"), SIZES[1:]),
    "activation_fn": ("activation",),
    **dict.fromkeys(("ent_coef", "entropy_coef", "init_temperature"), ("alpha_init", "entropy_cost")),
    "alpha": ("alpha_init", "entropy_cost", "q_weight", "distillation_weight"),
    **dict.fromkeys(("cql_alpha", "cql_min_q_weight", "conservative_weight"), ("penalty_weight",)),
    **dict.fromkeys(("cql_n_actions", "n_action_samples"), ("penalty_actions",)),
    "eta": ("diversity_weight",),
    "exploration_fraction": ("exploration_share",),
    **dict.fromkeys(("exploration_initial_eps", "start_e"), ("epsilon_start",)),
    **dict.fromkeys(("exploration_final_eps", "end_e"), ("epsilon_end",)),
    **dict.fromkeys(("target_update_interval", "target_network_frequency"), ("target_period",)),
    **dict.fromkeys(("exploration_noise", "action_noise"), ("noise_max",)),
    **dict.fromkeys(("policy_noise", "target_policy_noise"), ("target_noise",)),
    **dict.fromkeys(("noise_clip", "target_noise_clip"), ("max_target_noise",)),
    **dict.fromkeys(("n_critics", "num_qs", "n_quantiles"), ("num_critics", "num_quantiles")),
    **dict.fromkeys(("multi_step", "nstep"), ("n_step",)),
    "n_steps": ("n_step", "rollout_length"),
    **dict.fromkeys(("normalize_obs", "norm_obs"), ("normalize_observations",)),
    **dict.fromkeys(("tensorboard_log", "log_dir"), ("tensorboard",)),
    "track": ("wandb",),
    "clip_actions": ("action_clip",),
}
ARGUMENTS = {  # of `rlx.fit`
    **dict.fromkeys(("verbose", "progress_bar"), "progress"),
    **dict.fromkeys(("callback", "progress_fn", "policy_params_fn"), "callbacks"),
    **dict.fromkeys(("environment", "env_id", "env_name", "training_env"), "env"),
    **dict.fromkeys(("save_dir", "output_dir", "checkpoint_logdir"), "run_dir"),
    "exp_name": "run_name",
}


def meant(name: str, known: Collection[str]) -> list[str]:
    """The settings among `known` that another library's name stands for."""
    plain = name.lower().lstrip("-").replace("-", "_")
    return [setting for setting in NAMES.get(plain, ()) if setting in known]
