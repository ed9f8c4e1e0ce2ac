"""What a run needs: the estimate that users are given, held against compiled programs, and the refusal."""

import re
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from rlx import build, config, envs, parallel
from rlx.agents import sac
from rlx.errors import RlxError
from rlx.parallel import machine
from rlx.train import memory
from rlx.train.compile import Program
from rlx.train.fused import Fused
from rlx.train.memory import Estimate
from rlx.train.plan import make_plan
from rlx.train.task import Task
from tests.walk import Walk

MiB = 2**20
DEVICES: Any = ["first", "second", "third", "fourth"]  # estimates only count them
ONE_GROUP = [DEVICES[:1]] * 3


@cache
def large(num_envs: int) -> Fused:
    """A large run of SAC on ant, ready to be compiled."""
    sizes = {"num_envs": num_envs, "batch_size": 8192, "ratio": "8:8", "replay_capacity": 500_000}
    resolved = config.resolve("sac", "brax:ant", **sizes, total_env_steps=10**7)
    driver = build.make_driver(build.setup(resolved))
    assert isinstance(driver, Fused)
    return driver


def compiled(program: Program) -> dict[str, int]:
    """Bytes that the compiled program holds; its code is made in a hurry, which changes no buffer."""
    hurried = {"xla_backend_optimization_level": 0}
    used = program._function.lower(*program._argument_shapes()).compile(compiler_options=hurried).memory_analysis()
    return {
        "given": used.argument_size_in_bytes,
        "made": used.output_size_in_bytes - used.alias_size_in_bytes,
        "working": used.temp_size_in_bytes,
    }


@pytest.mark.slow
@pytest.mark.parametrize("num_envs", [4096, 16384])
def test_the_estimate_bounds_training(num_envs: int) -> None:
    """Thousands of Brax environments and large minibatches, compiled and not run; and it is no wild guess either."""
    driver = large(num_envs)
    estimate = memory.estimate(driver.task, driver.members, [driver.devices] * 3)
    used = compiled(driver.train)
    assert sum(used.values()) <= estimate.total <= 3 * sum(used.values())
    assert used["working"] <= estimate.environments + estimate.learning
    # the state is updated in place, replay and all
    assert used["made"] < MiB and used["given"] > estimate.replay
    assert estimate.replay == pytest.approx(memory.size(driver.shapes.replay), rel=1e-6)
    if num_envs == 4096:  # beginning and refreshing fit, too
        assert sum(compiled(driver.start).values()) <= estimate.total
        refreshing = compiled(driver.reset)
        assert memory.size(driver.shapes) + refreshing["made"] + refreshing["working"] <= estimate.total


