"""Mazes: walls hold, the shortest way is the shortest, only the goal pays; and data sets of their controllers."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx
from rlx import data, envs
from rlx.commands import main as cli
from rlx.envs.maze_env import MAZES, RADIUS, REACHED, SPEED, SPREAD, next_cells
from rlx.runs.behaviours import EXPLORING, Behaviour, Exploration
from rlx.runs.collector import RANDOM
from rlx.runs.collectors import EnvCollector
from rlx.types import EnvState, Step
from tests.commands import Refused, one_line

pytestmark = pytest.mark.usefixtures("reuse_programs")

COUNT = 64


def plan_of(name: str) -> np.ndarray:
    """Whether there is a wall, `[H, W]`, with y upwards."""
    return np.array([[cell == "#" for cell in row] for row in MAZES[name].plan.split()[::-1]])


def in_wall(walls: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Whether a corner of the point is in a wall, `[...]`, of positions `[..., 2]`."""
    middle = (np.array(walls.shape[::-1]) - 1) / 2
    corners = [np.round(position + middle + (RADIUS - 2e-3) * np.array(s)) for s in np.ndindex(2, 2)]
    corners += [np.round(position + middle - (RADIUS - 2e-3) * np.array(s)) for s in np.ndindex(2, 2)]
    return np.any([walls[c[..., 1].astype(int), c[..., 0].astype(int)] for c in corners], axis=0)


