"""A trained policy at work: episodes of a checkpoint, as a page that moves and as a film."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlx import config
from rlx.errors import RlxError, say_compiling
from rlx.evaluate import renderable_scene
from rlx.experiment import make_driver, setup
from rlx.runs import checkpoint, runner, summaries
from rlx.train import steps
from rlx.visual import video, viewer

MOST = 36  # episodes on one page


class Played(NamedTuple):
    """Episodes as `rlx.visual.viewer.rollout_page` takes them."""

    title: str
    scene: dict[str, Any] | None
    episodes: list[dict[str, Any]]


def play(
    folder: Path,
    episodes: int = 4,
    step: int | None = None,
    eval_seed: int | None = None,
    members: Sequence[int] = (0,),
) -> Played:
    """Greedy episodes of what a run saved, the members in order; of each, the starts are those that judge it.

    Raises RlxError where there is no such run, checkpoint or member, or for more episodes than a page shows.
    """
    saved = config.from_json(folder / "config.json")
    everyone = config.members(saved)
    for member in members:
        if not 0 <= member < len(everyone):
            there = f"0 to {len(everyone) - 1}" if len(everyone) > 1 else "0 alone"
            raise RlxError(f"--member {member}: {folder} has {there}; choose one of those")
    if len(set(members)) < len(members):
        raise RlxError(f"--member {' '.join(map(str, members))}: name each once")
    if episodes < 1:
        raise RlxError(f"--episodes {episodes}: must be at least 1")
    if episodes * len(members) > MOST:
        raise RlxError(f"--episodes {episodes} of {len(members)} members: a page shows {MOST}; ask for fewer")
    chosen = replace(saved.train, **runner.NO_TRAINING, eval_episodes=episodes)
    chosen = chosen if eval_seed is None else replace(chosen, eval_seed=eval_seed)
    driver = make_driver(setup(replace(saved, train=chosen)))
    shown = checkpoint.choose(folder / "checkpoints", step)
    learned = jax.tree.map(lambda x: jnp.asarray(x[list(members)]), runner.load(folder, driver, shown))
    say_compiling(f"playing {_number(episodes, len(members))} of {folder}, step {shown:,}")
    judge = jax.jit(jax.vmap(partial(steps.evaluate_policy, driver.task, record=episodes)))
    evaluation = jax.tree.map(np.asarray, judge(learned))
    scene, found, labels = renderable_scene(driver.task.env), [], config.told_apart(everyone)
    for row, member in enumerate(members):
        of = [labels[member]] if labels[member] else []
        of += [f"seed {everyone[member]['seed']:g}"] if len(everyone) > 1 else []
        for i, episode in enumerate(summaries.episodes(evaluation, scene is not None, row), 1):
            found.append(episode | {"label": ", ".join([*of, f"episode {i}"])})
    at = "" if step is None else f", step {step:,}"
    return Played(f"{saved.agent} on {saved.env}{at}", scene, found)


def _number(episodes: int, members: int) -> str:
    """How many episodes, in words."""
    said = f"{episodes} episode{'s' * (episodes > 1)}"
    return said if members == 1 else f"{said} of each of {members} members"


def make(
    folder: Path,
    out: Path,
    films: Sequence[Path] = (),
    seconds: float = 10.0,
    episodes: int = 4,
    step: int | None = None,
    eval_seed: int | None = None,
    members: Sequence[int] = (0,),
) -> list[Path]:
    """Plays (see `play`), writes the page and then the films of at most `seconds`, and returns what was written.

    Raises RlxError where something cannot be had, of the films only after the page was written.
    """
    _refuse_others(out)
    played = play(folder, episodes, step, eval_seed, members)
    with viewer.writing(out):
        viewer.rollout_page(out, played.scene, played.episodes, played.title, "grid")
    for path in films:
        if played.scene is None:
            raise RlxError(f"{path}: this environment has no geometry to film; {out} shows its numbers")
        video.write(path, played.scene, played.episodes, seconds)
    return [out, *films]


def _refuse_others(path: Path) -> None:
    """Raises RlxError where another file than a page of ours is there."""
    if path.exists() and not (path.is_file() and viewer.is_ours(path)):
        raise RlxError(f"{path}: is there already and no page of rlx; choose another --out")
