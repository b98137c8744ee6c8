from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_training import ACCURACY, estimate_of

from autopeft.search.front import Leader, Point, choose, front, hypervolume, within_noise
from autopeft.search.study import Study, Trial
from autopeft.space.candidate import Candidate
from autopeft.train.result import Report, TrialResult
from autopeft.workload.dataset import Metric

LOSS = Metric(name="loss", direction="minimize")
FINITE = st.floats(0, 1, width=32)
POINTS = st.lists(st.tuples(FINITE, FINITE), max_size=12).map(
    lambda pairs: [Point(number, *pair) for number, pair in enumerate(pairs)]
)


@given(POINTS)
def test_no_point_of_the_front_is_beaten_and_every_other_is(points: list[Point]) -> None:
    chosen = front(points, ACCURACY)
    assert [point.cost for point in chosen] == sorted(point.cost for point in chosen)
    for point in points:
        beaten = any(
            other != point and other.score >= point.score and other.cost <= point.cost for other in points
        )
        assert point in chosen or beaten
        strictly = any(
            other.score >= point.score and other.cost <= point.cost and other[1:] != point[1:]
            for other in points
        )
        assert not (point in chosen and strictly)


@given(POINTS)
def test_the_front_of_a_loss_is_the_mirrored_front(points: list[Point]) -> None:
    mirrored = [point._replace(score=-point.score) for point in points]
    assert [point.number for point in front(points, ACCURACY)] == [
        point.number for point in front(mirrored, LOSS)
    ]


def test_a_score_that_is_no_number_is_not_on_the_front() -> None:
    assert front([Point(0, float("nan"), 1.0), Point(1, 0.5, 2.0)], ACCURACY) == (Point(1, 0.5, 2.0),)


def test_hypervolume_is_the_area_that_points_dominate() -> None:
    points = [Point(0, 0.6, 1.0), Point(1, 0.8, 3.0), Point(2, 0.7, 3.5), Point(3, 0.4, 0.5)]
    # Counted by hand against (0.5, 4): 0.1 above the reference from cost 1 to 4, 0.2 more from 3 to 4.
    assert hypervolume(points, ACCURACY, score=0.5, cost=4.0) == pytest.approx(0.1 * 3 + 0.2 * 1)
    losses = [point._replace(score=1 - point.score) for point in points]
    assert hypervolume(losses, LOSS, score=0.5, cost=4.0) == pytest.approx(0.5)
    assert hypervolume([], ACCURACY, score=0.5, cost=4.0) == 0


def test_hypervolume_agrees_with_counting_cells_at_random() -> None:
    dice = random.Random(0)
    points = [Point(number, dice.random(), dice.random()) for number in range(20)]
    drawn = [(dice.random(), dice.random()) for _ in range(20_000)]
    share = sum(any(p.score >= score and p.cost <= cost for p in points) for score, cost in drawn) / 20_000
    assert hypervolume(points, ACCURACY, score=0.0, cost=1.0) == pytest.approx(share, abs=0.02)


def leader(number: int, score: float, half: float, params: float | None, seconds: float | None) -> Leader:
    return Leader(number, score, score - half, score + half, {"params": params, "seconds": seconds})


BEST = leader(0, 0.90, 0.02, 9e6, 300.0)
SMALL = leader(1, 0.89, 0.02, 1e5, 200.0)
FAST = leader(2, 0.88, 0.02, 5e5, 100.0)
TINY = leader(3, 0.80, 0.02, 1e3, 10.0)


@pytest.mark.parametrize(("prefer", "winner"), [("quality", BEST), ("small", SMALL), ("fast", FAST)])
def test_the_winner_is_the_best_or_the_cheapest_within_noise_of_it(prefer, winner: Leader) -> None:
    for order in itertools.permutations([BEST, SMALL, FAST, TINY]):
        assert choose(order, prefer, ACCURACY) == winner


def test_where_noise_is_small_the_best_wins_whatever_is_preferred() -> None:
    sharp = [each._replace(low=each.score - 0.001, high=each.score + 0.001) for each in (BEST, SMALL, FAST)]
    assert {choose(sharp, prefer, ACCURACY).number for prefer in ("quality", "small", "fast")} == {0}


def test_unknown_costs_and_scores_never_win_over_known_ones() -> None:
    unknown = leader(4, 0.9, 0.02, None, None)
    assert choose([unknown, SMALL], "small", ACCURACY) == SMALL
    assert choose([unknown], "fast", ACCURACY) == unknown
    assert choose([leader(5, float("nan"), 0.1, 1.0, 1.0)], "quality", ACCURACY) is None
    assert choose([BEST, BEST._replace(number=7, costs={"params": 1e3})], "quality", ACCURACY).number == 7


def test_noise_of_a_loss_counts_the_other_way_round() -> None:
    best, other = leader(0, 0.30, 0.02, 1, 1), leader(1, 0.32, 0.02, 1, 1)
    assert within_noise(best, other, LOSS)
    assert not within_noise(best, other._replace(score=0.4, low=0.38, high=0.42), LOSS)
    lopsided = Leader(1, 0.33, 0.329, 0.50, {})
    assert not within_noise(best._replace(high=0.301), lopsided, LOSS)


def test_a_study_has_a_front_for_each_cost() -> None:
    def trial(number: int, rank: int, score: float, state="complete") -> Trial:
        report = Report(samples=1, step=1, loss=1, score=score, seconds=1, step_seconds=1, peak_bytes=1)
        candidate = Candidate(method="lora", rank=rank)
        result = TrialResult(state=state, reports=(report,))
        return Trial(
            number=number, role="candidate", candidate=candidate, state=state,
            predicted=estimate_of(candidate), result=result,
        )  # fmt: skip

    trials = (trial(0, 8, 0.9), trial(1, 2, 0.7), trial(2, 4, 0.6), trial(3, 1, 0.95, "stopped"))
    study = Study(name="s", folder="f", metric=ACCURACY, seed=0, trials=trials)
    assert [each.number for each in study.front("share")] == [1, 0]
    assert [each.number for each in study.front("memory")] == [1, 0]
    assert study.front("seconds") == ()