def played(env: Any, kind: str, steps: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Observations `[T, N, 4]`, rewards `[T, N]` and ends `[T, N]` of a controller, or of random actions; the steps
    after an end go on where it was."""
    controller = env.controllers.get(kind)

    def step(loop: tuple[EnvState, Any], key: Any) -> tuple[tuple[EnvState, Any], Step]:
        state, carry = loop
        action = jax.random.uniform(key, (2,), minval=-3.0, maxval=3.0)
        if controller is not None:
            action, carry = controller.act(state.observation, key, carry)
        state, shown = env.step(state, action, key)
        return (state, carry), shown

    def run(key: Any) -> Step:
        carry = jax.tree.map(jnp.asarray, controller.carry()) if controller else ()
        return jax.lax.scan(step, (env.reset(key), carry), jax.random.split(key, steps))[1]

    shown = jax.jit(jax.vmap(run, out_axes=1))(jax.random.split(jax.random.key(seed), COUNT))
    return np.asarray(shown.observation), np.asarray(shown.reward), np.asarray(shown.terminated)


@pytest.mark.parametrize("name", MAZES)
def test_plans_are_closed_and_connected(name: str) -> None:
    walls = plan_of(name)
    assert walls[[0, -1]].all() and walls[:, [0, -1]].all()
    cells = np.argwhere(~walls)
    reach = next_cells(cells)
    for start in range(len(cells)):  # every cell is left towards every other
        assert (reach[start] != start).sum() == len(cells) - 1
    assert len(MAZES[name].tasks) == 5
    for ends in MAZES[name].tasks:
        assert all(not walls[len(walls) - 1 - row, column] for row, column in ends) and ends[0] != ends[1]


def test_next_cells_are_on_shortest_ways() -> None:
    """Lengths by Floyd and Warshall's algorithm."""
    cells = np.argwhere(~plan_of("large"))
    beside = np.abs(cells[:, None] - cells[None]).sum(axis=-1)
    length = np.where(beside <= 1, beside, 10**6)
    for middle in range(len(cells)):
        length = np.minimum(length, length[:, middle, None] + length[middle])
    step = next_cells(cells)
    for start, target in np.ndindex(length.shape):
        if start != target:
            assert length[step[start, target], target] == length[start, target] - 1
            assert beside[start, step[start, target]] == 1
    assert (np.diagonal(step) == np.arange(len(cells))).all()


@pytest.mark.parametrize("name", ["umaze", pytest.param("medium", marks=pytest.mark.slow), "large"])
def test_walls_hold_and_only_the_goal_pays(name: str) -> None:
    """Under actions far outside [-1, 1], which are clipped: no corner of the point is ever in a wall, and no step is
    longer than `SPEED` on an axis."""
    env = envs.make(f"maze:{name}", task=0)
    envs.check(env)
    observation, reward, terminated = played(env, "random", 300)
    walls = plan_of(name)
    assert not in_wall(walls, observation[..., :2]).any()
    moves = np.abs(np.diff(observation[..., :2], axis=0))
    assert moves.max() <= SPEED + 1e-5 and (moves > 0.9 * SPEED).any() and (moves < 1e-6).any()
    near = np.linalg.norm(observation[..., :2] - observation[..., 2:], axis=-1) < REACHED
    np.testing.assert_array_equal(reward, near)
    np.testing.assert_array_equal(terminated, near)
    assert near.any()


@pytest.mark.parametrize("name", MAZES)
def test_the_expert_reaches_every_goal_in_time(name: str) -> None:
    """Of tasks 1 to 5, begun where they should, and of any two cells."""
    walls, limit = plan_of(name), MAZES[name].episode_length
    middle = (np.array(walls.shape[::-1]) - 1) / 2
    for task in range(6):
        env = envs.make(f"maze:{name}", task=task)
        assert env.spec.episode_length == limit
        observation, reward, _ = played(env, "expert", limit // 2)
        assert reward.max(axis=0).min() == 1
        assert not in_wall(walls, observation[..., :2]).any()
        if task:
            (row, column), goal = MAZES[name].tasks[task - 1]
            first = np.asarray(jax.vmap(env.reset)(jax.random.split(jax.random.key(0), COUNT)).observation)
            start = np.array([column, len(walls) - 1 - row]) - middle
            assert np.abs(first[:, :2] - start).max() <= SPREAD
            np.testing.assert_allclose(first[:, 2:], [np.array([goal[1], len(walls) - 1 - goal[0]]) - middle] * COUNT)


def test_random_actions_do_not_find_a_far_goal_and_wandering_covers_the_maze() -> None:
    env = envs.make("maze:medium")
    assert played(env, "random", 300)[1].max() == 0
    observation, reward, _ = played(env, "navigate", 300)
    assert 0.2 < reward.max(axis=0).mean() < 0.95
    middle = (np.array(plan_of("medium").shape[::-1]) - 1) / 2
    cells = {tuple(cell) for cell in np.round(observation[..., :2] + middle).astype(int).reshape(-1, 2)}
    assert len(cells) == (~plan_of("medium")).sum()


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("maze:medum", {}, "no environment 'maze:medum'; the nearest is 'maze:medium'"),
        ("maze:medium", {"task": 6}, "maze:medium: task 6 must be 1 to 5, or 0 for any start and goal"),
        ("maze:medium", {"task": "1"}, "maze:medium: task '1' must be 1 to 5"),
        ("maze:medium", {"tasks": 1}, "maze:medium has no setting 'tasks'; it has task, and episode_length"),
    ],
)
def test_bad_requests(name: str, settings: dict[str, Any], message: str) -> None:
    with one_line(message):
        envs.make(name, **settings)


def test_it_can_be_watched() -> None:
    env: Any = envs.make("maze:umaze")
    scene = env.scene()
    assert sum(geom["shape"] == "box" for geom in scene["geoms"]) == plan_of("umaze").sum()
    state = env.reset(jax.random.key(0))
    pose = np.asarray(env.pose(state))
    assert pose.shape == (2, 7) and (pose[:, 3] == 1).all()
    np.testing.assert_array_equal(pose[:, :2].ravel(), state.observation)


def collected(out: Path, *words: Any) -> data.Dataset:
    assert cli.main([str(word) for word in ("collect", *words, "--out", out)]) == 0
    return data.read(out)


