"""The benchmarks' own arithmetic: bounds counted by hand, turns taken, tables, and every case of rlx's run once."""

import inspect
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from benchmarks import bounds, cases, comparisons, learn, learn_page, learn_settings, overestimation, run, tables
from benchmarks.turns import OutOfTime, Side, spread, take_turns
from rlx import agents, config
from rlx.types import Spec
from tests.pages import ROOT

WORKER = f"""
import sys, time
sys.path.insert(0, {str(ROOT / "benchmarks")!r})
from worker import serve
print("a library's chatter")
turns = []
def run(units):
    turns.append(units)
    end = time.process_time() + units * SECONDS
    while time.process_time() < end:
        pass
    if len(turns) == LAST:
        sys.exit("out of memory, say")
serve(run, 1.5)
"""


def side(name: str, seconds: Any = 0.001, before: str = "", last: int = 0) -> Side:
    """A side whose unit takes some seconds, and that dies in its turn `last`."""
    text = before + WORKER.replace("SECONDS", str(seconds)).replace("LAST", str(last))
    return Side(name, [sys.executable, "-c", text])


BROKEN = Side("broken", [sys.executable, "-c", "import nothing_of_that_name"])


def test_turns_compare_like_with_like() -> None:
    """One unit takes 2 ms here and 4 ms there."""
    found = take_turns([side("fast", 0.002), side("slow", 0.004)], seconds=0.05, repeats=3)
    assert list(found) == ["fast", "slow"]
    assert found["fast"]["ratio"] == (1, 1, 1) and found["fast"]["compile_s"] == 1.5
    assert found["slow"]["ratio"].median == pytest.approx(0.5, rel=0.15)
    assert found["slow"]["rate"].median == pytest.approx(250, rel=0.15)


def test_a_side_that_fails_is_named_with_its_error() -> None:
    """And leaves the others their turns."""
    found = take_turns([side("fine"), BROKEN], seconds=0.01, repeats=1)
    assert "nothing_of_that_name" in found["broken"]["failed"] and "rate" in found["fine"]
    found = take_turns([side("later", "units()")], seconds=0.01, repeats=1)
    assert "not callable" in found["later"]["failed"]
    after = take_turns([side("fine"), side("dies", last=4)], seconds=0.01, repeats=2)
    assert "out of memory, say" in after["dies"]["failed"] and after["fine"]["ratio"] == (1, 1, 1)
    before = take_turns([side("dies", last=4), side("fine")], seconds=0.01, repeats=2)
    assert "rate" in before["fine"] and "ratio" not in before["fine"]


def test_sides_start_in_parallel() -> None:
    """Each is ready after 1.5 s: together, hardly later than one."""
    slow = [side(name, before="import time; time.sleep(1.5)\n") for name in ("a", "b", "c")]
    begun = time.monotonic()
    found = take_turns(slow, seconds=0.01, repeats=1, abreast=3)
    assert all("rate" in side for side in found.values()) and time.monotonic() - begun < 4.0


def test_running_out_of_time_is_not_a_failure() -> None:
    """A silent side is ended at the deadline."""
    silent = Side("silent", [sys.executable, "-c", "import time; time.sleep(60)"])
    begun = time.monotonic()
    with pytest.raises(OutOfTime):
        take_turns([side("fine"), silent], seconds=0.01, repeats=1, deadline=begun + 2)
    with pytest.raises(OutOfTime):
        run.weigh([silent], repeats=1, deadline=begun + 3)
    with pytest.raises(OutOfTime):
        learn.race([silent], [1.0], limit_s=60, deadline=time.monotonic() + 30)
    assert time.monotonic() - begun < 15


