"""Chance and neighbourhood in a search space: one assignment drawn, and those one step away from another."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping

from autopeft.space.candidate import Scalar
from autopeft.space.domain import Allowed, Choice, Switches
from autopeft.space.search_space import SearchSpace, active


def draw(
    space: SearchSpace, dice: random.Random, given: Mapping[str, Scalar] | None = None
) -> dict[str, Scalar]:
    """Draw an assignment: each domain that counts evenly, with `log` over orders of magnitude.

    Args:
        given: values that are settled already; those of fields that do not count are left out.
    """
    return _settled(space, given or {}, lambda allowed: _drawn(allowed, dice))


def neighbours(
    space: SearchSpace, assignment: Mapping[str, Scalar], dice: random.Random
) -> Iterator[dict[str, Scalar]]:
    """Yield the assignments in which one field has another value, in an order of chance.

    Choices change to any other, whole numbers and steps to the next ones, switches one at a time; a real
    number stays. What counts only afterwards is at its typical value.
    """
    moves = [
        (domain.field, value)
        for domain in active(space, assignment)
        for value in _next_to(domain.allowed, assignment[domain.field])
    ]
    dice.shuffle(moves)
    for field, value in moves:
        yield _settled(space, {**assignment, field: value}, lambda allowed: allowed.typical)


def _settled(
    space: SearchSpace, given: Mapping[str, Scalar], choose: Callable[[Allowed], Scalar]
) -> dict[str, Scalar]:
    values: dict[str, Scalar] = {}
    known = dict(space.fixed)
    for domain in space.domains:
        if domain.counts(known):
            kept = given.get(domain.field)
            value = kept if kept is not None and kept in domain.allowed else choose(domain.allowed)
            values[domain.field] = known[domain.field] = value
    return values


def _drawn(allowed: Allowed, dice: random.Random) -> Scalar:
    if isinstance(allowed, Choice):
        return dice.choice(allowed.choices)
    if isinstance(allowed, Switches):
        on = [dice.random() < 0.5 for _ in range(allowed.switches)]
        return allowed.turned(on if any(on) else [True] * len(on))
    if not allowed.log:
        grid = allowed.number
        return dice.uniform(allowed.low, allowed.high) if grid is None else allowed.at(dice.randrange(grid))
    value = math.exp(dice.uniform(math.log(allowed.low), math.log(allowed.high)))
    return round(value) if allowed.whole else min(max(value, allowed.low), allowed.high)


def _next_to(allowed: Allowed, value: Scalar) -> Iterator[Scalar]:
    if isinstance(allowed, Choice):
        yield from (other for other in allowed.choices if other != value)
    elif isinstance(allowed, Switches):
        on = allowed.switched(value)
        flipped = ([each != (place == index) for place, each in enumerate(on)] for index in range(len(on)))
        yield from (allowed.turned(each) for each in flipped if any(each))
    elif allowed.number is not None:
        place = allowed.place(value)
        yield from (allowed.at(each) for each in (place - 1, place + 1) if 0 <= each < allowed.number)
