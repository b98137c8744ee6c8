"""Pool: candidates of a space that were not tried yet, to choose from."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence

from autopeft.search.encoding import RATE
from autopeft.space.candidate import Candidate, Scalar
from autopeft.space.domain import Choice, Domain, Range, Switches, assemble
from autopeft.space.search_space import SearchSpace, active, assignment_of, assignments, size

_MOST_LISTED = 1000
_DRAWN, _NEIGHBOURS = 250, 40
_RATE_SPREAD = 0.5
"""Standard deviation of drawn learning rates around the one that the space would try first, in decades."""


class Pool:
    """Offers all that is left of a small space, else a fresh draw of it and neighbours of the leaders."""

    def __init__(self, space: SearchSpace, rng: random.Random) -> None:
        self._space = space
        self._random = rng
        self._taken: set[str] = set()
        self._too_long: dict[str, float] = {}
        self._all: list[Candidate] | None = None
        if not space.continuous and size(space) <= _MOST_LISTED:
            every = [assemble({**space.fixed, **values}) for values in assignments(space)]
            self._all = rng.sample(every, len(every))

    def takes(self, candidate: Candidate) -> bool:
        """Say whether a candidate is worth a trial: not tried, and not refused at this length or less."""
        refused = self._too_long.get(candidate.footprint, math.inf)
        return candidate.key not in self._taken and candidate.training.epochs < refused

    def take(self, candidate: Candidate) -> None:
        """Offer this candidate no more."""
        self._taken.add(candidate.key)

    def refuse(self, candidate: Candidate) -> None:
        """Offer nothing more that costs what a rejected candidate costs and trains as long."""
        self._taken.add(candidate.key)
        epochs = candidate.training.epochs
        self._too_long[candidate.footprint] = min(epochs, self._too_long.get(candidate.footprint, epochs))

    def offer(self, leaders: Sequence[Candidate]) -> list[Candidate]:
        """Return candidates to choose from, in no order."""
        if self._all is not None:
            self._all = [candidate for candidate in self._all if self.takes(candidate)]
            return self._all
        drawn = [self._draw() for _ in range(_DRAWN)]
        near = [self._neighbour(leader) for leader, _ in itertools.product(leaders, range(_NEIGHBOURS // 2))]
        found = {each.key: each for each in (*drawn, *near) if each is not None and self.takes(each)}
        return list(found.values())

    def _draw(self) -> Candidate:
        return self._complete({})

    def _neighbour(self, leader: Candidate) -> Candidate | None:
        """Return a candidate that differs from another in one field, and in what follows from it."""
        values = assignment_of(self._space, leader)
        if values is None:
            return None
        changed = self._random.choice(list(values))
        kept = dict(values)
        domain = next(each for each in active(self._space, values) if each.field == changed)
        kept[changed] = self._value(domain, near=values[changed])
        return self._complete(kept)

    def _complete(self, wanted: dict[str, Scalar]) -> Candidate:
        """Give every field that counts its wanted value, or a drawn one."""
        values: dict[str, Scalar] = {}
        while open_domains := [each for each in active(self._space, values) if each.field not in values]:
            domain = open_domains[0]
            value = wanted.get(domain.field)
            fits = value is not None and value in domain.allowed
            values[domain.field] = value if fits and value is not None else self._value(domain)
        return assemble({**self._space.fixed, **values})

    def _value(self, domain: Domain, near: Scalar | None = None) -> Scalar:
        allowed = domain.allowed
        match allowed:
            case Choice(choices=choices):
                others = [choice for choice in choices if choice != near]
                return self._random.choice(others or list(choices))
            case Switches(switches=switches):
                on = [self._random.random() < 0.5 for _ in range(switches)]
                if near is not None:
                    on = list(allowed.switched(near))
                    flipped = self._random.randrange(switches)
                    on[flipped] = not on[flipped]
                return allowed.turned(on if any(on) else [True] * switches)
            case Range():
                return self._number(allowed, domain.field, near)

    def _number(self, allowed: Range, field: str, near: Scalar | None) -> int | float:
        low, high = float(allowed.low), float(allowed.top)
        to, back = (math.log10, lambda x: 10.0**x) if allowed.log else (float, float)
        if field == RATE and allowed.log:
            centre = math.log10(float(allowed.typical if near is None else near))
            drawn = self._random.gauss(centre, _RATE_SPREAD if near is None else _RATE_SPREAD / 2)
        elif near is not None:
            drawn = self._random.gauss(to(float(near)), 0.2 * (to(high) - to(low)))
        else:
            drawn = self._random.uniform(to(low), to(high))
        value = min(high, max(low, back(drawn)))
        if allowed.continuous and not allowed.whole:
            return value
        step = allowed.step or 1
        return type(allowed.low)(allowed.low + step * round((value - allowed.low) / step))
