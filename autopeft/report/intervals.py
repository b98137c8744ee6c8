"""Intervals: how far a score on a few rows may lie from the truth. All are 95 % intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

_DRAWS = 1000
Z = statistics.NormalDist().inv_cdf(0.975)


def wilson(successes: int, rows: int) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion (Wilson 1927).

    It stays inside 0..1 and is honest where the proportion is near either end; no rows say nothing.
    """
    if rows == 0:
        return 0.0, 1.0
    share = successes / rows
    centre = (share + Z**2 / (2 * rows)) / (1 + Z**2 / rows)
    half = Z / (1 + Z**2 / rows) * math.sqrt(share * (1 - share) / rows + Z**2 / (4 * rows**2))
    # At either end the interval ends there too, but for what rounding makes of it.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == rows else min(1.0, centre + half)
    return low, high


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return Student's t interval of a mean, for example of losses over rows.

    Unbounded below two values, and where one of them is no number.
    """
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return -math.inf, math.inf
    from scipy.special import stdtrit

    mean = math.fsum(values) / len(values)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    half = float(stdtrit(len(values) - 1, 0.975)) * spread / math.sqrt(len(values))
    return mean - half, mean + half


def bootstrap_interval(rows: int, score: Callable[[NDArray[np.int64]], float]) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a score of many rows (Efron 1979), of 1,000 draws.

    Args:
        rows: how many rows there are.
        score: the score of rows, given by their places, some of them several times.
    """
    dice = np.random.default_rng(0)
    found = [score(dice.integers(rows, size=rows)) for _ in range(_DRAWS)]
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)


def paired_difference(
    one_correct: Sequence[bool], other_correct: Sequence[bool]
) -> tuple[float, float, float]:
    """Return the difference of two accuracies on the same rows, with its interval.

    Only rows that the two answer differently count, so it is much narrower than the difference of
    two separate intervals. Wald's interval on the counts with one added to either discordant cell
    (Bonett and Price 2012), which keeps its level for few rows too.
    """
    rows = len(one_correct)
    pairs = list(zip(one_correct, other_correct, strict=True))
    if not pairs:
        return 0.0, -1.0, 1.0
    only_one = sum(bool(one) and not other for one, other in pairs)
    only_other = sum(bool(other) and not one for one, other in pairs)
    here, there = (only_one + 1) / (rows + 2), (only_other + 1) / (rows + 2)
    half = Z * math.sqrt((here + there - (here - there) ** 2) / (rows + 2))
    difference = (only_one - only_other) / rows
    low, high = max(-1.0, here - there - half), min(1.0, here - there + half)
    # The adjusted centre is drawn towards 0, so where all rows differ the interval may miss the difference.
    return difference, min(low, difference), max(high, difference)


def separate_difference(
    one: tuple[float, float, float], other: tuple[float, float, float]
) -> tuple[float, float, float]:
    """Return the difference of two (score, low, high) whose rows cannot be paired (Newcombe 1998, method 10).

    Wider than `paired_difference` where both scored the same rows, so it never claims too much.
    """
    (score, low, high), (score_, low_, high_) = one, other
    difference = score - score_
    below = math.hypot(score - low, high_ - score_)
    above = math.hypot(high - score, score_ - low_)
    return difference, difference - below, difference + above
