"""What is compared with what: sides as commands, and the groups of `make bench` and `make bench-peers`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.learn_settings import BRAX_PPO
from benchmarks.turns import Side

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / ".cache" / "bench"
PEERS = ROOT / ".cache" / "peers"
OFFLINE = ("awac", "cql", "edac", "rebrac", "mcep", "riql", "dual_rl", "odice")  # beside those measured from the start
OFFLINE += ("ifql", "cfgrl", "fql", "qc", "srpo", "edp", "dql", "cdsa")  # whose policy is a flow or a diffusion model
ONLINE = ("td3", "crossq", "redq", "dsac", "dsac_t", "ace", "mdpo", "aro_ddpg", "fast_td3")
PLAIN = ("actor_hidden_sizes=256,256", "critic_hidden_sizes=256,256")


class Comparison(NamedTuple):
    """Sides that do the same work; ratios are to the first."""

    name: str
    unit: str  # of rates, a second; or of what is measured instead: "seconds" from process start, "bytes", "return"
    sides: tuple[Side, ...]
    needs_s: float = 60.0  # it is not begun with less time left
    goals: tuple[float, ...] = ()  # returns, rising; a side is stopped at the last
    limit_s: float = 900.0  # or after so long


def own(name: str, case: str, *flags: Any, sets: Sequence[str] = (), **environment: str) -> Side:
    """A case of rlx's, or a bound."""
    arguments = [*map(str, flags), *(["--set", *sets] if sets else [])]
    return Side(name, [sys.executable, str(ROOT / "benchmarks" / "cases.py"), case, *arguments], environment)


def peer(name: str, case: str, *flags: Any, python: str = "") -> Side:
    """A peer's case, in its own environment unless another `python` is named."""
    script = ROOT / "benchmarks" / "peers" / f"{name}_cases.py"
    return Side(name, [python or str(PEERS / name / "bin" / "python"), str(script), case, *map(str, flags)])


def update(
    agent: str, batch: int, label: str = "", sets: Sequence[str] = (), others: Iterable[Side] = ()
) -> Comparison:
    """Updates against the chain of their matrix products, and others."""
    flags = ("--agent", agent, "--batch", batch)
    sides = (own("rlx", "update", *flags, sets=sets), own("chain", "chain", *flags, sets=sets), *others)
    return Comparison(f"update {label or agent}, batch {batch}", "updates", sides)


def fused(env: str, num_envs: int, others: Iterable[Side] = (), agent: str = "sac") -> Comparison:
    """Vector steps with one update each, against the environment alone and the update's products alone."""
    sizes = {"inverted_pendulum": (4, 1), "hopper": (11, 3), "ant": (27, 8)}[env]
    where = ("--env", f"brax:{env}", "--num-envs", num_envs)
    sides = (
        own("rlx", "fused", *where, "--agent", agent),
        *others,
        own("environment alone", "bare", *where),
        own("chain", "chain", "--agent", agent, "--sizes", *sizes, sets=PLAIN),
    )
    return Comparison(f"fused {agent} {env}, {num_envs} environments", "vector steps", sides)


