"""What `make bench-gpu` compares, in parts, the most telling first; and the same at sizes for a rehearsal anywhere.

No part needs a network: Brax, which rlx depends on anyway, runs in rlx's own environment.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from benchmarks import learn
from benchmarks.comparisons import Comparison, fused, own, peer, update
from benchmarks.turns import Side

AGENTS = ("sac", "iql", "idql", "td3_bc", "bc", "pql")
SCAN = 64  # updates in a program, as training loops have them: one at a time, what is timed is the calling
GRAPHS = "FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL"  # what command buffers may hold, and then also:
LOOPS = f"{GRAPHS},WHILE,CONDITIONAL"


def brax(case: str, *flags: object) -> Side:
    """Brax's SAC in this environment."""
    return peer("brax", case, *flags, python=sys.executable)


def scanned(name: str, agent: str, batch: int, sets: Sequence[str] = (), **environment: str) -> Side:
    """A learner alone, many updates in a program."""
    return own(name, "update", "--agent", agent, "--batch", batch, "--scan", SCAN, sets=sets, **environment)


def learner(batch: int) -> Comparison:
    """One SAC learner beside Brax's."""
    sides = (scanned("rlx", "sac", batch), brax("update", "--batch", batch, "--scan", SCAN))
    return Comparison(f"learner sac, batch {batch}", f"{SCAN} updates", sides)


def training(num_envs: int, *others: Side) -> Comparison:
    """Fused training on ant."""
    return fused("ant", num_envs, others)._replace(needs_s=90.0)


def iteration(batch: int = 8192) -> Comparison:
    """PQL's iteration at its own sizes: learning on what was just collected, and with the pipeline's lag of one."""
    widths = tuple(f"{half}_hidden_sizes=512,256,128" for half in ("actor", "critic"))
    where = ("--env", "brax:ant", "--num-envs", 4096)

    def driver(name: str, *sets: str) -> Side:
        chosen = (*widths, "ratio=8:4", "n_step=3", *sets)
        return own(name, "fused", "--agent", "pql", *where, "--batch", batch, sets=chosen)

    sides = (
        driver("fused"),
        driver("pipelined", "driver=pipelined", "split=1"),
        own("environment alone", "bare", *where),
    )
    return Comparison("iteration pql ant, 4096 environments, 8:4 updates", "iterations", sides, needs_s=90.0)


def targets() -> list[Comparison]:
    """What was hoped for: twice Brax's learner, 0.8 of the environment alone, 32 seeds for the price of 3."""
    seeds = tuple(own(f"{n} seeds", "fused", "--seeds", n) for n in (1, 8, 32))
    return [
        learner(256),
        training(4096, brax("fused", "--env", "ant", "--num-envs", 4096)),
        training(16384),
        Comparison("seeds vmapped, sac inverted_pendulum, 128 environments", "vector steps", seeds),
    ]


def race(env: str, goals: tuple[float, ...], limit_s: float, *sides: str, seed: int = 0) -> Comparison:
    """Seconds and steps to fixed returns."""
    commands = tuple(Side(side, learn.command(side, env, seed, sys.executable)) for side in sides)
    name = f"learn {env}, seed {seed}"
    return Comparison(name, "return", commands, limit_s * len(sides), goals, limit_s)


def races() -> list[Comparison]:
    """PQL and Brax's PPO."""
    return [
        race("ant", (1000.0, 2000.0), 80.0, "rlx-pql", "rlx-pql-4096", "brax-ppo"),
        race("humanoid", (1000.0, 2000.0, 4000.0), 120.0, "rlx-pql-4096", "brax-ppo"),
    ]


def updates() -> list[Comparison]:
    """Every agent, one update a call, and Brax's."""
    small = ("num_critics=5", "critic_hidden_sizes=256,256")

    def both(batch: int) -> list[Comparison]:
        others = {"sac": (brax("update", "--batch", batch),)}
        every = [update(agent, batch, others=others.get(agent, ())) for agent in AGENTS]
        return [*every, update("tqc", batch, "tqc 5 x 25", small)]

    return [learner(8192), *both(256), *both(8192)]


