"""Score against cost: the front, its hypervolume, and which of the leaders to take. Pure.

A cost is a prediction of the cost model, so it is known without a trial, and exactly so for sizes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from autopeft.cost.estimate import Objective
from autopeft.plan.budget import Preference
from autopeft.workload.dataset import Metric


class Point(NamedTuple):
    """A trial by its number: what it scored, and what it costs."""

    number: int
    score: float
    cost: float


class Leader(NamedTuple):
    """A trial with the 95 % interval of its score; `costs` by objective, None where unknown."""

    number: int
    score: float
    low: float
    high: float
    costs: dict[Objective, float | None]


def front(points: Iterable[Point], metric: Metric) -> tuple[Point, ...]:
    """Return the points that no other beats or equals at no higher cost, by rising cost.

    Of equal ones the lowest number stays; a score that is no number is never on the front.
    """
    sign = _sign(metric)
    found: list[Point] = []
    known = (point for point in points if math.isfinite(point.score) and math.isfinite(point.cost))
    for point in sorted(known, key=lambda point: (point.cost, -sign * point.score, point.number)):
        if not found or sign * point.score > sign * found[-1].score:
            found.append(point)
    return tuple(found)


def hypervolume(points: Iterable[Point], metric: Metric, *, score: float, cost: float) -> float:
    """Return the area between the front and a reference point, in units of score times units of cost.

    Args:
        score, cost: of the reference, which is worse than all that counts: points that are not better than it
            in both add nothing. Compare fronts with one reference alone, and take logarithms of costs that
            span orders of magnitude before.
    """
    sign = _sign(metric)
    inside = [point for point in points if sign * (point.score - score) > 0 and point.cost < cost]
    area, reached = 0.0, score
    for point in front(inside, metric):
        area += sign * (point.score - reached) * (cost - point.cost)
        reached = point.score
    return area


def choose(leaders: Sequence[Leader], prefer: Preference, metric: Metric) -> Leader | None:
    """Return the winner: the best score, or the smallest or fastest of those within noise of the best.

    A leader whose cost is not known is no winner by cost, unless none's is known. Ties go to fewer
    trained parameters, then to the lower number. None where nobody has a score.
    """
    scored = [leader for leader in leaders if math.isfinite(leader.score)]
    if not scored:
        return None
    sign = _sign(metric)

    def size(leader: Leader) -> tuple[float, int]:
        return _known(leader.costs.get("params")), leader.number

    best = min(scored, key=lambda leader: (-sign * leader.score, *size(leader)))
    if prefer == "quality":
        return best
    wanted: Objective = "params" if prefer == "small" else "seconds"
    equals = [leader for leader in scored if leader is best or within_noise(best, leader, metric)]
    return min(
        equals,
        key=lambda leader: (_known(leader.costs.get(wanted)), -sign * leader.score, *size(leader)),
    )


def within_noise(best: Leader, other: Leader, metric: Metric) -> bool:
    """Say whether the best's lead may be none: whether the interval of the difference holds 0.

    Newcombe 1998, method 10, from both intervals as if they were independent: wider than a paired comparison
    on the same rows, so that it errs towards calling two equal.
    """
    if metric.direction == "maximize":
        lead = best.score - other.score
        slack = math.hypot(best.score - best.low, other.high - other.score)
    else:
        lead = other.score - best.score
        slack = math.hypot(best.high - best.score, other.score - other.low)
    return lead <= slack


def _sign(metric: Metric) -> int:
    return 1 if metric.direction == "maximize" else -1


def _known(cost: float | None) -> float:
    return math.inf if cost is None else cost
