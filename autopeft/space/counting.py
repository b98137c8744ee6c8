"""What a search space holds, counted: combinations by method, and ranges that cannot be counted."""

from __future__ import annotations

import math
from collections import Counter

from autopeft.message import Message
from autopeft.space.domain import METHOD, Domain, Range, Switches
from autopeft.space.search_space import SearchSpace, branches


class DomainFacts(Message):
    """One domain in words.

    Attributes:
        values: what it may be; a range with its ends.   first: what is tried first.
        when: the fields above it that it depends on, with their values; empty where it always counts.
        continuous: whether it holds every real number of a range, so that it counts as one value.
    """

    field: str
    values: str
    first: str
    when: dict[str, tuple[str, ...]]
    continuous: bool


class SpaceFacts(Message):
    """A search space, counted.

    Attributes:
        combinations: of everything that can be counted; a continuous range counts as one value.
        by_method: the same for each method, in the order in which methods are tried.
        continuous: fields of which each combination has one value out of a range.
    """

    name: str
    description: str
    families: tuple[str, ...]
    source: str
    combinations: int
    by_method: dict[str, int]
    continuous: tuple[str, ...]
    domains: tuple[DomainFacts, ...]
    fixed: dict[str, str]


def count(space: SearchSpace) -> SpaceFacts:
    """Count what a search space holds."""
    by_method: Counter[str] = Counter()
    for chosen, free in branches(space):
        number = math.prod(domain.allowed.number or 1 for domain in free)
        settled = chosen.get(METHOD, space.fixed.get(METHOD))
        for method in space.methods if settled is None else (str(settled),):
            by_method[method] += number // (len(space.methods) if settled is None else 1)
    return SpaceFacts(
        name=space.name,
        description=space.description,
        families=space.families,
        source=space.source,
        combinations=sum(by_method.values()),
        by_method={method: by_method[method] for method in space.methods},
        continuous=tuple(dict.fromkeys(each.field for each in space.domains if each.allowed.number is None)),
        domains=tuple(map(_in_words, space.domains)),
        fixed={field: str(value) for field, value in space.fixed.items()},
    )


def _in_words(domain: Domain) -> DomainFacts:
    allowed = domain.allowed
    if isinstance(allowed, Range):
        spread = ", log" if allowed.log else "" if allowed.step is None else f" in steps of {allowed.step:g}"
        values = f"{allowed.low:g} to {allowed.high:g}{spread}"
    elif isinstance(allowed, Switches):
        values = f"{allowed.switches} switches, not all off"
    else:
        values = ", ".join(_word(value) for value in allowed.values)
    return DomainFacts(
        field=domain.field,
        values=values,
        first=_word(allowed.typical),
        when={field: tuple(map(_word, wanted)) for field, wanted in domain.when.items()},
        continuous=allowed.number is None,
    )


def _word(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