def test_spread_and_products_by_hand() -> None:
    """Layers 3 -> 5 -> 2 for 7 rows: 7*3*5 = 105 and 7*5*2 = 70 forward; back to weights the same, to inputs too."""
    assert spread([3.0, 1.0, 2.0, 10.0]) == (2.5, 1.0, 10.0)
    assert bounds.products([bounds.Pass((3, 5, 2))], 7) == 175
    assert bounds.products([bounds.Pass((3, 5, 2), to_weights=True)], 7) == 175 + 175 + 70
    assert bounds.products([bounds.Pass((3, 5, 2), to_inputs=True)], 7) == 175 + 70 + 105
    assert bounds.products([bounds.Pass((3, 5, 2), copies=4)], 7) == 4 * 175
    assert bounds.products([bounds.Pass((3, 5, 2), to_weights=True, rows=2, gradients=3)], 7) == 2 * (175 + 3 * 245)
    # two steps of a chain, 2 -> 5 -> 2: only the first layer of the first step has no gradient to its inputs
    assert bounds.products([bounds.Pass((2, 5, 2), to_weights=True, steps=2)], 7) == 4 * 70 + 4 * 70 + 3 * 70
    # SAC: actor 2 -> 4 -> 2 (mean and deviation of one action), two critics 3 -> 4 -> 1
    config = SimpleNamespace(actor_hidden_sizes=(4,), critic_hidden_sizes=(4,), num_critics=2)
    found = bounds.passes("sac", config, bounds.Sizes(2, 1))
    actor, critic = 2 * 4 + 4 * 2, 2 * (3 * 4 + 4 * 1)
    forward = 2 * actor + 3 * critic  # at s' and s; of targets, of the critics at the data's and at the actor's action
    critic_gradient, actor_gradient = critic + 2 * 4 * 1, actor + 4 * 2
    through_critics = 2 * (3 * 4 + 4 * 1)
    assert bounds.products(found, 1) == forward + critic_gradient + actor_gradient + through_critics


OBSERVATION, ACTION = (jax.ShapeDtypeStruct((size,), jnp.float32) for size in bounds.Sizes())
SPEC = Spec(OBSERVATION, ACTION, 1000)


