"""What critics believe beside what their policies return: `python -m benchmarks.overestimation --only pendulum`.

While an agent learns, its policies act as they explore, from new starts. The critics' value of each early state and
action is compared with the discounted rewards that followed, for soft critics with the entropy that they count, too.
Rows that were made are kept in `--out`: the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import rlx
from benchmarks import tables
from benchmarks.comparisons import KEPT
from benchmarks.variants import PENDULUM, interval
from rlx import envs, normalize
from rlx.ope import policies

EPISODES, VALUED = 64, 50  # episodes of each policy, and their first states that are valued


class Group(NamedTuple):
    """Agents on one task, valued whenever they have made one of these numbers of environment steps."""

    title: str
    env: str
    agents: tuple[str, ...]
    moments: tuple[int, ...]
    seeds: int
    length: int  # steps that the values of the last of the early states still see


GROUPS = {
    "pendulum": Group(
        "Pendulum", PENDULUM, ("sac", "tqc", "dsac", "dsac_t", "redq", "crossq", "td3"), (6_912, 20_000), 5, 200
    ),
    "halfcheetah": Group(
        "Brax's halfcheetah", "brax:halfcheetah", ("sac", "tqc", "dsac", "dsac_t"), (50_000, 100_000), 2, 600
    ),
}


class Found(NamedTuple):
    """Means over early states before an end, in units of rewards."""

    estimate: float  # the critics' value
    true: float  # what followed


def soft_returns(reward: Any, log_prob: Any, ends: Any, gamma: float, alpha: float) -> Any:
    """Discounted rewards from each step on `[T, N]`, with -alpha log pi of later ones: what soft critics estimate.

    `ends` are steps after which nothing comes. Beyond T there is nothing, so early steps alone have their whole value.
    """

    def back(later: jax.Array, row: Any) -> tuple[jax.Array, jax.Array]:
        reward, log_prob, ends = row
        value = reward + gamma * jnp.where(ends, 0.0, later)
        return value - alpha * log_prob, value

    return jax.lax.scan(back, jnp.zeros_like(reward[0]), (reward, log_prob, ends), reverse=True)[1]


def rollout(env: Any, policy: policies.Policy, length: int, key: Any) -> dict[str, jax.Array]:
    """Observation, action, reward, log_prob, ends of `EPISODES` episodes, and whether they are alive, `[T, N, ...]`."""

    def step(loop: Any, key: Any) -> Any:
        state, alive = loop
        act_key, env_key = jax.random.split(key)
        observation = state.observation
        action = policy.sample(policy.params, observation, act_key)
        log_prob = jnp.zeros(EPISODES)
        if policy.log_prob is not None:
            log_prob = policy.log_prob(policy.params, observation, action)
        state, shown = jax.vmap(env.step)(state, action, jax.random.split(env_key, EPISODES))
        row = {"observation": observation, "action": action, "reward": shown.reward, "log_prob": log_prob}
        return (state, alive & ~shown.terminated), row | {"ends": shown.terminated, "alive": alive}

    reset_key, key = jax.random.split(key)
    state = jax.vmap(env.reset)(jax.random.split(reset_key, EPISODES))
    keys = jax.random.split(key, length)
    rows: dict[str, jax.Array] = jax.lax.scan(step, (state, jnp.ones(EPISODES, bool)), keys)[1]
    return rows


def values(result: Any, length: int) -> list[Found]:
    """Of each member of a result."""
    with tempfile.TemporaryDirectory() as folder:
        run = result.save(Path(folder) / "run")
        found = [policies.from_run(run, member=member)[0] for member in range(len(result.members))]
    env = envs.make(result.config.env, backend=result.config.backend)
    roll = jax.jit(lambda params: rollout(env, found[0]._replace(params=params), length, jax.random.key(1)))
    made = []
    for member, policy in enumerate(found):
        rows = roll(policy.params)
        hypers, actor = result.members[member], result.state.actor
        alpha = float(np.exp(actor.log_alpha.params[member])) if hasattr(actor, "log_alpha") else 0.0
        alpha *= float(scale(result, member)) / hypers["reward_scale"]
        followed = soft_returns(rows["reward"], rows["log_prob"], rows["ends"], hypers["gamma"], alpha)
        early = np.asarray(rows["alive"])[:VALUED]
        q = result.q_value(rows["observation"][:VALUED], rows["action"][:VALUED], member)
        made.append(Found(*(float(np.asarray(x)[:VALUED][early].mean()) for x in (q, followed))))
    return made


def scale(result: Any, member: int) -> Any:
    """What rewards were divided by where they were normalised."""
    one = jax.tree.map(lambda x: jnp.asarray(x)[member], result.statistics)
    return normalize.reward_scale(one, result.config.train.max_return)


def run(agent: str, group: Group) -> dict[str, Any]:
    """What the group finds of an agent: for each moment of each seed."""
    common: dict[str, Any] = {
        "num_seeds": group.seeds,
        "eval_every": group.moments[-1],
        "total_env_steps": group.moments[0],
    }
    made, result = tables.origin(), rlx.fit(agent, group.env, **common)
    found = [values(result, group.length)]
    for moment in group.moments[1:]:
        result = result.continue_training(moment)
        found.append(values(result, group.length))
    return {"found": found, "returns": result.evaluation.returns.mean(axis=-1).tolist(), "made": made}


def table(group: Group, rows: dict[str, Any]) -> str:
    """A row for each agent: value and bias at each moment, and the last return."""
    head = ["", *(f"{what} after {moment:,}" for moment in group.moments for what in ("true value", "estimate - true"))]
    lines = [tables.line([*head, "return"]), tables.line(["---"] * (len(head) + 1))]
    for agent, row in rows.items():
        cells = [agent]
        for members in np.asarray(row["found"]):
            estimate, true = members.T
            cells += [f"{true.mean():.1f}", interval(estimate - true, digits=1)]
        lines.append(tables.line([*cells, f"{np.mean(row['returns']):.0f}"]))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(GROUPS), choices=GROUPS)
    parser.add_argument("--out", type=Path, default=KEPT, help="folder for results (default: .cache/bench)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    kept = args.out / "overestimation.json"
    made: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    for name in args.only:
        for agent in GROUPS[name].agents:
            if agent not in made.setdefault(name, {}):
                made[name][agent] = run(agent, GROUPS[name])
                kept.write_text(json.dumps(made) + "\n")
    parts = [f"## {GROUPS[n].title}, {GROUPS[n].seeds} seeds\n\n{table(GROUPS[n], rows)}\n" for n, rows in made.items()]
    runs = tables.origins_of(row["made"] for rows in made.values() for row in rows.values())
    by = f"Made by `python -m benchmarks.overestimation`. {runs}"
    page = "\n".join(["# What critics believe, beside what followed\n", by, "", *parts])
    (args.out / "overestimation.md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