def switches() -> list[Comparison]:
    """What XLA can be told: how precisely to multiply, and what to launch at once."""
    precision = "JAX_DEFAULT_MATMUL_PRECISION"

    def flags(*text: str) -> dict[str, str]:
        return {"XLA_FLAGS": " ".join(f"--xla_gpu_{flag}" for flag in text)}

    def launching(name: str, **environment: str) -> Side:
        return own(name, "fused", "--env", "brax:ant", "--num-envs", 4096, **environment)

    environments = {
        "as it is": {},
        "no command buffers": flags("enable_command_buffer="),
        "loops in them": flags(f"enable_command_buffer={LOOPS}"),
        "small ones": flags("graph_min_graph_size=1"),
        "latency hiding": flags("enable_latency_hiding_scheduler=true"),
        "deterministic": flags("deterministic_ops=true"),
    }
    precise = {"as it is": {}, "float32": {precision: "highest"}, "bfloat16": {precision: "BF16_BF16_F32"}}
    return [
        *(
            Comparison(
                f"precision, {agent}, batch {batch}",
                f"{SCAN} updates",
                tuple(scanned(name, agent, batch, **environment) for name, environment in precise.items()),
            )
            for agent, batch in (("sac", 256), ("sac", 8192), ("pql", 8192))
        ),
        Comparison(
            "flags, learner sac, batch 256",
            f"{SCAN} updates",
            tuple(scanned(name, "sac", 256, **environment) for name, environment in environments.items()),
        ),
        Comparison(
            "flags, fused sac ant, 4096 environments",
            "vector steps",
            tuple(launching(name, **environment) for name, environment in environments.items()),
            needs_s=150.0,
        ),
    ]


def rest() -> list[Comparison]:
    """The other sizes of training, iterations, replay and memory, offline learning, acting."""
    rings = [("bare copy", "copies", 20), ("rows alone, 2^20", "rows", 20), ("2^20", "ring", 20), ("2^22", "ring", 22)]
    offline = ("--agent", "iql", "--batch", 256)
    return [
        iteration(),
        *(training(n, brax("fused", "--env", "ant", "--num-envs", n)) for n in (128, 1024)),
        Comparison(
            "replay, add 4096 and sample 8192",
            "turns",
            tuple(own(name, case, "--num-envs", 4096, "--batch", 8192, "--capacity", 2**n) for name, case, n in rings),
        ),
        Comparison("memory of a transition, fused sac ant", "bytes", (own("rlx", "memory", "--env", "brax:ant"),)),
        Comparison(
            "offline iql",
            "updates",
            (
                own("update alone", "update", *offline),
                own("offline driver", "offline", *offline, "--capacity", 2**18),
            ),
        ),
        Comparison(
            "acting, 4096 observations",
            "calls",
            tuple(own(agent, "act", "--agent", agent, "--batch", 4096) for agent in ("sac", "pql", "iql", "idql")),
        ),
    ]


PARTS: dict[str, Callable[[], list[Comparison]]] = {
    "targets": targets,
    "learn": races,
    "update": updates,
    "switches": switches,
    "rest": rest,
}


def comparisons(parts: Sequence[str] = ()) -> list[Comparison]:
    """Those of the parts, or all; in their order."""
    return [comparison for part in parts or PARTS for comparison in PARTS[part]()]


SMALLER = {"--num-envs": 256, "--batch": 64, "--capacity": 2**12, "--seeds": 8, "--scan": 16, "--steps": 100}


def rehearsed(comparison: Comparison) -> Comparison:
    """The same sides at a small fraction of the sizes, physics too, to see that they run; their numbers mean nothing.

    Races keep their environments, for which they have their settings.
    """
    sides = []
    for side in comparison.sides:
        command = list(side.command)
        for i, word in enumerate(() if comparison.goals else command[:-1]):
            if word in SMALLER:
                command[i + 1] = str(max(4, int(command[i + 1]) // SMALLER[word]))
            if word == "--env":
                command[i + 1] = command[i + 1].replace("ant", "inverted_pendulum")  # compiles in seconds
        if comparison.goals:
            command[-1] = learn.smaller(side.name, command[-1])
        sides.append(side._replace(command=command))
    goals = tuple(goal - 1e6 for goal in comparison.goals)  # reached at once
    return comparison._replace(sides=tuple(sides), needs_s=0.0, goals=goals, limit_s=900.0)
