"""The largest batch that fits, found with few estimates."""

from __future__ import annotations

from collections.abc import Generator

MOST_PROBES = 12
LARGEST = 2**16
"""Batches beyond this are not looked for."""

Search = Generator[int, int | None, int | None]
"""Yields batches to cost, is sent their bytes (None: cannot be told), returns the largest that fits."""


def largest_batch(batch: int, needed_bytes: int, limit_bytes: int) -> Search:
    """Search for the largest batch within a limit, from one that is known.

    Memory is nearly a straight line in the batch, so the line through two known points names the next
    guess; a guess that closes in slowly gives way to bisection. It ends where a batch fits and the
    next does not. With `MOST_PROBES` spent it returns the largest that was seen to fit.

    Args:
        batch: a batch that was costed.
        needed_bytes: what it needs, at the upper end of the band.
        limit_bytes: what there is.

    Returns:
        0 where not even one row fits; None where a batch could not be costed.
    """
    points = [(batch, needed_bytes)]
    for probe in range(MOST_PROBES):
        fitting = max((size for size, needed in points if needed <= limit_bytes), default=0)
        missing = min((size for size, needed in points if needed > limit_bytes), default=LARGEST + 1)
        if missing <= fitting + 1:
            return fitting
        size = _next(points, fitting, missing, limit_bytes, bisect=probe % 4 == 3)
        needed = yield size
        if needed is None:
            return None
        points.append((size, needed))
    return max((size for size, needed in points if needed <= limit_bytes), default=0)


def _next(points: list[tuple[int, int]], fitting: int, missing: int, limit: int, *, bisect: bool) -> int:
    """Name the batch to cost next, strictly between the two bounds."""
    unbounded = missing > LARGEST
    if len(points) == 1 or (bisect and unbounded):
        guess = 2 * fitting if fitting else missing // 2
    elif bisect:
        guess = (fitting + missing) // 2
    else:
        (one, low), (other, high) = sorted(points, key=lambda point: abs(point[1] - limit))[:2]
        slope = (high - low) / (other - one)
        guess = int(one + (limit - low) / slope) if slope > 0 else 2 * max(fitting, 1)
        if guess == fitting:
            guess += 1
    return min(max(guess, fitting + 1), missing - 1)
