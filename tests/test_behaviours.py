"""Whether the policies that collect a data set are what its kind promises."""

import numpy as np
import pytest

from rlx.runs.behaviours import Behaviour, counts, mismatch, shares
from tests.commands import one_line

STEADY = np.tile([-1.0, 1.0], 32)  # 64 returns whose mean has a standard error of 1/8
LAST = 90 + STEADY


@pytest.mark.parametrize(
    ("name", "returns", "words"),
    [  # random actions get 0 and the last policy 90, so that a third of the way is 30
        ("medium", 30 + STEADY, None),
        ("medium", 15.1 + STEADY, None),
        ("medium", 14.9 + STEADY, "the medium policy, of step 400, returns 14.9 as it explores, 17% of the way from"),
        ("medium", 59.9 + STEADY, None),
        ("medium", 60.1 + STEADY, "67% of the way from random actions' 0.0 to the last policy's 90.0; choose another"),
        ("medium", -9 + STEADY, "-10% of the way"),
        ("medium", 30 + 125 * STEADY, "33% of the way"),  # 30 is not two standard errors, 2 * 15.7, above 0
        ("medium", 30 + 100 * STEADY, None),
        ("expert", 45.1 + STEADY, None),
        ("expert", 44.9 + STEADY, "the expert policy, of step 400, returns 44.9 as it explores, 50% of the way"),
        ("expert", 120 + STEADY, None),
        ("random", STEADY, None),
    ],
)
def test_who_is_not_what_the_kind_promises(name: str, returns: np.ndarray, words: str | None) -> None:
    """Nearer to either end than to its own place, or not clearly above random actions."""
    note = mismatch(Behaviour(name, 400), returns, STEADY, LAST)
    assert note is None if words is None else note is not None and words in note


@pytest.mark.parametrize(("last", "fine"), [(0.37, True), (0.34, False), (-50, False)])
def test_without_a_better_policy_there_are_no_kinds(last: float, fine: bool) -> None:
    """Two standard errors of the difference are 0.356: of either mean 1 / sqrt(63)."""
    note = mismatch(Behaviour("medium", 400), last / 3 + STEADY, STEADY, last + STEADY)
    words = f"the run's last policy returns {last:.1f} and random actions 0.0, so there is no medium policy"
    assert note is not None and (words in note) == (not fine)


RUN = ("random", "medium", "expert")


def test_shares_of_behaviours() -> None:
    assert shares("expert", RUN) == {"expert": 1.0}
    assert shares("mixed", RUN) == {"medium": 0.5, "expert": 0.5}
    assert list(shares("random=0.95,expert=0.05", RUN).items()) == [("random", 0.95), ("expert", 0.05)]
    assert shares("navigate=1", ("random", "navigate")) == {"navigate": 1.0}
    assert counts([0.5, 0.5], 501) == [251, 250] and counts([0.95, 0.05], 20_000) == [19_000, 1_000]
    assert counts([0.1] * 10, 7) == [1, 1, 1, 0, 1, 1, 0, 1, 1, 0] and counts([1.0], 3) == [3]
    assert sum(counts([1 / 3, 1 / 3, 1 / 3], 100)) == 100


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("exprt", "--kind exprt: unknown; did you mean expert?"),
        ("replya", "did you mean replay?"),
        ("random=0.9,exprt=0.1", "exprt: unknown; did you mean expert?"),
        ("random=0.9,expert=0.2", "--kind random=0.9,expert=0.2: the shares add up to 1.1; make that 1"),
        ("random=0.9,expert=x", "give each behaviour a share once"),
        ("random=nan,expert=0.1", "give each behaviour a share once"),
        ("random=0.5,random=0.5", "give each behaviour a share once"),
        ("random=1.5,expert=-0.5", "give each behaviour a share once"),
        ("random=0.5,expert", "give each behaviour a share once"),
        ("mixed=1", "mixed: unknown"),
    ],
)
def test_shares_that_cannot_be(kind: str, words: str) -> None:
    with one_line(words):
        shares(kind, RUN)


def test_mixed_needs_both_of_its_behaviours() -> None:
    with one_line("--kind mixed: unknown; choose from random, navigate"):
        shares("mixed", ("random", "navigate"))
