"""The Pareto front holds exactly what nothing else beats."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from autopeft.plan.pareto import Point, front


def beats(one: Point, other: Point) -> bool:
    better = one[0] >= other[0] and one[1] <= other[1] and one[2] <= other[2]
    return better and one != other


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), max_size=25))
def test_a_point_is_on_the_front_where_no_other_beats_it(points: list[Point]) -> None:
    assert front(points) == [not any(beats(other, point) for other in points) for point in points]
