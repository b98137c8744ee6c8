"""Nearest misses: what would make a configuration fit that does not, by estimating the changed one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from autopeft.cost.estimate import CostEstimate
from autopeft.errors import AutopeftError
from autopeft.plan.plan import Rejected, WayOut
from autopeft.space.candidate import Candidate
from autopeft.units import format_bytes

_SHORTEST = 32
_QUANTISED = "nf4-dq"
_SMALL_STATE = "adamw-8bit"

_ROUNDS = 3

Costs = Callable[[Sequence[Candidate]], Sequence[CostEstimate | AutopeftError]]


class _Change(NamedTuple):
    """A changed candidate: of each kind one change is named; it is estimated in its turn."""

    kind: str
    words: str
    turn: int
    candidate: Candidate


def nearest(rejected: Sequence[Rejected], most: int) -> list[int]:
    """Return places of the nearest misses, one for each kind of configuration, at most so many."""
    places: dict[tuple[object, ...], int] = {}
    for place, miss in enumerate(rejected):
        if miss.estimate is not None:
            one = miss.candidate
            places.setdefault((one.method, one.targets, one.quantization), place)
    return list(places.values())[:most]


def with_ways_out(
    rejected: Sequence[Rejected],
    places: Sequence[int],
    known: Mapping[str, CostEstimate],
    costs: Costs,
    spare: Callable[[CostEstimate], int | None],
) -> list[Rejected]:
    """Return the rejected, those at `places` with the changes that make them fit.

    What is known already is free. The rest is estimated in rounds, as a new kind of configuration may have
    to be traced: a later round is for those misses only that nothing helps so far.

    Args:
        rejected: all that were rejected.
        places: which of them to look at.
        known: estimates that were made already, by footprint.
        costs: estimates candidates.
        spare: returns what an estimate leaves of the memory limit, None where it exceeds some limit.
    """
    changes = {place: list(_changes(rejected[place].candidate)) for place in places}
    found: dict[str, CostEstimate | AutopeftError] = dict(known)
    ways = {place: _ways(tried, found, spare) for place, tried in changes.items()}
    for turn in range(_ROUNDS):
        wanted = {
            change.candidate.footprint: change.candidate
            for place, tried in changes.items()
            for change in tried
            if change.turn == turn
            and change.candidate.footprint not in found
            and (turn == 0 or not ways[place])
        }
        found |= zip(wanted, costs(list(wanted.values())), strict=True) if wanted else {}
        ways = {place: _ways(tried, found, spare) for place, tried in changes.items()}
    answers = list(rejected)
    for place, kept in ways.items():
        if kept:
            answers[place] = rejected[place].model_copy(
                update={"ways_out": kept, "way_out": "; ".join(_words(way) for way in kept)}
            )
    return answers


def _ways(
    tried: Sequence[_Change],
    found: Mapping[str, CostEstimate | AutopeftError],
    spare: Callable[[CostEstimate], int | None],
) -> tuple[WayOut, ...]:
    """Return the changes that fit: of batches the largest, several at once where no single one does."""
    kept: dict[str, WayOut] = {}
    for change in tried:
        estimate = found.get(change.candidate.footprint)
        left = spare(estimate) if isinstance(estimate, CostEstimate) else None
        if left is None or not isinstance(estimate, CostEstimate) or (change.kind == "several" and kept):
            continue
        way = WayOut(change=change.words, candidate=change.candidate, estimate=estimate, spare_bytes=left)
        kept.setdefault(change.kind, way)
    return tuple(kept.values())


def _words(way: WayOut) -> str:
    return f"{way.change}: fits with {format_bytes(way.spare_bytes)} to spare"


def _changes(candidate: Candidate) -> Iterator[_Change]:
    """Yield single changes, the least costly for quality and time first, then several at once."""
    training = candidate.training
    fields: dict[str, object] = {}
    settings: dict[str, object] = {}
    if not training.gradient_checkpointing:
        settings["gradient_checkpointing"] = True
        yield _Change("checkpointing", "checkpointing", 0, _changed(candidate, {}, settings))
    if candidate.quantization == "none" and candidate.method != "full":
        fields["quantization"] = _QUANTISED
        yield _Change("weights", _QUANTISED, 1, _changed(candidate, fields, {}))
    if candidate.method == "full" and training.optimizer == "adamw":
        settings["optimizer"] = _SMALL_STATE
        yield _Change("optimizer", _SMALL_STATE, 1, _changed(candidate, {}, {"optimizer": _SMALL_STATE}))
    for batch in _halved(training.batch_size):
        changed = _changed(candidate, {}, {"batch_size": batch})
        yield _Change("batch", f"batch {batch}", int(batch == 1), changed)
    length = training.max_length // 2
    if length >= _SHORTEST:
        yield _Change("length", f"length {length}", 0, _changed(candidate, {}, {"max_length": length}))
    if len(fields) + len(settings) > 1:
        other = _QUANTISED if fields else _SMALL_STATE
        yield _Change("several", f"checkpointing and {other}", 2, _changed(candidate, fields, settings))
        for batch in _halved(training.batch_size):
            smaller = _changed(candidate, fields, {**settings, "batch_size": batch})
            yield _Change("several", f"checkpointing, {other} and batch {batch}", 2, smaller)


def _halved(batch: int) -> Iterator[int]:
    """Yield the half of a batch, the half of that, and so on to 1."""
    while batch := batch // 2:
        yield batch


def _changed(candidate: Candidate, fields: dict[str, object], settings: dict[str, object]) -> Candidate:
    training = candidate.training.model_copy(update=settings)
    return candidate.model_copy(update={**fields, "training": training})
