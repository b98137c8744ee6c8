"""Evidence: what evaluations at different moments of different trainings say, on one scale.

A score that counts (the accuracy of a few hundred rows) moves late and in steps: after an eighth of a
training most classifiers still answer one class. Their log loss tells them apart by then. So an evaluation
before the end speaks by its log loss, and the last one by its score.

The scale is the order among the trainings at the first evaluation. Those that got further were chosen; their
later evaluations are put so that mean and spread are what the same trainings had at the evaluation before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LOSS = "log_loss"
"""What classifiers report beside their score."""
_NEAR = 1.25
"""Shares of which the greater is at most so many times the other are one moment."""
_FEWEST = 3
"""Of fewer trainings at a moment nothing is said but that they are what they were."""


def tell(share: float, score: float, extra: Mapping[str, float]) -> float:
    """Return what an evaluation says after a share of the training; more is better.

    Args:
        score: turned so that more is better.   extra: further metrics by name.
    """
    return score if share == 1 or LOSS not in extra else -extra[LOSS]


def on_one_scale(curves: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, ...]]:
    """Turn evaluations into values that can be compared across moments.

    Args:
        curves: of each training (share of the training in (0, 1], what it says; more is better), ascending.

    Returns:
        one value for each evaluation, of mean 0 and variance 1 among the first ones.
    """
    found: list[dict[float, float]] = [{} for _ in curves]
    for here in _moments(curves):
        before = np.array([_last(found[at]) for at, _, _ in here])
        values = np.array([value for _, _, value in here])
        for (at, share, _), value in zip(here, _matched(values, before), strict=True):
            found[at][share] = float(value)
    return [tuple(values[share] for share, _ in curve) for values, curve in zip(found, curves, strict=True)]


def are_near(first: float, second: float) -> bool:
    """Say whether two shares of a training are one moment; nothing before the end is the end."""
    return first == second or (max(first, second) < 1 and max(first, second) <= _NEAR * min(first, second))


def _moments(curves: Sequence[Sequence[tuple[float, float]]]) -> list[list[tuple[int, float, float]]]:
    """Put evaluations together that are at about the same share: the training's place, the share, the value.

    Trainings of different lengths are evaluated after as many rows, which are different shares of each.
    """
    found: list[list[tuple[int, float, float]]] = []
    for share, at, value in sorted(
        (share, at, value) for at, curve in enumerate(curves) for share, value in curve
    ):
        same = found[-1] if found and are_near(found[-1][0][1], share) else []
        if not same or any(at == other for other, _, _ in same):
            found.append(same := [])
        same.append((at, share, value))
    return found


def _last(values: dict[float, float]) -> float:
    return values[max(values)] if values else float("nan")


def _matched(values: Array, before: Array) -> Array:
    """Give values the mean and the spread that their trainings had before; order 0 and 1 at the beginning."""
    known = before[np.isfinite(before)]
    mean, spread = (float(known.mean()), float(known.std()) or 1.0) if len(known) else (0.0, 1.0)
    if len(values) < _FEWEST:
        return np.where(np.isfinite(before), before, mean)
    return mean + spread * _standing(values)


def _standing(values: Array) -> Array:
    """Return the normal scores of values by their ranks (van der Waerden), ties in the middle."""
    from scipy.stats import rankdata

    ranks = rankdata(values) / (len(values) + 1)
    return np.array([NormalDist().inv_cdf(rank) for rank in ranks])
