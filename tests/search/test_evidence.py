"""Evaluations at different moments are put on one scale."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopeft.search.evidence import on_one_scale

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=30, unique=True)


@given(VALUES)
def test_the_order_at_a_moment_is_what_counts_there(values: list[float]) -> None:
    found = [each[0] for each in on_one_scale([[(0.5, value)] for value in values])]
    assert sorted(range(len(values)), key=values.__getitem__) == sorted(
        range(len(found)), key=found.__getitem__
    )
    assert statistics.fmean(found) == pytest.approx(0, abs=1e-9)


@given(VALUES, st.floats(0.001, 1000), st.floats(-1000, 1000))
def test_units_are_of_no_matter(values: list[float], scale: float, shift: float) -> None:
    plain = on_one_scale([[(0.5, value), (1.0, value)] for value in values])
    other = on_one_scale(
        [[(0.5, value), (1.0, round(scale * rank + shift, 6))] for value, rank in _ranked(values)]
    )
    for one, two in zip(plain, other, strict=True):
        assert one == pytest.approx(two)


def test_those_that_got_further_keep_what_they_had_on_average() -> None:
    curves = [[(0.25, float(at))] for at in range(10)]
    for curve, late in zip(curves[6:], (5.0, 7.0, 6.0, 8.0), strict=True):
        curve.append((0.5, late))
    found = on_one_scale(curves)
    before = [each[0] for each in found[6:]]
    after = [each[1] for each in found[6:]]
    assert statistics.fmean(after) == pytest.approx(statistics.fmean(before))
    assert max(after) == after[3]
    assert after[1] > after[2] > after[0]


def test_of_too_few_nothing_new_is_said() -> None:
    found = on_one_scale([[(0.5, 1.0), (1.0, 0.1)], [(0.5, 2.0), (1.0, 0.9)], [(0.5, 3.0)]])
    assert all(len(set(each)) == 1 for each in found)


def _ranked(values: list[float]) -> list[tuple[float, int]]:
    order = sorted(values)
    return [(value, order.index(value)) for value in values]
