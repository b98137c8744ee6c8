"""SearchSpace: which candidates may be tried."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TypeVar

from pydantic import Field, model_validator

from autopeft.errors import InputError
from autopeft.message import Message
from autopeft.space.candidate import Candidate, Scalar
from autopeft.space.domain import METHOD, Choice, Domain, Range, assemble, check_field, value_of
from autopeft.workload.base_model import Family

_Item = TypeVar("_Item")


class SearchSpace(Message):
    """Named domains over the fields of `Candidate`.

    Attributes:
        families: families of base models it is meant for.
        domains: in order; a condition looks only at fields above it, and of several domains for
            one field at most one ever counts.
        fixed: values of fields that are not searched.
        source: the file it comes from.
    """

    name: str
    description: str = ""
    families: tuple[Family, ...] = ("decoder", "encoder")
    domains: tuple[Domain, ...] = Field(min_length=1)
    fixed: dict[str, Scalar] = {}
    source: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> SearchSpace:
        for _, fault in faults(self.domains, self.fixed):
            raise ValueError(fault)
        return self

    @property
    def methods(self) -> tuple[str, ...]:
        """Methods of the space, in the order in which they are worth trying."""
        if METHOD in self.fixed:
            return (str(self.fixed[METHOD]),)
        searched = (domain for domain in self.domains if domain.field == METHOD)
        return tuple(str(value) for domain in searched for value in domain.allowed.values)

    @property
    def continuous(self) -> bool:
        """Whether some field has more values than can be listed."""
        return any(domain.allowed.continuous for domain in self.domains)


def faults(domains: tuple[Domain, ...], fixed: Mapping[str, Scalar]) -> Iterator[tuple[int | str, str]]:
    """Yield what is wrong between the parts of a space.

    Yields:
        the index of the faulty domain or the name of the faulty fixed field, and the fault.
    """
    for field, value in fixed.items():
        try:
            check_field(field, value)
        except ValueError as error:
            yield field, str(error)
    if METHOD not in fixed and not any(domain.field == METHOD for domain in domains):
        yield METHOD, "`method` must be among the domains or fixed"
    for index, domain in enumerate(domains):
        above = domains[:index]
        if domain.field in fixed:
            yield index, f"{domain.field} is both searched and fixed; leave out one of them"
        if any(other.field == domain.field and not other.excludes(domain) for other in above):
            yield index, f"two domains of {domain.field} can count at once; give them separate conditions"
        for field, wanted in domain.when.items():
            known = [value for other in above if other.field == field for value in other.allowed.values]
            if field not in fixed and not known:
                yield index, f"`when` must look at fields further up or fixed ones, but got {field!r}"
            elif field not in fixed and (lost := [value for value in wanted if value not in known]):
                yield index, f"`when` asks for {field}={lost[0]!r}, but {field} is one of {known}"


def active(space: SearchSpace, assignment: Mapping[str, Scalar]) -> tuple[Domain, ...]:
    """Return the domains that count under the values chosen so far, in their order."""
    values = dict(space.fixed)
    found = []
    for domain in space.domains:
        if domain.counts(values):
            found.append(domain)
            if domain.field in assignment:
                values[domain.field] = assignment[domain.field]
    return tuple(found)


def candidate_from(space: SearchSpace, assignment: Mapping[str, Scalar]) -> Candidate:
    """Make the candidate in which exactly the domains that count are chosen.

    Raises:
        InputError: a value is missing, superfluous or outside its domain.
    """
    domains = {domain.field: domain for domain in active(space, assignment)}
    if missing := sorted(domains.keys() - assignment.keys()):
        raise InputError(f"the space {space.name!r} needs a value for {', '.join(missing)}.")
    for field, value in assignment.items():
        if field not in domains:
            raise InputError(f"{field} is not searched under these values; leave out {field}={value!r}.")
        if value not in domains[field].allowed:
            raise InputError(f"{field}={value!r} lies outside the space {space.name!r}.")
    return assemble({**space.fixed, **assignment})


def assignment_of(space: SearchSpace, candidate: Candidate) -> dict[str, Scalar] | None:
    """Return the values that make `candidate`; None where it lies outside the space."""
    values = dict(space.fixed)
    chosen: dict[str, Scalar] = {}
    for domain in space.domains:
        if not domain.counts(values):
            continue
        value = value_of(candidate, domain.field)
        if value is None or value not in domain.allowed:
            return None
        chosen[domain.field] = values[domain.field] = value
    return chosen if assemble(values) == candidate else None


def typical(space: SearchSpace, given: Mapping[str, Scalar]) -> Candidate:
    """Make the candidate with the given values and the first thing to try for all else."""
    values = dict(space.fixed)
    for domain in space.domains:
        if domain.counts(values):
            values[domain.field] = given.get(domain.field, domain.allowed.typical)
    return assemble(values)


def warm_start(space: SearchSpace) -> tuple[Candidate, ...]:
    """Return one good candidate per method, in the space's order: what a search tries first."""
    return tuple(typical(space, {METHOD: method}) for method in space.methods)


