"""The Pareto front: what nothing else beats in everything at once."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence

Point = tuple[float, float, float]
"""(quality, higher is better; memory, lower; trainable parameters, lower)."""


def front(points: Sequence[Point]) -> list[bool]:
    """Say of each point whether no other is at least as good in all and better in one."""
    # Of the points so far, all at least as good in quality: memory ascending, trainable descending.
    stairs: list[tuple[float, float]] = []
    chosen: dict[Point, bool] = {}
    for point in sorted(set(points), key=lambda point: (-point[0], point[1], point[2])):
        _, memory, trainable = point
        below = bisect_right(stairs, (memory, float("inf")))
        chosen[point] = below == 0 or stairs[below - 1][1] > trainable
        if chosen[point]:
            stairs = [step for step in stairs if step[0] < memory or step[1] < trainable]
            insort(stairs, (memory, trainable))
    return [chosen[point] for point in points]
