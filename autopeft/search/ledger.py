"""Ledger: what was proposed, tried or refused, so that a searcher proposes nothing in vain."""

from __future__ import annotations

import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from autopeft.search.study import Trial
from autopeft.space.candidate import Candidate
from autopeft.space.domain import assemble
from autopeft.space.sampling import draw, neighbours
from autopeft.space.search_space import SearchSpace, assignment_of, assignments, size

_DRAWS = 3
_MOST_NEIGHBOURS = 500
_MOST_LISTED = 5_000

Source = tuple[SearchSpace, Callable[[], Candidate]]
"""A space, or a part of one, with what draws candidates from it."""


class Ledger:
    """Remembers candidates by their keys, and what a refused one costs.

    A refused trial says that all that cost the same and train at least as long are pointless, too.

    Args:
        warm: what is proposed first, best first; may lie outside the space.
        draws: so many in a row may repeat what is known before a neighbour takes their place.
    """

    def __init__(
        self, space: SearchSpace, *, seed: int, warm: Sequence[Candidate] = (), draws: int = _DRAWS
    ) -> None:
        self._draws = draws
        self._space = space
        self._warm = deque(warm)
        self._random = random.Random(seed)
        self._known: set[str] = set()
        self._too_long: dict[str, float] = {}

    def next(self, sources: Iterable[Source]) -> Candidate | None:
        """Return the next warm candidate; else the first of the sources' draws that has not been tried.

        Where draws repeat what is known, as all samplers' do in a small space, the nearest candidate to the
        last one that is not takes its place: a few changes of a value instead of dozens of draws. None when
        nothing is left.
        """
        warm = self.first(())
        if warm is not None:
            return warm
        for space, drawn in sources:
            for _ in range(self._draws):
                candidate = drawn()
                if not self.pointless(candidate):
                    return self._take(candidate)
            near = self._nearest(space, candidate)
            if near is not None:
                return self._take(near)
        left = self._any_left()
        return None if left is None else self._take(left)

    def first(self, candidates: Iterable[Candidate]) -> Candidate | None:
        """Return the next warm candidate, else the first of these that is not pointless."""
        warm = (self._warm.popleft() for _ in range(len(self._warm)))
        for candidate in itertools.chain(warm, candidates):
            if not self.pointless(candidate):
                return self._take(candidate)
        return None

    def knows(self, candidate: Candidate) -> bool:
        """Say whether a candidate was proposed or tried."""
        return candidate.key in self._known

    def note(self, trial: Trial) -> None:
        """Remember a trial."""
        candidate = trial.candidate
        self._known.add(candidate.key)
        if trial.state == "rejected":
            epochs = candidate.training.epochs
            self._too_long[candidate.footprint] = min(epochs, self._too_long.get(candidate.footprint, epochs))

    def pointless(self, candidate: Candidate) -> bool:
        """Say whether a candidate is known already, or costs what was refused."""
        if self.knows(candidate) or not self._too_long:
            return self.knows(candidate)
        return candidate.training.epochs >= self._too_long.get(candidate.footprint, math.inf)

    def _take(self, candidate: Candidate) -> Candidate:
        self._known.add(candidate.key)
        return candidate

    def _nearest(self, space: SearchSpace, start: Candidate) -> Candidate | None:
        """Walk outwards from a candidate, a changed field at a time, to the first that is not pointless."""
        first = assignment_of(space, start)
        if first is None:
            return None
        seen, frontier = {start.key}, deque([first])
        while frontier and len(seen) < _MOST_NEIGHBOURS:
            for values in neighbours(space, frontier.popleft(), self._random):
                candidate = assemble({**space.fixed, **values})
                if candidate.key not in seen:
                    if not self.pointless(candidate):
                        return candidate
                    seen.add(candidate.key)
                    frontier.append(values)
        return None

    def _any_left(self) -> Candidate | None:
        """Return any candidate not tried yet: of all where they can be listed, else of many draws."""
        if size(self._space) <= _MOST_LISTED:
            rows = list(assignments(self._space))
            self._random.shuffle(rows)
        else:
            rows = [draw(self._space, self._random) for _ in range(_MOST_NEIGHBOURS)]
        found = (assemble({**self._space.fixed, **values}) for values in rows)
        return next(itertools.filterfalse(self.pointless, found), None)
