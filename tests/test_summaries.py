"""What a run's returns are said to be worth."""

import math
from typing import Any

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


DURATIONS = [(-1, "0.0 s"), (5.52, "5.5 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1:00 min")]
DURATIONS += [(187, "3:07 min"), (3599, "59:59 min"), (3599.6, "1:00 h"), (8100, "2:15 h")]


def test_durations_in_words() -> None:
    assert [summaries.duration(seconds) for seconds, _ in DURATIONS] == [text for _, text in DURATIONS]


def test_what_steps_count() -> None:
    kinds = [{}, {"offline_steps": 9, "total_env_steps": 0}, {"offline_steps": 9, "total_env_steps": 1}]
    names = [summaries.counted(kind) for kind in kinds]
    assert names[:2] == ["environment steps per seed", "updates offline"] and names[2].startswith(f"{names[1]}, then ")
