"""Mazes: a point finds its way between walls, and only the goal pays, as in D4RL's and OGBench's navigation tasks.

One cell is one unit; observations are positions relative to the middle. Two scripted controllers collect data: one
wanders from cell to cell, as OGBench's `navigate` sets do, and one takes the shortest way to the goal.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlx.envs.base import Controller, advance, begin
from rlx.errors import RlxError
from rlx.types import EnvState, Key, Spec, Step

SPEED, RADIUS, REACHED = 0.1, 0.2, 0.5  # the longest step of an axis, half the point's width, the goal's radius
SPREAD = 0.3  # starts are uniform within this of their cell's middle
NOISE = 0.5  # deviation of the wandering controller's actions


class Maze(NamedTuple):
    """A plan, its time limit in steps, and of each task the start and the goal, (row, column)."""

    plan: str
    episode_length: int
    tasks: tuple[tuple[tuple[int, int], tuple[int, int]], ...]


MAZES = {
    "umaze": Maze(
        """
        #####
        #...#
        ###.#
        #...#
        #####
        """,
        150,
        (((3, 1), (1, 1)), ((1, 1), (3, 1)), ((3, 1), (2, 3)), ((1, 1), (2, 3)), ((2, 3), (1, 1))),
    ),
    "medium": Maze(
        """
        ########
        #..##..#
        #..#...#
        ##...###
        #..#...#
        #.#..#.#
        #...#..#
        ########
        """,
        300,
        (((1, 1), (6, 6)), ((6, 1), (1, 6)), ((1, 6), (6, 2)), ((6, 6), (2, 1)), ((4, 1), (1, 5))),
    ),
    "large": Maze(
        """
        ############
        #....#.....#
        #.##.#.#.#.#
        #......#...#
        #.####.###.#
        #..#.#.....#
        ##.#.#.#.###
        #..#...#...#
        ############
        """,
        600,
        (((1, 1), (7, 10)), ((7, 1), (1, 6)), ((7, 10), (7, 1)), ((1, 10), (5, 4)), ((5, 4), (7, 8))),
    ),
    "giant": Maze(
        """
        ################
        #.....#........#
        #.###.#.######.#
        #.#...#.#....#.#
        #.#.###.#.##.#.#
        #.#...#...#..#.#
        #.###.#####.##.#
        #...#.......#..#
        ###.#########.##
        #.#...#.....#..#
        #.###.#.###.##.#
        #.....#...#....#
        ################
        """,
        1500,
        (((1, 1), (1, 14)), ((3, 3), (9, 7)), ((9, 1), (7, 13)), ((1, 14), (3, 11)), ((9, 7), (1, 1))),
    ),
}


class State(NamedTuple):
    """Where the point and its goal are."""

    position: jax.Array  # [2], x to the right and y upwards
    goal: jax.Array  # [2]


class MazeEnv:
    """A point in a maze; the goal pays 1 and ends the episode, and nothing else pays.

    `task` 1 to 5 begins in one cell and ends in another; with 0 both cells are drawn for every episode. Observations
    have the parts `position` and `goal`.
    """

    def __init__(self, maze: Maze, task: int, episode_length: int):
        rows = maze.plan.split()[::-1]  # y grows with the rows from below
        self._walls = np.array([[cell == "#" for cell in row] for row in rows])
        self._middle = (np.array(self._walls.shape[::-1]) - 1) / 2
        self._cells = np.argwhere(~self._walls)  # [C, 2], (row, column)
        self._next = next_cells(self._cells)
        height = len(rows) - 1
        self._task = None if task == 0 else [self._number(height - r, c) for r, c in maze.tasks[task - 1]]
        self.spec = Spec(
            observation=jax.ShapeDtypeStruct((4,), jnp.float32),
            action=jax.ShapeDtypeStruct((2,), jnp.float32),
            episode_length=episode_length,
            parts={"position": (0, 2), "goal": (2, 4)},
        )
        wander = Controller(self._wander, lambda: jnp.int32(-1))
        self.controllers = {"navigate": wander, "expert": Controller(self._shortest, tuple)}

    def _number(self, row: int, column: int) -> int:
        """Of a free cell."""
        return int(np.flatnonzero((self._cells == (row, column)).all(axis=1))[0])

    def _center(self, cell: Any) -> jax.Array:
        """The position of a cell's middle, by its number."""
        row, column = jnp.asarray(self._cells)[cell]
        return jnp.stack([column, row]) - self._middle

    def _cell(self, position: jax.Array) -> jax.Array:
        """The number of the free cell at a position."""
        column, row = jnp.round(position + self._middle).astype(jnp.int32)
        return jnp.argmax((jnp.asarray(self._cells) == jnp.stack([row, column])).all(axis=1))

    def reset(self, key: Key) -> EnvState:
        cell_key, place_key = jax.random.split(key)
        start, goal = jax.random.choice(cell_key, len(self._cells), (2,), replace=False)
        if self._task is not None:
            start, goal = map(jnp.int32, self._task)
        offset = jax.random.uniform(place_key, (2,), minval=-SPREAD, maxval=SPREAD)
        inner = State(self._center(start) + offset, self._center(goal))
        return begin(inner, jnp.concatenate(inner))

    def step(self, state: EnvState, action: jax.Array, key: Key) -> tuple[EnvState, Step]:
        position = state.inner.position
        for axis, change in enumerate(SPEED * jnp.clip(action, -1.0, 1.0)):
            position = position.at[axis].set(self._slide(position, axis, change))
        inner = State(position, state.inner.goal)
        reached = jnp.linalg.norm(position - inner.goal) < REACHED
        return advance(state, inner, jnp.concatenate(inner), reached, reached, self.spec.episode_length)

    def _slide(self, position: jax.Array, axis: int, change: jax.Array) -> jax.Array:
        """The new coordinate on an axis: as far as the wall ahead allows."""
        grid, side = position + self._middle, jnp.sign(change)
        ahead = jnp.round(grid[axis] + change + side * RADIUS).astype(jnp.int32)
        beside = jnp.round(grid[1 - axis] + jnp.array([-1.0, 1.0]) * (RADIUS - 1e-3)).astype(jnp.int32)
        walls = jnp.asarray(self._walls)
        blocked = (walls[beside, ahead] if axis == 0 else walls[ahead, beside]).any()
        limit = ahead - side * (0.5 + RADIUS) - self._middle[axis]
        return jnp.where(blocked, limit, position[axis] + change)

    def _towards(self, position: jax.Array, target: jax.Array, place: jax.Array) -> jax.Array:
        """The action that leads to a place in the cell of number `target`, cell by cell."""
        cell = self._cell(position)
        waypoint = jnp.where(cell == target, place, self._center(jnp.asarray(self._next)[cell, target]))
        return jnp.clip((waypoint - position) / SPEED, -1.0, 1.0)

    def _wander(self, observation: jax.Array, key: Key, target: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Noisy steps towards a random cell, and on to another from there; -1 has none yet."""
        cell_key, noise_key = jax.random.split(key)
        drawn = jax.random.randint(cell_key, (), 0, len(self._cells))
        arrived = (target < 0) | (self._cell(observation[:2]) == target)
        target = jnp.where(arrived, drawn, target).astype(jnp.int32)
        action = self._towards(observation[:2], target, self._center(target))
        return jnp.clip(action + NOISE * jax.random.normal(noise_key, (2,)), -1.0, 1.0), target

    def _shortest(self, observation: jax.Array, key: Key, carry: Any) -> tuple[jax.Array, Any]:
        """The shortest way to the goal."""
        position, goal = observation[:2], observation[2:]
        return self._towards(position, self._cell(goal), goal), carry

    def scene(self) -> dict[str, Any]:
        """Walls, low so that they hide nothing, the goal and the point; see `rlx.envs.base.Renderable`."""
        flat: Any = partial(dict, rotation=[1.0, 0.0, 0.0, 0.0])
        walls = [
            flat(shape="box", size=[0.5, 0.5, 0.04], link=-1, position=[x, y, 0.04], color=[0.45, 0.45, 0.5])
            for y, x in (np.argwhere(self._walls) - self._middle[::-1]).tolist()
        ]
        center = [0.0, 0.0, RADIUS]
        point = flat(shape="sphere", size=[RADIUS], link=0, position=center, color=[0.2, 0.4, 0.8])
        goal = flat(shape="cylinder", size=[REACHED, 0.02], link=1, position=[0.0, 0.0, 0.02], color=[0.2, 0.7, 0.3])
        return {"dt": 0.05, "geoms": [*walls, goal, point]}

    def pose(self, state: EnvState) -> jax.Array:
        """Of the point and of the goal, `[2, 7]`."""
        rest = jnp.array([0.0, 1.0, 0.0, 0.0, 0.0])
        return jnp.stack([jnp.concatenate([place, rest]) for place in state.inner])


def next_cells(cells: np.ndarray) -> np.ndarray:
    """Of cells `[C, 2]` the next one on a shortest way from each to each, `[C, C]`, itself where they are the same."""
    count = len(cells)
    beside = np.abs(cells[:, None] - cells[None]).sum(axis=-1) == 1
    following = np.tile(np.arange(count)[:, None], count)
    for target in range(count):
        known, border = {target}, [target]
        for cell in border:  # which grows: the nearest cells come first
            for near in np.flatnonzero(beside[cell]).tolist():
                if near not in known:
                    following[near, target] = cell
                    known.add(near)
                    border.append(near)
    return following


def make(name: str, episode_length: int | None, settings: dict[str, Any]) -> MazeEnv:
    """A maze by its name. Raises RlxError for a setting that is none, or a task that is not 0 to 5."""
    maze, task = MAZES[name], settings.pop("task", 1)
    if settings:
        raise RlxError(f"maze:{name} has no setting {next(iter(settings))!r}; it has task, and episode_length")
    if isinstance(task, bool) or not isinstance(task, int) or not 0 <= task <= len(maze.tasks):
        raise RlxError(f"maze:{name}: task {task!r} must be 1 to {len(maze.tasks)}, or 0 for any start and goal")
    return MazeEnv(maze, task, maze.episode_length if episode_length is None else episode_length)
