from __future__ import annotations

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopeft.search.choosing import noise_variance, shrunk_means

SCORES = st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=4), min_size=1, max_size=8)


def test_without_repetitions_the_scores_stay_as_they_are() -> None:
    assert shrunk_means([[0.8], [0.7], [0.9]]) == [0.8, 0.7, 0.9]


def test_the_noise_is_what_repetitions_differ_by() -> None:
    assert noise_variance([[0.8], [0.7]]) is None
    assert noise_variance([[0.8, 0.9], [0.5, 0.5, 0.5]]) == pytest.approx(0.005 / 3)


def test_a_lucky_single_run_falls_behind_a_steady_leader() -> None:
    steady, lucky = [0.80, 0.81, 0.82], [0.812]
    others = [[0.70, 0.74], [0.77], [0.72]]
    expected = shrunk_means([steady, lucky, *others])
    assert expected[0] > expected[1]
    assert statistics.fmean(steady) < lucky[0]


def test_choosing_by_shrunk_means_beats_choosing_the_highest_score() -> None:
    rng, merit, luck = random.Random(0), 0.0, 0.0
    for _ in range(400):
        true = [rng.gauss(0, 1) for _ in range(10)]
        runs = [[value + rng.gauss(0, 1)] for value in true]
        for place in sorted(range(10), key=lambda each: -runs[each][0])[:3]:
            runs[place] += [true[place] + rng.gauss(0, 1) for _ in range(2)]
        expected = shrunk_means(runs)
        merit += true[max(range(10), key=expected.__getitem__)]
        luck += true[max(range(10), key=lambda each: max(runs[each]))]
    assert merit > luck


@given(SCORES)
def test_what_is_expected_lies_between_a_mean_and_the_mean_of_all(runs: list[list[float]]) -> None:
    means = [statistics.fmean(scores) for scores in runs]
    middle = statistics.fmean(means)
    for expected, mean in zip(shrunk_means(runs), means, strict=True):
        assert min(mean, middle) - 1e-9 <= expected <= max(mean, middle) + 1e-9
