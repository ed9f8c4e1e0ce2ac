"""What a run's returns are said to be worth."""

import math
from typing import Any

import numpy as np
import pytest

from rlx import config
from rlx.runs import summaries

ENV = "gymnax:Pendulum-v1"
RETURNS = [[-10.0, 30.0], [20.0, 40.0]]


def verdict(**known: Any) -> dict[str, Any]:
    return summaries.results(RETURNS, config.resolve("bc", ENV), {"env": ENV, "backend": None} | known)


def test_scores_between_the_references() -> None:
    result = verdict(random_return=-30.0, expert_return=70.0, behaviour_return=20.0)
    assert (result["eval_score_mean"], result["behaviour_score"]) == (50.0, 50.0)
    words = [line.split(" (")[0] for line in summaries.in_words(result)]
    assert words == ["return 20.0", "normalised score", "complete episodes of the data return 20.0"]


@pytest.mark.parametrize(("random", "expert"), [(20.0, 10.0), (20.0, 20.0), (20.0, math.nan)])
def test_references_that_are_no_measure(random: float, expert: float) -> None:
    """The score is left out, and why is said once; returns stay, and summary.json can be written."""
    result = verdict(random_return=random, expert_return=expert, behaviour_return=15.0)
    assert not [name for name in result if (name.endswith("_score") and name != "no_score") or "eval_score" in name]
    assert (result["eval_return_mean"], result["behaviour_return"]) == (20.0, 15.0)
    why = f"no normalised score: of the data set's references the expert's {expert:.1f} is not over random's 20.0"
    assert [line for line in summaries.in_words(result) if "score" in line] == [why]


@pytest.mark.parametrize(
    "known", [{}, {"random_return": 1.0}, {"random_return": 2.0, "expert_return": 1.0, "env": "x"}]
)
def test_without_references_there_is_nothing_to_say(known: dict[str, Any]) -> None:
    result = verdict(**known)
    assert "no_score" not in result and len(summaries.in_words(result)) == 1


def test_members_are_told_apart_by_seeds_where_labels_are_not_enough() -> None:
    def names(**settings: Any) -> list[str]:
        return config.member_names(config.members(config.resolve("sac", ENV, **settings)))

    assert names(num_seeds=2) == ["", ""] and names(tau=[0.1, 0.2]) == ["tau=0.1", "tau=0.2"]
    assert names(num_seeds=2, tau=[0.1, 0.2])[1:3] == ["tau=0.1 seed=1", "tau=0.2 seed=0"]


def test_a_combination_of_hyper_parameters_has_a_curve_of_its_own() -> None:
    """Seeds alone are one curve; many combinations are one, too, and are then called members, not seeds."""
    steps, returns = np.arange(3), np.arange(18.0).reshape(3, 6)

    def drawn(**settings: Any) -> list[tuple[str, list[float], str]]:
        made = summaries.curves(config.resolve("sac", ENV, **settings), steps, returns)
        return [(label, np.asarray(values)[0].tolist(), kind) for label, _, values, kind in made]

    assert drawn(num_seeds=6) == [("sac", [0, 1, 2, 3, 4, 5], "seed")]
    assert drawn(num_seeds=3, tau=[0.1, 0.2]) == [("tau=0.1", [0, 1, 2], "seed"), ("tau=0.2", [3, 4, 5], "seed")]
    returns = np.zeros((3, 9))
    assert drawn(tau=np.linspace(0.1, 0.9, 9).tolist()) == [("sac", [0.0] * 9, "member")]


DURATIONS = [(-1, "0.0 s"), (5.52, "5.5 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1:00 min")]
DURATIONS += [(187, "3:07 min"), (3599, "59:59 min"), (3599.6, "1:00 h"), (8100, "2:15 h")]


def test_durations_in_words() -> None:
    assert [summaries.duration(seconds) for seconds, _ in DURATIONS] == [text for _, text in DURATIONS]


def test_what_steps_count() -> None:
    kinds = [{}, {"offline_steps": 9, "total_env_steps": 0}, {"offline_steps": 9, "total_env_steps": 1}]
    names = [summaries.counted(kind) for kind in kinds]
    assert names[:2] == ["environment steps per seed", "updates offline"] and names[2].startswith(f"{names[1]}, then ")
