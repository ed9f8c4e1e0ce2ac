"""Extras, windows, records and acting state, through every driver: the agent of `tests.reader` checks what it gets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest

from rlx import agents, config, data, envs, experiment
from rlx.errors import RlxError
from tests import reader

SETTINGS: dict[str, Any] = {
    "num_envs": 4,
    "rollout_length": 2,
    "ratio": "2:1",
    "batch_size": 8,
    "replay_capacity": 64,
    "warmup_env_steps": 0,
    "total_env_steps": 240,
    "log_every": 80,
    "eval_every": 240,
    "eval_episodes": 2,
    "pool_size": 4,
}
OFFLINE = {"offline_steps": 16, "total_env_steps": 0, "log_every": 8, "eval_every": 16}
PIPELINED = {"driver": "pipelined"}
FULL = {"actor_fields": ("observation", "action", "reward", "discount", "next_observation")}
CASES: dict[str, dict[str, Any]] = {
    "fused n-step, recorded and carried": {"n_step": 3, "records": True, "carries": True},
    "pipelined n-step, recorded and carried": PIPELINED | FULL | {"n_step": 3, "records": True, "carries": True},
    "pipelined windows": PIPELINED | {"window": 4},
    "offline pipelined n-step": OFFLINE | PIPELINED | FULL | {"n_step": 3, "dataset": "costly"},
    "offline, then mixed": {"offline_steps": 8, "dataset": "costly", "n_step": 2},
}
SOURCES = {"offline pipelined n-step": {1.0}, "offline, then mixed": {1.0, 0.5}}  # means over minibatches


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., experiment.Setup]]:
    """Runs of the reader in the costly walk, set up."""
    folder = tmp_path_factory.mktemp("data")
    data.write(reader.dataset(), folder / "costly")

    def make(**changes: Any) -> experiment.Setup:
        settings = SETTINGS | changes
        if "dataset" in settings:
            settings["dataset"] = str(folder / settings["dataset"])
        return experiment.setup(config.resolve("reader", "walk", **settings))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(envs, "make", lambda name, backend: reader.Costly())
        patch.setitem(agents.REGISTRY, "reader", "tests.reader")
        yield make


def moments(setup: experiment.Setup) -> list[experiment.Moment]:
    driver = experiment.make_driver(setup, experiment.parts(setup.config)[0])
    return [
        m._replace(report=m.report._replace(state=jax.device_get(m.report.state)))
        for m in experiment.run(setup, driver)
    ]


@pytest.mark.parametrize("case", CASES)
def test_both_halves_get_what_they_read(case: str, make: Callable[..., experiment.Setup]) -> None:
    """Every extra agrees with the batch's fields, in every minibatch of every driver."""
    reports = [moment.report for moment in moments(make(**CASES[case]))]
    seen: dict[str, list[float]] = {}
    for report in reports:
        for name, value in report.metrics.items():
            if name.startswith(("critic_", "actor_")):
                seen.setdefault(name, []).append(float(value[0]))
    always = {"twice", "cost", "left", "goal", "mean", "source", "masked"}
    always |= {"thrice", "count"} if "recorded" in case else set()
    for half in ("critic", "actor"):
        arrives = {"arrived", "following"} if half == "critic" or CASES[case].get("actor_fields") else set()
        assert {name.removeprefix(f"{half}_") for name in seen if name.startswith(half)} == always | arrives
        for name in (always | arrives) - {"mean", "source", "masked"}:
            assert not any(seen[f"{half}_{name}"]), name
        assert all(seen[f"{half}_mean"])
        assert all(x < 1 if "windows" in case else x == 1 for x in seen[f"{half}_masked"])
    assert seen["critic_source"] == seen["actor_source"]
    assert set(seen["actor_source"]) == SOURCES.get(case, {0.0})


def test_evaluation_reports_sums_and_lasts(make: Callable[..., experiment.Setup]) -> None:
    """The cost is the reward, so its sum is the return; vectors are not summed."""
    evaluation = moments(make(total_env_steps=24, log_every=24))[-1].report.evaluation
    assert evaluation is not None
    np.testing.assert_allclose(evaluation.sums["cost"], evaluation.returns, rtol=1e-6)
    assert set(evaluation.sums) == set(evaluation.lasts) == {"cost"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"noise_max": 0.1}, "'twice', which a run in this"),
        ({"records": True, "dataset": "costly", **OFFLINE}, "'thrice', which the data set does not provide"),
        ({"carries": True, "dataset": "costly", **OFFLINE}, "'count', which the data set does not provide"),
        ({"actor_fields": ("observation", "colour")}, "actor half reads 'colour'"),
        ({"replay_capacity": 8, "window": 4}, "--replay-capacity 8"),
        ({"n_step": 2, "window": 4}, "--n-step 2"),
    ],
)
def test_what_nobody_provides_is_refused(
    changes: dict[str, Any], words: str, make: Callable[..., experiment.Setup]
) -> None:
    with pytest.raises(RlxError, match=words) as error:
        make(**changes)
    assert "\n" not in str(error.value)