def test_judging_fits_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many more episodes than there are environments, beside the state."""
    monkeypatch.setattr(envs, "make", lambda *arguments: Walk())
    resolved = config.resolve("sac", "walk", eval_episodes=4096, replay_capacity=5_000, num_envs=4)
    driver = build.make_driver(build.setup(resolved))
    assert isinstance(driver, Fused)
    estimate = memory.estimate(driver.task, driver.members, [driver.devices] * 3)
    judging = compiled(driver.evaluation)
    assert judging["working"] > estimate.replay
    assert memory.size(driver.shapes) + judging["made"] + judging["working"] <= estimate.total


def working(function: Any, *shapes: Any) -> int:
    return compiled(Program("part", jax.jit(function), *shapes))["working"]


def key_shapes(*shape: int) -> Any:
    return jax.eval_shape(lambda: jnp.broadcast_to(jax.random.key(0), shape))


@pytest.mark.slow
def test_working_memory_of_a_step() -> None:
    """Alone, as the estimate takes it from the traced step of one environment."""
    env, count = large(4096).task.env, 4096
    state, action, key = jax.eval_shape(env.reset, key_shapes()), env.spec.action, key_shapes()
    many = jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), (state, action, key))
    bound = count * memory.STEP_SHARE * memory.peak(env.step, state, action, key)
    assert bound / 3 < working(jax.vmap(env.step), *many) <= bound


def test_working_memory_of_an_update() -> None:
    task = small(batch_size=8192)
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), memory._batches(task, count=1))
    agent = jax.eval_shape(task.agent.init, key_shapes())
    inputs = agent.critic, jax.eval_shape(task.agent.acting_params, agent), batch, key_shapes()
    bound = memory.UPDATE_SHARE * memory.peak(task.agent.update_critic, *inputs)
    assert bound / 3 < working(task.agent.update_critic, *inputs) <= bound


def test_peak() -> None:
    """Values count from where they are made to where they are last used; what is inside loops and calls counts too."""
    x = jax.ShapeDtypeStruct((1000,), jnp.float32)
    assert memory.peak(lambda x: x + 1, x) == 4000
    assert memory.peak(lambda x: ((x + 1) * 2 - 3).sum(), x) == 8000
    assert memory.peak(lambda x: (x + 1).sum() + (x + 2).sum(), x) == 4008
    assert memory.peak(lambda x: (x + 1, x + 2, x + 3), x) == 12000
    assert memory.peak(jax.jit(lambda x: (x + 1, x + 2)), x) >= 8000
    loop = memory.peak(lambda x: jax.lax.fori_loop(0, 9, lambda i, y: y @ jnp.ones((1000, 1000)), x), x)
    assert 4_000_000 <= loop < 9_000_000
    assert memory.peak(lambda x: jax.lax.pmean(x, ("a", "b")), x, axes=("a", "b")) >= 4000


def small(**settings: Any) -> Task:
    """SAC on the walk, without a driver."""
    run_config, env = config.resolve("sac", "walk", **settings), Walk()
    plan = make_plan(run_config.train, shards=1)
    batch = envs.vectorise(env, plan.shard_envs, plan.shard_pool)
    return Task(sac.make(run_config.network, env.spec), env, batch, run_config.train, plan, axes=())


def test_what_the_estimate_grows_with() -> None:
    def estimate(members: int = 1, **settings: Any) -> Estimate:
        return memory.estimate(small(num_envs=64, **settings), members, ONE_GROUP)

    base = estimate()
    assert [round(many / one, 2) for many, one in zip(estimate(members=4), base, strict=True)] == [4, 4, 4]
    assert estimate(replay_capacity=2_000_000).replay == pytest.approx(2 * base.replay, rel=1e-3)
    narrow = estimate(replay_dtype="bfloat16")
    assert base.replay - narrow.replay == pytest.approx(1_000_000 * (2 + 1 + 2) * 2, rel=1e-3)
    assert estimate(batch_size=4096).learning > 4 * base.learning
    assert estimate(critic_hidden_sizes=(1024, 1024)).learning > 4 * base.learning
    assert estimate(eval_episodes=10_000).environments > 10 * base.environments


def test_a_split_shares_out_what_one_group_holds_alone() -> None:
    """With three groups the fullest counts; the value learners hold the replay and not the environments."""
    task, (a, b, c, d) = small(driver="pipelined", replay_capacity=4_000_000), DEVICES
    together, apart = (memory.estimate(task, 1, groups) for groups in (ONE_GROUP, [[a], [b], [c]]))
    assert apart.environments == 0 < together.environments
    rows = memory.size(task.env.spec.observation)  # what SAC's actor half reads
    assert together.replay - apart.replay == pytest.approx(4_000_000 * rows, rel=1e-3)
    halved = memory.estimate(task, 1, [[a], [b, c], [d]])
    assert halved.replay == pytest.approx(apart.replay / 2, rel=1e-3)
    data: Any = (jax.ShapeDtypeStruct((250,), jnp.float32),)
    for groups, estimate in ((ONE_GROUP, together), ([[a], [b], [c]], apart)):
        assert memory.estimate(task, 1, groups, data).replay == estimate.replay + 1000


def test_free_memory() -> None:
    """A device that keeps count says so itself; CPU devices share what the machine has."""
    counted: Any = SimpleNamespace(process_index=0, memory_stats=lambda: {"bytes_limit": 100, "bytes_in_use": 30})
    assert parallel.memory_bytes([counted]) == 70
    silent: Any = SimpleNamespace(process_index=0, memory_stats=lambda: None, platform="cpu")
    room = parallel.memory_bytes([silent])
    assert room is None or MiB < room < 2**50
    silent.platform = "gpu"  # under XLA_PYTHON_CLIENT_ALLOCATOR=platform: what the machine has is not what it has
    assert parallel.memory_bytes([silent]) is None


LIMITS = {  # a container's part of /, by the version of control groups, and what is free of it
    "none": ({"proc/self/cgroup": "0::/", "cgroup/memory.max": "max", "cgroup/memory.current": "9"}, 4096),
    "v2": (
        {"proc/self/cgroup": "0::/outer/inner", "cgroup/outer/memory.stat": "anon 7\ninactive_file 100"}
        | {"cgroup/outer/memory.max": "3000", "cgroup/outer/memory.current": "2500"}
        | {"cgroup/outer/inner/memory.max": "1000", "cgroup/outer/inner/memory.current": "300"},
        600,
    ),
    "v1, its path only the host's": (
        {"proc/self/cgroup": "9:name=systemd:/\n4:cpu,memory:/docker/abc"}
        | {"cgroup/memory/memory.limit_in_bytes": "1000", "cgroup/memory/memory.usage_in_bytes": "900"}
        | {"cgroup/memory/memory.stat": "total_inactive_file 50"},
        150,
    ),
    "over the limit": ({"proc/self/cgroup": "0::/", "cgroup/memory.max": "10", "cgroup/memory.current": "20"}, 0),
}


@pytest.mark.parametrize("case", LIMITS)
def test_free_memory_is_what_machine_and_container_allow(case: str, tmp_path: Path) -> None:
    assert machine.free_memory(tmp_path) is None and machine.process_memory(tmp_path) is None  # without Linux
    files, free = LIMITS[case]
    for name, text in (files | {"proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 4 kB\n"}).items():
        path = tmp_path / ("sys/fs" if name.startswith("cgroup") else "") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert machine.free_memory(tmp_path) == free


def test_as_many_members_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """In whole units, with a fifth of the memory to spare; one unit at least, and all where nobody tells."""
    task = small()
    of_six = memory.estimate(task, 6, ONE_GROUP).total / 0.8
    for room, most in ((of_six + 9, 6), (of_six - 9, 4), (1e15, 10), (1, 2), (None, 10)):
        monkeypatch.setattr(parallel, "memory_bytes", lambda devices, room=room: room)
        assert memory.most_members(task, 2, 10, ONE_GROUP) == most


@pytest.mark.parametrize(
    ("setting", "flag"),
    [
        ({"replay_capacity": 10**8}, "--replay-capacity"),
        ({"num_envs": 10**6, "replay_capacity": 10**6}, "--num-envs"),
        ({"batch_size": 10**6}, "--batch-size"),
    ],
)
def test_a_run_that_cannot_fit_is_refused(setting: dict[str, int], flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the numbers, part by part, and the flag that asks for most."""
    monkeypatch.setattr(parallel, "memory_bytes", lambda devices: 100 * MiB)
    with pytest.raises(RlxError) as error:
        memory.check(small(**setting, total_env_steps=10**9), 1, ONE_GROUP)
    parts = "replay N, environments N, learning N"
    message = f"{flag}: the run needs N GiB a device ({parts}) but 0.1 GiB are free; lower it"
    assert re.fullmatch(re.escape(message).replace("N", r"\d+\.\d"), str(error.value))