def fix(space: SearchSpace, values: Mapping[str, Scalar]) -> SearchSpace:
    """Return the space in which the given fields are no longer searched but have these values.

    Raises:
        InputError: a field or value is not allowed, or nothing is left to search.
    """
    left = tuple(domain for domain in space.domains if domain.field not in values)
    return SearchSpace.build(**dict(space) | {"domains": left, "fixed": {**space.fixed, **values}})


def only_methods(space: SearchSpace, methods: Collection[str]) -> SearchSpace:
    """Return the space without the methods that are not named.

    Raises:
        InputError: none of the space's methods is named.
    """
    left = [method for method in space.methods if method in methods]
    if not left:
        raise InputError(
            f"the space {space.name!r} has the methods {', '.join(space.methods)}, "
            f"but only {', '.join(sorted(methods)) or 'none'} can be used."
        )
    domains = []
    for domain in space.domains:
        when = dict(domain.when)
        if METHOD in when:
            when[METHOD] = tuple(method for method in when[METHOD] if method in left)
            if not when[METHOD]:
                continue
        allowed = Choice(choices=tuple(left)) if domain.field == METHOD else domain.allowed
        domains.append(Domain(field=domain.field, allowed=allowed, when=when))
    return SearchSpace.build(**dict(space) | {"domains": tuple(domains)})


def longest_epochs(space: SearchSpace, baseline: Candidate) -> float:
    """Return the epochs of the longest training that the space or the default asks for."""
    found = [baseline.training.epochs]
    for domain in space.domains:
        if domain.field == "training.epochs":
            values = (domain.allowed.top,) if isinstance(domain.allowed, Range) else domain.allowed.values
            found += [float(value) for value in values]
    return max(found)


def size(space: SearchSpace) -> int:
    """Count the combinations; a continuous range counts as one value (see `continuous`)."""
    return sum(math.prod(len(domain.allowed.values) for domain in free) for _, free in branches(space))


def assignments(space: SearchSpace) -> Iterator[dict[str, Scalar]]:
    """Yield every combination, continuous ranges at their typical value."""
    for chosen, free in branches(space):
        for combination in itertools.product(*(domain.allowed.values for domain in free)):
            yield chosen | {domain.field: value for domain, value in zip(free, combination, strict=True)}


def footprints(space: SearchSpace, limit: int) -> tuple[Candidate, ...]:
    """List candidates that differ in memory or step time, one for each such difference.

    Continuous ranges and fields that cost nothing stand at their typical value. Where there are
    more than `limit`, every method keeps a fair share, drawn evenly and always the same.
    """
    by_method: dict[str, dict[str, Candidate]] = {}
    for chosen, free in branches(space):
        columns = [
            domain.allowed.values if domain.moves_cost else (domain.allowed.typical,) for domain in free
        ]
        total = math.prod(map(len, columns))
        for index in range(total) if total <= limit else _shuffled(range(total), limit):
            picks = {domain.field: value for domain, value in zip(free, row_of(columns, index), strict=True)}
            candidate = assemble({**space.fixed, **chosen, **picks})
            by_method.setdefault(candidate.method, {}).setdefault(candidate.footprint, candidate)
    groups = [list(group.values()) for group in by_method.values()]
    if sum(map(len, groups)) <= limit:
        return tuple(itertools.chain.from_iterable(groups))
    turns = itertools.chain.from_iterable(
        itertools.zip_longest(*(_shuffled(group, limit) for group in groups))
    )
    return tuple(itertools.islice((candidate for candidate in turns if candidate is not None), limit))


def branches(space: SearchSpace) -> Iterator[tuple[dict[str, Scalar], tuple[Domain, ...]]]:
    """Yield each way to settle the fields that conditions look at, with the domains left free."""
    asked = {field for domain in space.domains for field in domain.when}

    def settle(index: int, chosen: dict[str, Scalar]) -> Iterator[dict[str, Scalar]]:
        if index == len(space.domains):
            yield chosen
            return
        domain = space.domains[index]
        if domain.field not in asked or not domain.counts({**space.fixed, **chosen}):
            yield from settle(index + 1, chosen)
            return
        for value in domain.allowed.values:
            yield from settle(index + 1, chosen | {domain.field: value})

    for chosen in settle(0, {}):
        yield chosen, tuple(domain for domain in active(space, chosen) if domain.field not in asked)


def _shuffled(items: Sequence[_Item], most: int) -> Sequence[_Item]:
    """Draw up to `most` items evenly, the same ones every time."""
    return random.Random(0).sample(items, min(most, len(items)))


def row_of(columns: list[tuple[Scalar, ...]], index: int) -> list[Scalar]:
    """Return row `index` of the table of all combinations, without making the table."""
    row: list[Scalar] = []
    for column in reversed(columns):
        index, at = divmod(index, len(column))
        row.append(column[at])
    return row[::-1]
