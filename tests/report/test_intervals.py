from __future__ import annotations

import math
import random

import numpy as np
import pytest

from autopeft.report.intervals import (
    bootstrap_interval,
    mean_interval,
    paired_difference,
    separate_difference,
    wilson,
)


@pytest.mark.parametrize(("successes", "rows"), [(0, 5), (5, 5), (842, 1000), (1, 3), (499, 500)])
def test_wilson_agrees_with_scipy(successes: int, rows: int) -> None:
    from scipy.stats import binomtest

    expected = binomtest(successes, rows).proportion_ci(method="wilson")
    assert wilson(successes, rows) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_an_accuracy_of_all_or_none_lies_in_its_interval_however_many_rows_there_are() -> None:
    assert all(wilson(rows, rows)[1] == 1.0 for rows in range(1, 500))
    assert all(wilson(0, rows)[0] == 0.0 for rows in range(1, 500))


def test_no_rows_say_nothing_about_an_accuracy() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


def test_interval_of_a_mean_agrees_with_scipy() -> None:
    from scipy.stats import t

    values = [0.3, 0.9, 1.4, 0.2, 2.2]
    mean, spread = 1.0, math.sqrt(sum((value - 1.0) ** 2 for value in values) / 4)
    expected = t.interval(0.95, 4, loc=mean, scale=spread / math.sqrt(5))
    assert mean_interval(values) == pytest.approx(expected)


def test_one_value_bounds_no_mean() -> None:
    assert mean_interval([1.0]) == (-math.inf, math.inf)


def test_paired_difference_is_narrower_than_the_separate_one_where_both_err_alike() -> None:
    one = [True] * 84 + [False] * 16
    other = [True] * 80 + [False] * 20
    difference, low, high = paired_difference(one, other)
    separate = separate_difference((0.84, *wilson(84, 100)), (0.80, *wilson(80, 100)))
    assert difference == pytest.approx(0.04) == pytest.approx(separate[0])
    assert low <= difference <= high
    assert high - low < separate[2] - separate[1]


def test_paired_interval_holds_the_truth_about_95_times_in_100() -> None:
    dice, hits, tries = random.Random(0), 0, 2000
    for _ in range(tries):
        pairs = []
        for _ in range(60):
            draw = dice.random()
            pairs.append((True, False) if draw < 0.15 else (False, True) if draw < 0.2 else (True, True))
        _, low, high = paired_difference([one for one, _ in pairs], [other for _, other in pairs])
        hits += low <= 0.10 <= high
    assert 0.93 < hits / tries < 0.98


def test_a_contender_does_not_differ_from_itself() -> None:
    difference, low, high = paired_difference([True, False] * 50, [True, False] * 50)
    assert difference == 0
    assert low < 0 < high


def test_even_a_total_difference_lies_in_its_interval() -> None:
    difference, _, high = paired_difference([True] * 4, [False] * 4)
    assert difference == high == 1.0


def test_scores_of_different_rows_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="zip"):
        paired_difference([True], [True, False])


def test_a_bootstrap_interval_of_a_mean_is_nearly_student_s() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, size=400)
    low, high = bootstrap_interval(len(values), lambda rows: float(values[rows].mean()))
    expected = mean_interval(values.tolist())
    assert (low, high) == pytest.approx(expected, abs=0.03)
    assert bootstrap_interval(len(values), lambda rows: float(values[rows].mean())) == (low, high)


@pytest.mark.parametrize("odd", [math.inf, -math.inf, math.nan])
def test_an_interval_with_a_value_that_is_no_number_is_unbounded(odd: float) -> None:
    assert mean_interval([1.0, 2.0, odd]) == (-math.inf, math.inf)