def counted(jaxpr: Any, times: int = 1) -> int:
    """Multiplications of all products in a traced function, loops of known length included."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (summed, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += times * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[i] for i in summed)
        inner = times * equation.params.get("length", 1)
        total += sum(counted(part, inner) for part in jaxprs_in_params(equation.params))
    return total


UPDATES = {  # products that agents' functions make, over those that their equations ask for; 1 unless it says why
    "crossq": 4 / 3,  # batch norm ties the two halves of its minibatch, so gradients go through both
    "dsac_t": 1.13,  # the critics' deviations are those of their loss, which XLA makes once
    "mdpo": 1.18,  # the policy's gradient goes back twice, from the values and from the divergence
    "awac": 1.12,  # both halves ask the same of the actor, which XLA makes once,
    "iql": 1.13,  # and of the target critics, here and in the next three,
    "dual_rl": 1.13,
    "cfgrl": 1.13,
    "riql": 1.18,
    "odice": 1.14,  # and three terms of the value network
    "cql": 1.31,  # on a CPU the critics' values are computed again for their gradient
    "edp": 1.04,  # all critics climbed, of which one counts
    "idql": 0.94,  # times are embedded once each, not once a row, here and in the next two
    "srpo": 0.97,
    "cdsa": 0.97,
}


@pytest.mark.parametrize("name", bounds.CHAINS)
def test_chains_have_the_products_of_their_agents(name: str) -> None:
    network = config.resolve(name, "none").network
    agent = agents.load(name).make(network, SPEC)
    key = jax.random.key(0)
    shapes = jax.eval_shape(lambda: (agent.init(key), cases.make_batch(SPEC, (256,), agent), key))
    made = counted(jax.make_jaxpr(lambda *rest: agent.update(*rest)[0])(*shapes).jaxpr)
    wanted = bounds.passes(name, network)
    assert made / bounds.products(wanted, 256) == pytest.approx(UPDATES.get(name, 1), abs=0.011)
    chain, arguments = bounds.make_chain([p._replace(copies=1) for p in wanted], 256)
    alone = counted(jax.make_jaxpr(chain)(*arguments).jaxpr)  # of one network of each ensemble
    assert alone == bounds.products([p._replace(copies=1) for p in wanted], 256)


@pytest.mark.parametrize("name", ["iql", "awac", "odice"])
def test_xla_makes_once_what_both_halves_ask(name: str) -> None:
    """Operations of the compiled update, of which two are a multiplication and an addition of a product."""
    config = agents.load(name).Config()
    agent, key = agents.load(name).make(config, SPEC), jax.random.key(0)
    shapes = jax.eval_shape(lambda: (agent.init(key), cases.make_batch(SPEC, (256,)), key))
    cost: Any = jax.jit(lambda *rest: agent.update(*rest)[0]).lower(*shapes).compile().cost_analysis()
    assert 1 < cost["flops"] / (2 * bounds.products(bounds.passes(name, config), 256)) < 1.05


def small(case: str, *flags: str) -> list[dict[str, float]]:
    """What a case of rlx's answers, asked for two units and then for one."""
    command = [sys.executable, str(ROOT / "benchmarks" / "cases.py"), case, "--batch", "8", *flags]
    done = subprocess.run(command, input="2\n1\n", capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_comparisons_without_time_are_listed_in_one_line(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    """And the same command goes on: what is kept is not made again."""

    def comparison(name: str, needs_s: float) -> comparisons.Comparison:
        return comparisons.Comparison(name, "updates", (side("rlx"),), needs_s)

    made = [comparison("first", 1), comparison("long", 900), comparison("last", 1)]
    monkeypatch.setitem(run.GROUPS, "own", lambda: made)
    command = ["run.py", "own", "--budget", "60", "--repeats", "1", "--seconds", "0.01", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    run.main()
    assert "No time was left: long. The same command goes on from there.\n" in capsys.readouterr().out
    made[1] = comparison("long", 1)
    run.main()
    said = capsys.readouterr().out
    assert "long ..." in said and "first ..." not in said and "No time" not in said


TINY = ("--set", "actor_hidden_sizes=8,8", "critic_hidden_sizes=8,8")
PENDULUM = ("--env", "gymnax:Pendulum-v1", "--num-envs", "8")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "flags"),
    [
        ("update", TINY),
        ("update", ("--scan", "4", *TINY)),
        ("chain", TINY),
        ("act", TINY),
        ("bare", PENDULUM),
        ("fused", (*PENDULUM, *TINY)),
        ("offline", ("--agent", "bc", "--capacity", "100", "--set", "actor_hidden_sizes=8,8")),
        ("ring", ("--num-envs", "8", "--capacity", "64")),
        ("copies", ("--num-envs", "8", "--capacity", "64")),
        ("rows", ("--num-envs", "8", "--capacity", "64")),
    ],
)
def test_cases_answer(case: str, flags: tuple[str, ...]) -> None:
    ready, two, one = small(case, *flags)
    assert ready["ready"] and ready["compile_s"] >= 0
    assert (two["units"], one["units"]) == (2, 1) and two["wall_s"] > 0


@pytest.mark.slow
def test_on_policy_training_answers_in_whole_blocks() -> None:
    tiny = ("epochs=1", "rollout_length=4", "total_env_steps=64", *TINY[1:])
    _, two, one = small("blocks", "--agent", "ppo", *PENDULUM[:2], "--set", "num_envs=8", "batch_size=16", *tiny)
    assert two["units"] == one["units"] == 8 * 4


def test_sides_of_an_on_policy_comparison_do_the_same_work() -> None:
    """As many environments, transitions in a block and in a minibatch, and passes, for rlx's preset and the peer."""
    for task in ("ant", "halfcheetah"):
        rlx_side, brax_side = comparisons.on_policy(task).sides
        words = list(rlx_side.command)
        sets = dict(pair.split("=") for pair in words[words.index("--set") + 1 :])
        ours, theirs = config.resolve("ppo", f"brax:{task}", **sets).train, json.loads(brax_side.command[-1])
        unrolls, length = theirs["batch_size"], theirs["unroll_length"]
        assert ours.num_envs == theirs["num_envs"] and ours.batch_size == unrolls * length
        assert ours.rollout_length * ours.num_envs == unrolls * length * theirs["num_minibatches"]
        assert ours.epochs == theirs["num_updates_per_batch"]


@pytest.mark.slow
def test_start_and_memory_answer() -> None:
    """When the first epoch is over; and Pendulum's bytes: 3 + 1 + 1 + 3 numbers of four bytes, and two flags."""
    assert small("start", *PENDULUM, "--steps", "2", *TINY) == [{"first_epoch": True}]
    (said,) = small("memory", *PENDULUM, "--capacity", "4096")
    assert said["stored_bytes"] == 34 and said["capacity"] == 4096
    assert 2**26 < said["peak_bytes"] < 2**34


WEIGHED = """
import json, sys
capacity = int(sys.argv[-1])
print(json.dumps({"peak_bytes": 5000 + 33 * capacity, "capacity": capacity, "stored_bytes": 30}))
"""


def test_bytes_of_a_transition_are_the_slope_of_two_peaks() -> None:
    found = run.weigh([Side("ring", [sys.executable, "-c", WEIGHED])], repeats=2, capacities=(10, 30))
    assert found == {"ring": {"stored": 30, "taken": (33, 33, 33), "ratio": (1.1, 1.1, 1.1)}}
    counted = WEIGHED.replace('"stored_bytes"', '"estimated_bytes": 8985, "stored_bytes"')
    found = run.weigh([Side("ring", [sys.executable, "-c", counted])], repeats=1, capacities=(10, 30))
    assert found["ring"]["estimate"] == 8985 / 5990
    assert "nothing_of_that_name" in run.weigh([BROKEN], repeats=1)["broken"]["failed"]


@pytest.mark.parametrize("group", run.GROUPS)
def test_comparisons_have_unique_names_and_existing_files(group: str) -> None:
    comparisons = run.GROUPS[group]()
    names = [comparison.name for comparison in comparisons]
    assert len(set(names)) == len(names)
    for comparison in comparisons:
        assert comparison.sides and len({s.name for s in comparison.sides}) == len(comparison.sides)
        assert all(Path(s.command[1]).exists() for s in comparison.sides)


def test_results_are_saved_and_written_as_a_page(tmp_path: Path) -> None:
    results = tables.Results(tmp_path, "own")
    sides = {
        "rlx": {"rate": spread([250.0, 260.0, 240.0]), "ratio": spread([1.0, 1.0, 1.0]), "compile_s": 2.0},
        "chain": {"rate": spread([1300.0]), "ratio": spread([1.25])},
        "gone": {"failed": "no module"},
    }
    results.keep("update sac", "updates", sides, 3.0)
    results.keep("start", "seconds", {"rlx": {"cold": spread([20.0]), "warm": spread([5.0])}}, 3.0)
    weighed = {"rlx": {"stored": 106, "taken": spread([105.0]), "ratio": spread([0.99]), "estimate": 1.2}}
    results.keep("memory", "bytes", weighed, 3.0)
    page = tables.Results(tmp_path, "own").write().read_text()
    assert "| rlx | 250 (240 to 260) | 1 (1 to 1) | 2.0 s |" in page
    assert "| chain | 1,300 (1,300 to 1,300) | 1.25 (1.25 to 1.25) | 0.0 s |" in page
    assert "| gone | failed: no module |" in page and "| rlx | 20 (20 to 20) s | 5 (5 to 5) s |" in page
    assert "| rlx | 106 | 105 (105 to 105) | 0.99 (0.99 to 0.99) | 1.20 |" in page
    assert "jax 0." in page and "cores" in page


def test_race_reports_every_goal() -> None:
    """A side that says 10, 20, 30 is stopped at the last goal; one that says nothing has failed."""
    text = "import json, time\nfor i in range(1, 9): print(json.dumps({'env_steps': i, 'value': 10 * i}), flush=True)"
    sides = [Side("says", [sys.executable, "-c", text]), Side("mute", [sys.executable, "-c", "pass"])]
    found = learn.race(sides, (15.0, 30.0, 1e6), 30.0, time.monotonic() + 90)
    steps = [point and point["env_steps"] for point in found["says"]["goals"].values()]
    assert steps == [2, 3, None] and len(found["says"]["curve"]) == 8 and "said nothing" in found["mute"]["failed"]
    assert len(learn.curve_of(sides[0].command, 30.0, goal=30.0)) == 3
    first, last = ({"wall_s": s, "env_steps": n, "value": r} for s, n, r in ((9.6, 70_000, 1100.0), (20, 90_000, 900)))
    run_there = {"goals": {"1000": first, "2000": None}, "curve": [first, last]}
    made = MADE | {"versions": {"jax": "0.9"}}
    page = tables.one("learn ant", {"unit": "return", "sides": {"rlx": run_there}, "made": made})
    assert "|  | to 1000 | to 2000 |" in page
    assert "| rlx | 10 s, 70,000 steps | not; 1,100 after 10 s, 70,000 steps |" in page


MADE = {"date": "2026-01-02", "processor": "2 cores, quick", "hardware": {"kind": "cpu"}}


def test_a_run_has_its_time_of_one_core() -> None:
    text = "import json, os, time\ndef now(): return round(time.process_time(), 1)\n"
    text += "cores = len(os.sched_getaffinity(0))\nfor i in range(1, 99):\n"
    text += "    print(json.dumps({'value': cores, 'cpu_s': now()}), flush=True)\n    while now() < i / 4: pass"
    core = min(os.sched_getaffinity(0))
    curve = learn.curve_of(learn.on_one_core([sys.executable, "-c", text], core, 1.0), None)
    assert 0.5 <= curve[-1]["cpu_s"] <= 1.0 and {point["value"] for point in curve} == {1}


def test_page_and_table_of_learning(tmp_path: Path) -> None:
    """Final returns, when the goal was reached and in how many runs; origin and settings once; a picture a task."""

    def one(side: str, seed: int, *points: tuple[float, int, float]) -> dict[str, Any]:
        curve = [{"cpu_s": s, "env_steps": steps, "value": value} for s, steps, value in points]
        made = MADE | {"versions": {"jax": "0.9", "commit": "0123456789abcdef"}}
        settings = {"learning_rate": 1e-3}
        return {"side": side, "task": "ant", "seed": seed, "minutes": 5} | {
            "curve": curve,
            "settings": settings,
            "made": made,
        }

    start = (40.0, 90_000, 1100.4)
    runs = [one("rlx", 0, start, (60.0, 100_000, 2100.0)), one("rlx", 1, start, (80.0, 200_000, 2300.0))]
    runs += [one("rlx", 2, (50.0, 90_000, 1000.0)), one("brax-sac", 0)]
    rows = learn_page.table(runs).splitlines()[2:]
    assert rows[0].startswith(
        "| ant | rlx | 3 | 1,800 (1,000 to 2,300) | 100,000 (90,000 to 200,000) | 2,000 | 2 of 3 |"
    )
    assert rows[0].endswith("| 70 (60 to 80) | 150,000 (100,000 to 200,000) |")
    assert "| ant | brax-sac | 1 | no evaluation in time |" in rows[1]
    (drawn,) = learn_page.series(runs, "cpu_s", points=2)
    np.testing.assert_array_equal(drawn.x, [50, 50])  # where all three seeds have been evaluated
    np.testing.assert_allclose(np.asarray(drawn.returns)[0], [1100.4, 1100.4, 1000])
    (drawn,) = learn_page.series(runs[:2], "cpu_s", points=2)
    np.testing.assert_allclose(drawn.returns, [[1100.4, 1100.4], [2100, 1100.4]])  # an evaluation counts at once
    page = learn_page.write(runs, tmp_path).read_text()
    assert page.count("2026-01-02, 2 cores, quick, jax 0.9, commit 0123456789ab.") == 1
    assert page.count("- rlx: `{") == 1 and "- rlx, seed 1: 1100 at 90,000 (40 s), 2300 at 200,000 (80 s)" in page
    assert {path.name for path in tmp_path.glob("*.png")} == {"learn-ant-seconds.png", "learn-ant-steps.png"}


def test_soft_returns_equal_a_loop() -> None:
    """The entropy of the first step does not count in its value, and nothing counts after an end."""
    rng = np.random.default_rng(0)
    reward, log_prob, ends = rng.normal(size=(6, 2)), rng.normal(size=(6, 2)), rng.random((6, 2)) < 0.3
    expected = np.zeros((6, 2))
    for t, n in np.ndindex(6, 2):
        for later in range(t, 6):
            entropy = -0.5 * log_prob[later, n] if later > t else 0.0
            expected[t, n] += 0.9 ** (later - t) * (reward[later, n] + entropy)
            if ends[later, n]:
                break
    actual = overestimation.soft_returns(jnp.asarray(reward), jnp.asarray(log_prob), jnp.asarray(ends), 0.9, 0.5)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_every_task_has_settings_for_every_side() -> None:
    """Brax's sides for its own tasks; their settings are arguments of Brax's own `train` functions."""
    from brax.training.agents.ppo import train as ppo
    from brax.training.agents.sac import train as sac

    for task, (env, *_) in learn_settings.TASKS.items():
        peers = ("brax-sac", "brax-ppo") if env.startswith("brax:") else ()
        for side in ("rlx", "rlx-tqc", "rlx-pql", *peers):
            assert learn.command(side, task, 3)[-1] == json.dumps(learn_settings.SETTINGS[side, task])
        for side, train in zip(peers, (sac.train, ppo.train), strict=bool(peers)):
            known = {*inspect.signature(train).parameters, "hidden_layer_sizes", "backend"}
            assert learn_settings.SETTINGS[side, task].keys() <= known