def test_data_of_controllers(tmp_path: Path) -> None:
    """One command makes a data set without a run; an agent learns from it, and the scores have their references."""
    dataset = collected(
        tmp_path / "set-v0", "maze:umaze", "--kind", "navigate=0.9,expert=0.1", "--num-transitions", 3000
    )
    info, rows = dataset.info, dataset.rows
    assert dataset.size == 3000 and info["env"] == "maze:umaze" and "log_prob" not in rows.extras
    assert [(b["name"], b["share"]) for b in info["behaviours"]] == [("navigate", 0.9), ("expert", 0.1)]
    assert info["expert_return"] == 1 and info["random_return"] < 0.5
    assert info["behaviour_return"] == pytest.approx(0.9 * info["behaviours"][0]["return"] + 0.1)
    np.testing.assert_array_equal(rows.reward > 0, rows.terminated)
    assert rows.reward[:2700].sum() > 3 and rows.reward[2700:].sum() > 3
    moved = rows.next_observation[:, :2] - rows.observation[:, :2]
    np.testing.assert_array_less(np.abs(moved), SPEED * np.abs(rows.action) + 1e-5)  # walls cut some
    assert np.isclose(moved, SPEED * rows.action, atol=1e-5).mean() > 0.7
    again = collected(tmp_path / "again-v0", "maze:umaze", "--kind", "navigate", "--num-transitions", 300, "--seed", 1)
    assert (again.rows.action[:100] != rows.action[:100]).mean() > 0.5
    settings: dict[str, Any] = {"actor_hidden_sizes": (16,), "eval_episodes": 4, "batch_size": 32}
    result = rlx.fit("bc", dataset=str(tmp_path / "set-v0"), offline_steps=20, **settings)
    assert np.isfinite(result.evaluate().returns).all()


def test_returns_are_measured_once_for_each_way_of_acting() -> None:
    """Neither random actions nor controllers have a greedy way of their own."""
    noisy, still = Exploration(noise=0.5), Exploration(greedy=True)
    collector = EnvCollector("maze:umaze", 20, 0, noisy)
    for behaviour in (RANDOM, Behaviour("expert", None)):
        for exploration in (noisy, still, EXPLORING):
            collector.returns(behaviour, exploration)
    ways = [(behaviour.name, exploration) for behaviour, exploration in collector._returns]
    assert ways == [("random", EXPLORING), ("expert", noisy), ("expert", EXPLORING)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("maze:umaze --kind navigat", "--kind navigat: unknown; did you mean navigate?"),
        ("maze:umaze --kind navigate=0.999,expert=0.001 --num-transitions 9", "of 9 transitions expert has none"),
        ("maze:umaze --kind mixed", "--kind mixed: unknown; choose from random, navigate, expert"),
        ("gymnax:Pendulum-v1", "--kind expert: unknown; choose from random"),
        ("maze:umaz --kind random", "no environment 'maze:umaz'; the nearest is 'maze:umaze'"),
        ("maze:umaze --kind navigate --step 3", "--env, --step and --kind replay say nothing; leave them out"),
        ("maze:umaze --kind replay", "--env, --step and --kind replay say nothing; leave them out"),
        (
            "none:3x1 --kind random --num-transitions 9",
            "none:3x1: stands for no environment, so there is nothing to collect; name one",
        ),
        ("maze:umaze --kind random --noise 0.1", "--greedy, --noise: say how policies act"),
        ("maze:umaze --kind navigate --greedy --num-transitions 9", "--greedy: is of policies, and maze:umaze has"),
        ("maze:umaze --kind navigate --noise -1", "--noise -1: must be at least 0"),
        ("maze:umaze --kind navigate --env-args task=9", "task 9 must be 1 to 5"),
    ],
)
def test_collecting_without_a_run_that_cannot_be(words: str, message: str, tmp_path: Path, refused: Refused) -> None:
    assert message in refused("collect", *words.split(), "--out", tmp_path / "set")
    assert not (tmp_path / "set").exists()
