"""What a sweep tries: ranges to the last digit, grids, and draws that can be repeated."""

import numpy as np
import pytest

from rlx.sweeps.space import Range, grid, parse_range, sample
from tests.commands import one_line


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("1e-5:1e-3:log", Range(1e-5, 1e-3, True)),
        ("0.9:0.99", Range(0.9, 0.99, False)),
        ("-1:1", Range(-1, 1, False)),
        ("0.99999991:0.99999994", Range(0.99999991, 0.99999994, False)),
    ],
)
def test_ranges(text: str, result: Range) -> None:
    """To the last digit."""
    assert parse_range("--x", text) == result == parse_range("--x", str(result))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1:2:lin", "--x 1:2:lin: must be LOW:HIGH, or LOW:HIGH:log to sample uniformly in the logarithm"),
        ("1:2:3:log", "--x 1:2:3:log: must be LOW:HIGH, or "),
        ("a:2", "--x a: must be a finite number"),
        ("1:inf", "--x inf: must be a finite number"),
        ("2:1", "--x 2:1: must begin below its end"),
        ("0:1:log", "--x 0:1:log: must begin below its end and over 0"),
    ],
)
def test_ranges_that_cannot_be(text: str, message: str) -> None:
    with one_line(message):
        parse_range("--x", text)


def test_grid() -> None:
    result = [tuple(row.items()) for row in grid({"a": (1.0, 2.0), "b": (3.0, 4.0)})]
    assert result == [(("a", a), ("b", b)) for a in (1.0, 2.0) for b in (3.0, 4.0)]


def test_draws_are_repeatable() -> None:
    """More draws, another seed or another hyper-parameter beside: those before stay, the seed's are new."""
    wishes = {"critic_lr": Range(1e-5, 1e-1, True), "gamma": Range(0.9, 0.99, False), "tau": (0.1, 0.2, 0.3)}
    result = sample(wishes, 400, seed=7)
    assert sample(wishes, 5, seed=7) == result[:5] != sample(wishes, 5, seed=8)
    alone = sample({"gamma": wishes["gamma"]}, 400, seed=7)
    assert [row["gamma"] for row in alone] == [row["gamma"] for row in result]
    columns = {name: np.array([row[name] for row in result]) for name in wishes}
    rates, gamma, tau = columns.values()
    assert rates.min() >= 1e-5 and rates.max() <= 1e-1 and np.median(rates) == pytest.approx(1e-3, rel=0.5)
    assert gamma.min() >= 0.9 and gamma.max() <= 0.99 and gamma.mean() == pytest.approx(0.945, abs=0.005)
    assert sorted(set(tau)) == [0.1, 0.2, 0.3] and min((tau == x).mean() for x in (0.1, 0.2, 0.3)) > 0.25
    assert abs(np.corrcoef(np.log(rates), gamma)[0, 1]) < 0.15
    assert all(float(f"{x:g}") == x for x in (*rates, *gamma))  # so that they print as they are
