"""`make bench-gpu` without a GPU: its parts cover every case, their commands parse, and a rehearsal is not a result."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import cases, gpu, run, tables
from benchmarks.turns import Side, spread
from rlx import config
from rlx.train.plan import make_plan
from tests.pages import ROOT


def parsed(side: Side) -> Any:
    """What a side's script reads from its command."""
    script, *words = side.command[1:]
    if script.endswith("learn.py"):
        return SimpleNamespace(case="learn", **dict(zip(("agent", "env", "seed", "settings"), words[1:], strict=True)))
    if script.endswith("brax_cases.py"):
        from benchmarks.peers import brax_cases

        return brax_cases.parse(words)
    return cases.parse(words)


def test_parts_cover_every_case_at_the_sizes_of_a_gpu() -> None:
    """Every case at a GPU's sizes, Brax beside rlx, and PQL beside PPO, all in this environment."""
    sides = [(c.name.split()[0], parsed(side), side) for c in gpu.comparisons() for side in c.sides]
    assert all(side.command[0] == sys.executable for _, _, side in sides)

    def sizes(case: str, name: str, script: str = "/cases.py", **wanted: Any) -> set[Any]:
        result = [given for _, given, side in sides if given.case == case and side.command[1].endswith(script)]
        return {getattr(g, name) for g in result if all(getattr(g, key) == value for key, value in wanted.items())}

    for batch in (256, 8192):
        assert sizes("update", "agent", batch=batch) == sizes("chain", "agent", batch=batch) == {*gpu.AGENTS, "tqc"}
    assert sizes("update", "batch", "brax_cases.py") == {256, 8192}
    assert sizes("update", "scan", "brax_cases.py") == sizes("update", "scan", agent="sac") == {0, gpu.SCAN}
    trained = sizes("fused", "num_envs", env="brax:ant", agent="sac")
    assert trained == sizes("bare", "num_envs") == {128, 1024, 4096, 16384}
    assert sizes("fused", "num_envs", "brax_cases.py") == {128, 1024, 4096}
    assert sizes("fused", "seeds", env="brax:inverted_pendulum") == {1, 8, 32}
    assert sizes("fused", "batch", agent="pql") == {8192}
    assert sizes("ring", "capacity") == {2**20, 2**22} and sizes("copies", "capacity") == {2**20}
    for case in ("memory", "offline", "act", "rows"):
        assert sizes(case, "batch")
    raced = {(s.name, given.env.removeprefix("brax:")) for part, given, s in sides if part == "learn"}
    assert {env for side, env in raced if side.startswith("rlx-pql")} == {"ant", "humanoid"}
    assert {env for side, env in raced if side == "brax-ppo"} == {"ant", "humanoid"}


def test_every_part_fits_its_budget() -> None:
    """Nothing needs more than a part's budget of 500 seconds, and what must be known first comes first."""
    assert all(comparison.needs_s <= 500 for comparison in gpu.comparisons())
    assert sum(comparison.needs_s for comparison in gpu.races()) <= 500
    assert next(iter(gpu.PARTS)) == "targets" and gpu.comparisons()[0].name == "learner sac, batch 256"
    makefile = (ROOT / "Makefile").read_text()
    assert f"PART := {' '.join(gpu.PARTS)}\n" in makefile and "--budget 500" in makefile


@pytest.mark.parametrize("small", [False, True])
def test_races_can_be_planned(small: bool) -> None:
    """A race is no place to find that sizes do not divide: rlx's plan is made, and Brax's one condition holds."""
    for comparison in gpu.races():
        for side in (gpu.rehearsed(comparison) if small else comparison).sides:
            given, settings = parsed(side), json.loads(side.command[-1])
            if side.name.startswith("rlx"):
                plan = make_plan(config.resolve(given.agent, f"brax:{given.env}", **settings).train, shards=1)
                assert plan.steps(plan.eval_iterations, 0)[0] * 2 <= plan.steps(plan.iterations, 0)[0]
            else:
                assert settings["batch_size"] * settings["num_minibatches"] % settings["num_envs"] == 0
                assert given.case == "learn-ppo"


@pytest.mark.slow
def test_switches_are_known_to_jax() -> None:
    """XLA ends a process for a flag that it does not know, and jax does for a precision."""
    set_by_sides = [side.environment for comparison in gpu.switches() for side in comparison.sides]
    text = "import jax; x = jax.numpy.ones((4, 4)); print(jax.jit(lambda x: x @ x)(x).sum())"
    for name in ("XLA_FLAGS", "JAX_DEFAULT_MATMUL_PRECISION"):
        values = {given[name] for given in set_by_sides if name in given}
        assert len(values) > 1
        for value in [" ".join(sorted(values))] if name == "XLA_FLAGS" else values:
            environment = {**os.environ, name: value, "JAX_PLATFORMS": "cpu"}
            done = subprocess.run([sys.executable, "-c", text], env=environment, capture_output=True, text=True)
            assert done.stdout.strip() == "64.0", done.stderr[-500:]


def test_a_rehearsal_is_the_same_but_smaller() -> None:
    """No side is left out, none keeps a large size, and each command still parses."""
    for comparison in gpu.comparisons():
        small = gpu.rehearsed(comparison)
        assert [s.name for s in small.sides] == [s.name for s in comparison.sides]
        for large, little in zip(comparison.sides, small.sides, strict=True):
            before, after = parsed(large), parsed(little)
            assert before.case == after.case and large.command[:3] == little.command[:3]
            for flag, most in {"--num-envs": 64, "--batch": 128, "--seeds": 4, "--scan": 4, "--capacity": 1024}.items():
                assert flag not in little.command or int(little.command[list(little.command).index(flag) + 1]) <= most
            if comparison.goals:
                fewer, more = (json.loads(side.command[-1]).get("num_envs", 99) for side in (little, large))
                assert fewer == 16 < more


def test_a_rehearsal_is_not_a_result(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", "gpu", "--rehearse", "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        run.main()
    assert "--rehearse writes no results" in capsys.readouterr().err
    results = tables.Results(tmp_path, "rehearsal")
    results.keep("learner", "updates", {"rlx": {"failed": "no memory"}, "brax": {"rate": spread([1.0])}}, 1.0)
    assert results.failures() == ["learner: rlx: no memory"]
    assert results.write().read_text().startswith("# A rehearsal: nothing here is a result\n")
