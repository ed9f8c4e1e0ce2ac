"""Training scripts of peers that are no packages, imported without what updates do not use; what their cases share."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from worker import serve

PEERS = Path(__file__).resolve().parents[2] / ".cache" / "peers"
UNUSED = ("d4rl", "gym", "tqdm", "tyro", "wandb")  # data, environments, progress, command line, logs


def load(folder: str, name: str, *arguments: str) -> ModuleType:
    """The script `name` in a folder below PEERS, as if called with `arguments`."""
    sys.modules |= {unused: mock.MagicMock() for unused in UNUSED}
    sys.path.insert(0, str(PEERS / folder))
    sys.argv[1:] = arguments
    return importlib.import_module(name)


def columns(size: int, sizes: tuple[int, int]) -> dict[str, jax.Array]:
    """So many made-up transitions."""
    keys = jax.random.split(jax.random.key(1), 5)
    observation, following = (jax.random.normal(key, (size, sizes[0])) for key in keys[:2])
    action, next_action = (jnp.tanh(jax.random.normal(key, (size, sizes[1]))) for key in keys[2:4])
    found = {"observation": observation, "action": action, "reward": jax.random.normal(keys[4], (size,))}
    return found | {"next_observation": following, "next_action": next_action, "done": jnp.zeros(size)}


def work(step: Callable[[Any], Any], state: Any, block: int) -> None:
    """Serves `state = step(state)`, of which each makes `block` updates."""
    held = [state]

    def run(blocks: int) -> None:
        state = held.pop()
        for _ in range(blocks):
            state = step(state)
        held.append(jax.block_until_ready(state))

    begun = time.perf_counter()
    run(1)
    serve(run, round(time.perf_counter() - begun, 2), block)


def parse(description: str | None, agents: Any) -> argparse.Namespace:
    """Flags as of rlx's case `offline`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("case", choices=("offline",))
    parser.add_argument("--agent", choices=agents, required=True)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--capacity", type=int, default=100_000)
    parser.add_argument("--sizes", type=int, nargs=2, default=[17, 6])
    return parser.parse_args()
