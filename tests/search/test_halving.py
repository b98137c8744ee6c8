from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopeft.errors import InputError
from autopeft.search.halving import Rungs, plan_rungs, should_stop
from autopeft.space.candidate import Candidate, Training
from autopeft.workload.dataset import ACCURACY, HELD_OUT_LOSS

scores = st.floats(allow_nan=True, allow_infinity=False, width=32)
real_scores = st.floats(allow_nan=False, allow_infinity=False, width=32)
metrics = st.sampled_from([ACCURACY, HELD_OUT_LOSS])
reductions = st.integers(2, 6)


@given(st.integers(1, 10**7), reductions, st.floats(0.001, 1.0))
def test_rungs_ascend_to_the_whole_training(total: int, reduction: int, first_share: float) -> None:
    rungs = plan_rungs(total, reduction=reduction, first_share=first_share)
    assert list(rungs.samples) == sorted(set(rungs.samples))
    assert rungs.samples[0] > 0
    assert rungs.samples[-1] == total


def test_rungs_multiply_by_the_reduction() -> None:
    assert plan_rungs(9000, reduction=3, first_share=1 / 9).samples == (1000, 3000, 9000)


def test_what_is_left_lies_beyond_what_was_seen() -> None:
    rungs = Rungs(samples=(10, 30, 90))
    assert rungs.left(0) == (10, 30, 90)
    assert rungs.left(10) == (30, 90)
    assert rungs.left(11) == (30, 90)
    assert rungs.left(90) == ()


@pytest.mark.parametrize("samples", [(), (0, 5), (5, 5), (7, 3)])
def test_rungs_that_do_not_ascend_are_refused(samples: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="samples"):
        Rungs.build(samples=samples)


@given(real_scores, reductions, metrics)
def test_the_first_to_reach_a_rung_goes_on(score: float, reduction: int, metric) -> None:
    assert not should_stop(score, [], reduction, metric)


@given(st.lists(scores), reductions, metrics)
def test_the_best_so_far_always_goes_on(others: list[float], reduction: int, metric) -> None:
    real = [score for score in others if not math.isnan(score)] or [0.0]
    best = max(real) if metric.direction == "maximize" else min(real)
    assert not should_stop(best, others, reduction, metric)


@given(st.lists(scores), reductions, metrics)
def test_divergence_is_stopped(others: list[float], reduction: int, metric) -> None:
    assert should_stop(math.nan, others, reduction, metric)


@given(real_scores, real_scores, st.lists(scores), reductions, metrics)
def test_who_is_better_than_one_that_goes_on_goes_on(
    one: float, other: float, others: list[float], reduction: int, metric
) -> None:
    better, worse = (one, other) if metric.better(one, other) else (other, one)
    if not should_stop(worse, others, reduction, metric):
        assert not should_stop(better, others, reduction, metric)


@given(st.lists(real_scores, min_size=1, unique=True), reductions, metrics)
def test_of_all_at_a_rung_a_fair_share_would_go_on(table: list[float], reduction: int, metric) -> None:
    going_on = [
        score
        for index, score in enumerate(table)
        if not should_stop(score, table[:index] + table[index + 1 :], reduction, metric)
    ]
    assert len(going_on) == max(1, len(table) // reduction)


def test_a_shorter_training_ends_before_the_last_rung() -> None:
    rungs = plan_rungs(300, reduction=2, first_share=1 / 8, epochs=3.0)
    short, whole = (Candidate(method="lora", training=Training(epochs=epochs)) for epochs in (1, 3))
    assert (rungs.length(short), rungs.length(whole)) == (100, 300)
    assert plan_rungs(300).length(short) == 300
