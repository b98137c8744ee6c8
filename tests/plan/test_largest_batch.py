"""The largest batch is found exactly where memory grows with the batch, with few probes."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from autopeft.plan.largest_batch import LARGEST, MOST_PROBES, largest_batch


def search(start: int, cost: Callable[[int], int | None], limit: int) -> tuple[int | None, int]:
    first = cost(start)
    assert first is not None
    steps, probes = largest_batch(start, first, limit), 0
    try:
        size = next(steps)
        while True:
            probes += 1
            size = steps.send(cost(size))
    except StopIteration as end:
        return end.value, probes


@given(
    weights=st.integers(0, 10**9),
    row=st.integers(1, 10**8),
    limit=st.integers(1, 10**10),
    start=st.integers(1, 5000),
)
def test_on_a_straight_line_it_takes_four_probes(weights: int, row: int, limit: int, start: int) -> None:
    found, probes = search(start, lambda batch: weights + row * batch, limit)
    assert found == max(0, min(LARGEST, (limit - weights) // row))
    assert probes <= 4


@given(
    row=st.integers(10**5, 10**8),
    bend=st.integers(0, 10**5),
    step=st.integers(0, 2 * 10**6),
    limit=st.integers(10**8, 10**11),
)
def test_steps_and_bends_do_not_fool_it(row: int, bend: int, step: int, limit: int) -> None:
    def cost(batch: int) -> int:
        return 10**8 + row * batch + bend * batch**2 + step * (batch // 7)

    found, probes = search(1, cost, limit)
    assert found is not None
    assert probes <= MOST_PROBES
    assert found == 0 or cost(found) <= limit
    assert probes == MOST_PROBES or found == LARGEST or cost(found + 1) > limit


def test_what_cannot_be_costed_has_no_largest_batch() -> None:
    assert search(1, lambda batch: 100 if batch == 1 else None, 10**6)[0] is None


def test_what_never_grows_ends_at_the_largest() -> None:
    found, probes = search(1, lambda batch: 100, 10**6)
    assert found is not None
    assert probes <= MOST_PROBES
