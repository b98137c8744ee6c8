"""Encoding: candidates of a space as vectors, in which near means alike."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from autopeft.space.candidate import Candidate, Scalar
from autopeft.space.domain import METHOD, Choice, Range, Switches, value_of
from autopeft.space.search_space import SearchSpace

RATE = "training.learning_rate"
GROUPS = ("rate", "method", "number", "name")
LENGTHS = (0.5, 1.0, 1.0, 1.5)
"""Usual length scale of each group: decades of the learning rate, and steps between values otherwise."""

_RATE, _METHOD, _NUMBER, _NAME = range(len(GROUPS))


class Encoding:
    """Turns candidates of one space into features.

    The learning rate counts as decades from the usual one, so that what is learnt of one method's rates
    holds for others. Numbers count from 0 to 1 over all that the space allows, in their logarithm where all
    are positive and the largest is more than twice the least; a field that does not count under a method
    stands at the middle. Names, and switches of layers, have a feature each.
    """

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._values = _values(space)
        self._known: dict[str, list[float]] = {}
        self._parts: list[tuple[str, int, tuple[Scalar, ...]]] = []
        for field, values in self._values.items():
            if field == RATE:
                continue
            group = _METHOD if field == METHOD else _NUMBER if _numeric(values) else _NAME
            self._parts.append((field, group, values))
        self._switches = max(
            (each.allowed.switches for each in space.domains if isinstance(each.allowed, Switches)), default=0
        )
        self.groups = [_RATE]
        for _, group, values in self._parts:
            self.groups += [group] * (1 if group == _NUMBER else len(values))
        self.groups += [_NAME] * self._switches

    def features(self, candidates: Sequence[Candidate]) -> NDArray[np.float64]:
        """Return the features, (candidates, features)."""
        rows = [self._row(candidate) for candidate in candidates]
        return np.array(rows).reshape(-1, len(self.groups))

    def _row(self, candidate: Candidate) -> list[float]:
        key = candidate.key
        if key not in self._known:
            self._known[key] = self._described(candidate)
        return self._known[key]

    def _described(self, candidate: Candidate) -> list[float]:
        row = [math.log10(candidate.training.learning_rate) - usual_rate(self._space, candidate)]
        for field, group, values in self._parts:
            value = value_of(candidate, field)
            if group == _NUMBER:
                row.append(_placed(value, values))
            else:
                # Two different names are one apart.
                row += [math.sqrt(0.5) * (value == each) for each in values]
        if self._switches:
            on = str(candidate.layers).removeprefix("switches:")
            row += [float(each == "1") for each in on.ljust(self._switches, "1")[: self._switches]]
        return row


def usual_rate(space: SearchSpace, candidate: Candidate) -> float:
    """Return log10 of the learning rate that the space would try first for such a candidate."""
    values = dict(space.fixed)
    for domain in space.domains:
        if not domain.counts(values):
            continue
        if domain.field == RATE and isinstance(domain.allowed.typical, int | float):
            return math.log10(domain.allowed.typical)
        if (value := value_of(candidate, domain.field)) is not None:
            values[domain.field] = value
    return math.log10(candidate.training.learning_rate)


def _values(space: SearchSpace) -> dict[str, tuple[Scalar, ...]]:
    """Return what each searched field may be: all names, or the ends and the listed numbers."""
    found: dict[str, tuple[Scalar, ...]] = {}
    for domain in space.domains:
        match domain.allowed:
            case Range(low=low, high=high):
                values: tuple[Scalar, ...] = (low, high)
            case Choice(choices=choices):
                values = choices
            case Switches():
                continue
        before = found.get(domain.field, ())
        found[domain.field] = (*before, *(value for value in values if value not in before))
    return found


def _numeric(values: Sequence[Scalar]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _placed(value: Scalar | None, values: Sequence[Scalar]) -> float:
    """Return where a number stands between the least and the largest, from 0 to 1."""
    if not isinstance(value, int | float):
        return 0.5
    numbers = [float(each) for each in values]
    low, high = min(numbers), max(numbers)
    if low == high:
        return 0.5
    if low > 0 and high / low > 2:
        value = min(max(value, low), high)
        return (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))
    return (min(max(value, low), high) - low) / (high - low)
