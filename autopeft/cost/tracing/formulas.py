"""Formulas: from values at a few points to the polynomial that has them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from autopeft.cost.expand import NotAlikeError
from autopeft.cost.pattern import monomial_degrees

_FINE = 1e-9


class Formulas:
    """Formulas found so far; the same values have the same formula."""

    def __init__(
        self, points: Sequence[NDArray[np.float64]], found: dict[tuple[tuple[int, float], ...], int]
    ) -> None:
        self.points = np.array(points)
        self.found = found
        self.known: dict[tuple[float, ...], int] = {}
        self.order = np.argsort(monomial_degrees(), kind="stable")

    def of(self, values: Sequence[float], *, exact: bool = True) -> int:
        """Return the number of the formula with these values at the points.

        Raises:
            NotAlikeError: no formula has them, and it must be `exact`.
        """
        key = tuple(values)
        if key not in self.known:
            terms = self._solve(np.array(values, dtype=np.float64))
            if terms is None:
                if exact:
                    raise NotAlikeError(f"no formula gives the sizes {[int(v) for v in values]}")
                terms = self._nearest(np.array(values, dtype=np.float64))
            self.known[key] = self.found.setdefault(terms, len(self.found))
        return self.known[key]

    def _solve(self, values: NDArray[np.float64]) -> tuple[tuple[int, float], ...] | None:
        if not values.any():
            return ((0, 0.0),)
        ratios = values[:, None] / self.points
        alike = np.ptp(ratios, axis=0) <= _FINE * np.abs(ratios[0])
        for monomial in self.order:
            if alike[monomial]:
                return ((int(monomial), float(ratios[0, monomial])),)
        distinct = self._distinct()
        for size in (2, 3):
            best = self._combination(values, distinct, size)
            if best is not None:
                return best
        return None

    def _distinct(self) -> list[int]:
        """Return the simplest monomials that differ from each other at the points."""
        chosen: dict[bytes, int] = {}
        for monomial in self.order:
            column = self.points[:, monomial]
            chosen.setdefault((column / column[0]).round(12).tobytes(), int(monomial))
        return list(chosen.values())[:40]

    def _combination(
        self, values: NDArray[np.float64], distinct: list[int], size: int
    ) -> tuple[tuple[int, float], ...] | None:
        if len({tuple(row) for row in self.points.tolist()}) < size:
            return None
        pool = distinct if size == 2 else distinct[:16]
        for chosen in combinations(pool, size):
            matrix = self.points[:, chosen]
            scale = matrix.max(axis=0)
            solution, _, order, _ = np.linalg.lstsq(matrix / scale, values, rcond=None)
            if order == size and np.all(
                np.abs(matrix / scale @ solution - values) <= _FINE * np.abs(values) + 1e-6
            ):
                return tuple((m, float(c)) for m, c in zip(chosen, solution / scale, strict=True))
        return None

    def _nearest(self, values: NDArray[np.float64]) -> tuple[tuple[int, float], ...]:
        """Return the single monomial that comes nearest."""
        ratios = np.maximum(values[:, None], 1.0) / self.points
        spread = np.ptp(np.log(ratios), axis=0)
        best = int(np.argmin(spread))
        return ((best, float(np.exp(np.log(ratios[:, best]).mean()))),)
