"""The grid: every combination, in an order of chance."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from autopeft.search.ledger import Ledger
from autopeft.search.study import Trial
from autopeft.space.candidate import Candidate, Scalar
from autopeft.space.domain import Allowed, Choice, Domain, Switches, assemble
from autopeft.space.search_space import SearchSpace, branches, row_of
from autopeft.workload.dataset import Metric

_MOST_CELLS = 100_000


class GridSearcher:
    """Proposes `warm` candidates, then the cells of a grid; learns nothing but what was refused.

    A continuous range has three points, its ends and its middle; switches too many to list are all on, or the
    first or the last half of them. Of a grid larger than 100,000 cells so many are drawn.
    """

    def __init__(
        self, space: SearchSpace, *, seed: int, metric: Metric, warm: Sequence[Candidate] = ()
    ) -> None:
        del metric
        self._space = space
        self._branches = [(chosen, free, _columns(free)) for chosen, free in branches(space)]
        cells = range(sum(math.prod(map(len, columns)) for _, _, columns in self._branches))
        self._order = iter(random.Random(seed).sample(cells, min(len(cells), _MOST_CELLS)))
        self._ledger = Ledger(space, seed=seed, warm=warm)

    def propose(self) -> Candidate | None:
        """Return the next candidate; None when the grid is exhausted."""
        return self._ledger.first(self._cell(index) for index in self._order)

    def observe(self, trial: Trial) -> None:
        """Remember a finished trial, rejected ones included (also from earlier sessions)."""
        self._ledger.note(trial)

    def _cell(self, index: int) -> Candidate:
        for chosen, free, columns in self._branches:
            inside = math.prod(map(len, columns))
            if index < inside:
                picks = zip(free, row_of(columns, index), strict=True)
                return assemble(
                    {**self._space.fixed, **chosen, **{domain.field: value for domain, value in picks}}
                )
            index -= inside
        raise IndexError(index)


def _columns(free: Sequence[Domain]) -> list[tuple[Scalar, ...]]:
    return [_points(domain.allowed) for domain in free]


def _points(allowed: Allowed) -> tuple[Scalar, ...]:
    if isinstance(allowed, Choice) or not allowed.continuous:
        return allowed.values
    if isinstance(allowed, Switches):
        on, half = [True] * allowed.switches, allowed.switches // 2
        halves = [place < half for place in range(allowed.switches)]
        return tuple(allowed.turned(each) for each in (on, halves, [not each for each in halves]))
    return tuple(dict.fromkeys((allowed.typical, allowed.low, allowed.top)))
