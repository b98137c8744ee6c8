"""Expand: from a pattern of few layers to the tape of a whole run, at any depth, batch, length and rank.

Expansion is exact: `cost/tracing/fit.py` makes a pattern only where the expansion to another depth equals
what was traced there, event for event.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from autopeft.cost.pattern import BEFORE, BUILT, NO_UNIT, OWN, UNITS, Pattern, Score
from autopeft.cost.tape import Phase, Span, Tape

_Indices = NDArray[np.int64]


class NotAlikeError(ValueError):
    """Layers, steps or shapes that were taken to be alike are not."""


def unfold(units: NDArray[np.int32], copies: Sequence[int]) -> tuple[_Indices, _Indices]:
    """Repeat what happens in the second unit of each run.

    Args:
        units: unit of each event.
        copies: how often the second unit of each run is repeated.

    Returns:
        For each event of the whole: the event that it repeats, and by how many units it is shifted.

    Raises:
        NotAlikeError: a second unit is at work between neither its neighbours.
    """
    if not len(units):
        nothing = np.zeros(0, dtype=np.int64)
        return nothing, nothing
    cuts = [0, *(np.flatnonzero(np.diff(units)) + 1).tolist(), len(units)]
    groups = [int(units[cut]) for cut in cuts[:-1]]
    indices, shifts = [], []
    for place, unit in enumerate(groups):
        chunk = np.arange(cuts[place], cuts[place + 1])
        count = copies[unit // UNITS] if unit >= 0 and unit % UNITS == 1 else 0
        if count == 0:
            indices.append(chunk)
            shifts.append(np.zeros(len(chunk), dtype=np.int64))
            continue
        before = groups[place - 1] if place else NO_UNIT
        after = groups[place + 1] if place + 1 < len(groups) else NO_UNIT
        order = np.arange(count + 1)
        if unit - 1 != before and unit + 1 != after:
            if unit + 1 != before and unit - 1 != after:
                raise NotAlikeError("a unit of layers is at work between neither of its neighbours")
            order = order[::-1]
        indices.append(np.tile(chunk, count + 1))
        shifts.append(np.repeat(order, len(chunk)))
    return np.concatenate(indices), np.concatenate(shifts)


class Unfolded:
    """One score with every layer in its place.

    Attributes:
        origin: for each block, the block of the score that it repeats.
        numbers: block of the score and shift -> block; -1 where there is none.
        events: positive: birth of the next block of its own; negative: `~block`, of the frame's score.
        source: event of the score that each event repeats.
    """

    def __init__(self, score: Score, copies: Sequence[int]) -> None:
        """Repeat the score's events.

        Raises:
            NotAlikeError: an event names a block of a layer that is not its neighbour.
        """
        self.score = score
        self.copies = copies
        self.source, self.shift = unfold(score.event_unit, copies)
        most = max([0, *copies])
        self.numbers = np.full((len(score.block_unit), most + 1), -1, dtype=np.int64)
        born = score.events[self.source] >= 0
        born &= score.frames[self.source] == OWN
        blocks = score.events[self.source[born]]
        self.origin = blocks.astype(np.int64)
        self.numbers[blocks, self._own_shift(blocks, self.shift[born])] = np.arange(len(blocks))
        self.born = born

    def _own_shift(self, blocks: NDArray[np.int32], shift: _Indices) -> _Indices:
        repeated = self.score.block_unit[blocks] % UNITS == 1
        return np.where(repeated & (self.score.block_unit[blocks] >= 0), shift, 0)

    def deaths(self, frame: int, other: Unfolded) -> tuple[_Indices, _Indices]:
        """Return which events free blocks of a frame, whose score is `other`, and which blocks."""
        events = self.score.events[self.source]
        chosen = np.flatnonzero((self.score.frames[self.source] == frame) & (events < 0))
        blocks = np.invert(events[chosen]).astype(np.int64)
        return chosen, other.find(blocks, self.score.event_unit[self.source[chosen]], self.shift[chosen])

    def find(self, blocks: _Indices, units: NDArray[np.int32], shift: _Indices) -> _Indices:
        """Return the blocks that events of shifted units mean when they name blocks of the score."""
        if not len(blocks):
            return blocks
        homes = self.score.block_unit[blocks].astype(np.int64)
        copies = np.array([*self.copies, 0])
        run = np.where(homes >= 0, homes // UNITS, len(self.copies))
        count = copies[run]
        home, unit = homes % UNITS, units.astype(np.int64) % UNITS
        near = (homes >= 0) & (units >= 0) & (homes // UNITS == units // UNITS) & (count > 0)
        if np.any(~near & (homes >= 0) & (home == 1) & (count > 0)):
            raise NotAlikeError("a block of a repeated layer is freed by another part of the model")
        place = np.select([unit == 0, unit == 1], [0, 1 + shift], 2 + count) + home - unit
        # What the first unit makes for all, as T5 its biases, the last one frees, and the other way round.
        far = near & (np.abs(home - unit) > 1)
        place = np.where(far, np.where(home == 0, 0, 2 + count), place)
        ends = (place == 0) | (place == 2 + count)
        twins = self.score.block_twin[blocks].astype(np.int64)
        repeated = near & ~ends
        meant = np.where(repeated, twins, blocks)
        if np.any(meant < 0) or np.any(near & ends & (home == 1)):
            raise NotAlikeError("a block of one layer has no counterpart in the next")
        found: _Indices = self.numbers[meant, np.where(repeated, place - 1, 0)]
        if np.any(found < 0):
            raise NotAlikeError("a block of one layer has no counterpart in the next")
        return found


class Expansion:
    """A pattern at a depth, ready to give the tape of any run."""

    def __init__(
        self, pattern: Pattern, copies: Sequence[int] | None = None, depth: int | None = None
    ) -> None:
        """Put every layer in its place.

        Args:
            pattern: what was traced.
            copies: how often the second unit of each run is repeated; None: as in the whole model.
            depth: layers of the model with so many copies.

        Raises:
            NotAlikeError: the pattern cannot be expanded.
        """
        self.pattern = pattern
        self.copies = [run.copies for run in pattern.runs] if copies is None else list(copies)
        self.depth = pattern.depth if depth is None else depth
        self.built = Unfolded(pattern.built, self.copies)
        self.first = Unfolded(pattern.first, self.copies)
        self.later = Unfolded(pattern.later, self.copies)

    @cached_property
    def _first_events(self) -> NDArray[np.int64]:
        """Events of the first step: own blocks from 0 on, built ones below zero from `-1` downwards."""
        return self._local(self.first)

    @cached_property
    def _later_events(self) -> NDArray[np.int64]:
        return self._local(self.later)

    def _local(self, step: Unfolded) -> NDArray[np.int64]:
        events = np.zeros(len(step.source), dtype=np.int64)
        events[step.born] = np.arange(len(step.origin))
        for frame, other in ((OWN, step), (BEFORE, self.later), (BUILT, self.built)):
            chosen, blocks = step.deaths(frame, other)
            events[chosen] = np.invert(blocks)
        return events

    @cached_property
    def _frames(self) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
        return (
            self.pattern.first.frames[self.first.source],
            self.pattern.later.frames[self.later.source],
        )

    @cached_property
    def _before_first(self) -> NDArray[np.int64]:
        """For each block of a later step, the block of the first step in its place; -1: none."""
        mate = self.pattern.first_of_later[self.later.origin].astype(np.int64)
        shifts = self.later._own_shift(self.later.origin.astype(np.int32), self.later.shift[self.later.born])
        found: NDArray[np.int64] = np.where(mate >= 0, self.first.numbers[np.maximum(mate, 0), shifts], -1)
        return found

    def events_of(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
        """Return the events of the first (0) or a later (1) step with the frames of their blocks."""
        return (self._first_events, self._frames[0]) if step == 0 else (self._later_events, self._frames[1])

    def values(self, rows: int, length: int, rank: int) -> NDArray[np.float64]:
        """Return the value of every formula of the pattern."""
        return self.pattern.evaluate(rows, length, rank, self.depth)

    def tape(self, rows: int, lengths: Sequence[int], rank: int) -> Tape:
        """Return the tape of a run; its operators are those of the second step.

        Args:
            rows: rows of a micro-batch.
            lengths: tokens of the longest row of each step, two steps at least.
            rank: rank of the candidate; any number where it has none.
        """
        pattern = self.pattern
        values = {
            length: np.rint(self.values(rows, length, rank)).astype(np.int64) for length in set(lengths)
        }
        built = len(self.built.origin)
        sizes = [values[lengths[0]][pattern.built.block_size[self.built.origin]]]
        categories = [pattern.built.block_category[self.built.origin]]
        events = [np.arange(built)]
        spans = [Span(-1, 0, Phase.BUILD, 0, 0)]
        start, before, count = built, 0, built
        operators = self._operators()
        for step, length in enumerate(lengths):
            part, score = (self.first, pattern.first) if step == 0 else (self.later, pattern.later)
            local, frames = self.events_of(step)
            own = np.where(local >= 0, local + start, local - start)
            if step:
                old = np.invert(np.where(frames == BEFORE, local, -1))
                if step == 1:
                    old = self._before_first[old] if len(self._before_first) else old
                own = np.where(frames == BEFORE, np.invert(old + before), own)
            own = np.where(frames == BUILT, local, own)
            sources = part.source, operators[0] if step == 1 else operators[0][:0]
            spans += _spans(score, sources, step, count, len(operators[0]) if step > 1 else 0)
            events.append(own)
            sizes.append(values[length][score.block_size[part.origin]])
            categories.append(score.block_category[part.origin])
            before, start = start, start + len(part.origin)
            count += len(own)
        work = self.values(rows, lengths[1], rank)
        whole = self._parameters(work)
        return Tape(
            target=pattern.target,
            rows=rows,
            lengths=tuple(lengths),
            micro_batches=pattern.micro_batches,
            trainable_params=whole[0],
            total_params=whole[1],
            adapter_bytes=whole[2],
            guesses=pattern.guesses,
            spans=tuple(spans),
            names=tuple(dict.fromkeys(kind[0] for kind in pattern.operator_kinds)),
            dtypes=tuple(dict.fromkeys(kind[1] for kind in pattern.operator_kinds)),
            block_bytes=np.concatenate(sizes),
            block_category=np.concatenate(categories),
            events=np.concatenate(events).astype(np.int32),
            operators=operators[1],
            operator_flops=np.maximum(work[pattern.later.operator_flops][operators[0]], 0.0),
            operator_bytes=np.maximum(work[pattern.later.operator_bytes][operators[0]], 0.0),
            operator_dtype=operators[2],
            operator_kind=operators[3],
            versions=pattern.versions,
        )

    def _operators(self) -> tuple[_Indices, NDArray[np.int32], NDArray[np.int8], NDArray[np.int8]]:
        """Return source, name, dtype and kind of each operator of a later step."""
        pattern = self.pattern
        source, _ = self._operator_source
        names = list(dict.fromkeys(kind[0] for kind in pattern.operator_kinds))
        dtypes = list(dict.fromkeys(kind[1] for kind in pattern.operator_kinds))
        table = np.array(
            [(names.index(name), dtypes.index(dtype), kind) for name, dtype, kind in pattern.operator_kinds]
        ).reshape(-1, 3)
        chosen = table[pattern.later.operators[source]]
        return (
            source,
            chosen[:, 0].astype(np.int32),
            chosen[:, 1].astype(np.int8),
            chosen[:, 2].astype(np.int8),
        )

    @cached_property
    def _operator_source(self) -> tuple[_Indices, _Indices]:
        return unfold(self.pattern.later.operator_unit, self.copies)

    def _parameters(self, values: NDArray[np.float64]) -> tuple[int, int, int]:
        """Count trained parameters, all parameters, and bytes of the exported file."""
        rows = self.pattern.parameters
        repeated = (rows[:, 0] >= 0) & (rows[:, 0] % UNITS == 1)
        copies = np.array([*self.copies, 0])
        times = 1 + np.where(repeated, copies[np.where(repeated, rows[:, 0] // UNITS, -1)], 0)
        elements = np.rint(values[rows[:, 1]]) * times
        exported = np.rint(values[rows[:, 3]]) * times
        return int(elements[rows[:, 2] == 1].sum()), int(elements.sum()), int(exported.sum())


def _spans(
    score: Score, sources: tuple[_Indices, _Indices], step: int, offset: int, operators: int
) -> list[Span]:
    """Return a step's spans; `sources` are the events and operators that those of the whole repeat."""
    spans = []
    for micro_batch, phase, event, operator in score.spans.tolist():
        at = offset + int((sources[0] < event).sum())
        done = operators + int((sources[1] < operator).sum())
        spans.append(Span(step, micro_batch, Phase(phase), at, done))
    return spans
