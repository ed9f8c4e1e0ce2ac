"""Plays a checkpoint: records greedy episodes and shows them on an animated page and as videos."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rlx import config, json_files
from rlx.errors import RlxError, say_compiling
from rlx.evaluate import renderable_scene
from rlx.runs import policies, summaries
from rlx.train import acting
from rlx.visual import video, viewer

MAX_EPISODES = 36  # on one page


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
    env_args: Sequence[str] = (),
) -> Played:
    """Records greedy episodes of a run's checkpoint, member by member, from the same starts as its evaluation.

    Raises RlxError where there is no such run, checkpoint or member, or for more episodes than a page shows.
    """
    if len(set(members)) < len(members):
        raise RlxError(f"--member {' '.join(map(str, members))}: name each once")
    if episodes < 1:
        raise RlxError(f"--episodes {episodes}: must be at least 1")
    if episodes * len(members) > MAX_EPISODES:
        raise RlxError(f"--episodes {episodes} of {len(members)} members: a page shows {MAX_EPISODES}; ask for fewer")
    train: dict[str, Any] = {"eval_episodes": episodes} | ({} if eval_seed is None else {"eval_seed": eval_seed})
    policies.check_evaluates(config.from_json(folder / "config.json"), str(folder))
    saved = policies.load(folder, members, step, env_args, **train)
    say_compiling(f"playing {_count(episodes, len(members))} of {folder}, step {saved.step:,}")
    evaluate = jax.jit(jax.vmap(partial(acting.evaluate_policy, saved.task, record=episodes)))
    evaluation = jax.tree.map(np.asarray, evaluate(saved.snapshot, saved.env_params))
    scene, recorded, labels = renderable_scene(saved.task.env), [], config.member_labels(saved.members)
    for row, member in enumerate(members):
        label = [labels[member]] if labels[member] else []
        label += [f"seed {saved.members[member]['seed']:g}"] if len(saved.members) > 1 else []
        for i, episode in enumerate(summaries.episodes(evaluation, scene is not None, row), 1):
            recorded.append(episode | {"label": ", ".join([*label, f"episode {i}"])})
    at = "" if step is None else f", step {step:,}"
    return Played(f"{saved.config.agent} on {saved.config.env}{at}", scene, recorded)


def _count(episodes: int, members: int) -> str:
    """How many episodes, in words."""
    text = f"{episodes} episode{'s' * (episodes > 1)}"
    return text if members == 1 else f"{text} of each of {members} members"


def make(
    folder: Path,
    out: Path,
    videos: Sequence[Path] = (),
    seconds: float = 10.0,
    episodes: int = 4,
    step: int | None = None,
    eval_seed: int | None = None,
    members: Sequence[int] = (0,),
    env_args: Sequence[str] = (),
) -> list[Path]:
    """Plays (see `play`), writes the page, then the videos of at most `seconds`; returns the files written.

    Raises RlxError where the page cannot be made; where a video cannot, only after the page was written.
    """
    _check_not_foreign(out)
    json_files.check_place(out, "--out")
    for path in videos:
        json_files.check_place(path, f"--{path.suffix[1:].lower()}")
    played = play(folder, episodes, step, eval_seed, members, env_args)
    with viewer.writing(out):
        viewer.rollout_page(out, played.scene, played.episodes, played.title, "grid")
    for path in videos:
        if played.scene is None:
            raise RlxError(f"{path}: this environment has no geometry to draw; {out} shows its observations")
        video.write(path, played.scene, played.episodes, seconds)
    return [out, *videos]


def _check_not_foreign(path: Path) -> None:
    """Raises RlxError where a file exists that is not one of rlx's pages."""
    if path.exists() and not (path.is_file() and viewer.is_ours(path)):
        raise RlxError(f"{path}: already exists and is not a page of rlx; choose another --out")