def on_policy(task: str, share: int = 8) -> Comparison:
    """PPO's environment steps with the settings of Brax's training notebook, but for a block of one in `share` of its
    environments, learned from in as many minibatches: one core takes half a minute for a whole one."""
    theirs = BRAX_PPO[task]
    sizes = {name: theirs[name] // share for name in ("num_envs", "batch_size")}
    settings = json.dumps(theirs | sizes)
    batch_size = sizes["batch_size"] * theirs["unroll_length"]
    sets = ("preset=brax", f"num_envs={sizes['num_envs']}", f"batch_size={batch_size}")
    sides = (
        own("rlx", "blocks", "--agent", "ppo", "--env", f"brax:{task}", sets=sets),
        peer("brax", "blocks", "--env", task, "--settings", settings),
    )
    return Comparison(f"ppo {task}, {sizes['num_envs']} environments", "environment steps", sides)


def games(env: str, seeds: int) -> Comparison:
    """PPO's environment steps of each seed, on a task with discrete actions, beside rejax's at the same sizes."""
    sizes = {"num_envs": 64, "num_steps": 32, "num_epochs": 4, "num_minibatches": 8}
    sets = ("num_envs=64", "rollout_length=32", "epochs=4", "batch_size=256", f"num_seeds={seeds}")
    networks = ("actor_hidden_sizes=64,64", "critic_hidden_sizes=64,64", "activation=swish")
    settings = json.dumps(sizes | {"learning_rate": 1e-3, "normalize_observations": True})
    own_side = own("rlx", "blocks", "--agent", "ppo", "--env", f"gymnax:{env}", sets=(*sets, *networks))
    their_side = peer("rejax", "blocks", "--env", env, "--seeds", seeds, "--settings", settings)
    name = f"ppo {env}, {seeds} seed{'s' if seeds > 1 else ''}"
    return Comparison(name, "environment steps of a seed", (own_side, their_side))


def offline(
    agent: str, peers: Sequence[str], label: str = "", sets: Sequence[str] = (), theirs: str = ""
) -> Comparison:
    """Offline training without evaluations: updates, each of all networks on rows drawn from 100,000, beside peers'."""
    sides = (
        own("rlx", "offline", "--agent", agent, sets=sets),
        *(peer(name, "offline", "--agent", theirs or agent) for name in peers),
        own("chain", "chain", "--agent", agent, sets=sets),
    )
    return Comparison(f"offline {label or agent}", "updates", sides, needs_s=300.0)


def of_rows(capacity: int) -> tuple[Side, Side]:
    """Replay against the rows that it copies, taken at places known beforehand."""
    return own("rows alone", "rows", "--capacity", capacity), own("rlx", "ring", "--capacity", capacity)


def own_comparisons() -> list[Comparison]:
    """`make bench`."""
    small = [name for name in PLAIN if name.startswith("critic")]
    updates = [update(agent, 256) for agent in ("sac", "iql", "idql", "td3_bc", "bc", "pql", *OFFLINE, *ONLINE)]
    updates += [update("tqc", 256, f"tqc {n} x 25", (f"num_critics={n}", *small)) for n in (2, 5)]
    training = [fused("inverted_pendulum", n) for n in (128, 1024)]
    seeds = [own(f"{n} seeds", "fused", "--seeds", n) for n in (1, 8, 32)]
    seeds.append(own("8 seeds, vmapped", "fused", "--seeds", 8, sets=("members=vmap",)))
    capacities = [own(f"capacity {n:,}", "ring", "--capacity", n) for n in (10_240, 102_400, 1_024_000)]
    acting = [own(agent, "act", "--agent", agent, "--batch", 128) for agent in ("sac", "pql", "iql", "idql")]
    offline = (own("update alone", "update", "--agent", "iql"), own("offline driver", "offline", "--agent", "iql"))
    start = (own("rlx", "start"),)
    return [
        *updates,
        *training,
        Comparison("seeds, sac inverted_pendulum, 128 environments", "vector steps", tuple(seeds)),
        Comparison("replay, add 128 and sample 256", "turns", (own("bare copy", "copies"), *capacities)),
        *(
            Comparison(f"replay of {n:,}, against its rows alone", "turns", of_rows(n))
            for n in (10_240, 102_400, 1_024_000)
        ),
        Comparison(
            "memory of a transition, fused sac hopper", "bytes", (own("rlx", "memory", "--env", "brax:hopper"),)
        ),
        Comparison("acting, 128 observations", "calls", tuple(acting)),
        Comparison("offline iql", "updates", offline),
        Comparison("start to first epoch", "seconds", start),
    ]


def peer_comparisons() -> list[Comparison]:
    """`make bench-peers`."""
    two = ("num_critics=2", "critic_hidden_sizes=256,256")
    everyone = [peer(name, "update") for name in ("sbx", "rejax", "brax")]

    def training(env: str, num_envs: int) -> Comparison:
        flags = ("--env", env, "--num-envs", num_envs)
        return fused(env, num_envs, [peer("brax", "fused", *flags), peer("rejax", "fused", *flags)])

    start = (own("rlx", "start"), *(peer(name, "start") for name in ("brax", "rejax", "sbx")))
    wide = ("actor_hidden_sizes=256,256,256", "critic_hidden_sizes=256,256,256", "num_critics=10")
    as_they_are = "normalize_observations=false"
    trained_offline = [
        offline("iql", ("corl", "unifloral")),
        offline("td3_bc", ("unifloral",)),
        offline("td3_bc", ("corl",), "td3_bc, LayerNorm", ("layer_norm=true", as_they_are)),
        offline("awac", ("corl",), "awac, LayerNorm", ("layer_norm=true",)),
        offline("cql", ("corl",), "cql, one action a target", ("backup_actions=1",)),
        offline("bc", ("unifloral",)),
        offline("rebrac", ("unifloral",)),
        offline("sac", ("unifloral",), "sac-n, 10 critics", (*wide, as_they_are, "normalize_rewards=false"), "sac_n"),
        offline("edac", ("unifloral",)),
    ]
    return [
        update("sac", 256, others=everyone),
        update("tqc", 256, "tqc 2 x 25", two, [peer("sbx", "update", "--agent", "tqc")]),
        update("crossq", 256, "crossq 2 x 256", two[1:], [peer("sbx", "update", "--agent", "crossq")]),
        *(training(env, n) for env in ("inverted_pendulum", "hopper") for n in (128, 1024)),
        *(on_policy(task) for task in ("ant", "halfcheetah")),
        *(games(env, seeds) for env in ("CartPole-v1", "Breakout-MinAtar") for seeds in (1, 16)),
        *trained_offline,
        Comparison("start to first epoch", "seconds", start),
    ]
