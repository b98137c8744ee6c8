"""Parts: a step of a take with its own numbers for blocks, and units of layers in place of layers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from autopeft.cost.expand import NotAlikeError
from autopeft.cost.pattern import BEFORE, BUILT, NO_UNIT, OWN, UNITS, Run
from autopeft.cost.tape import Phase
from autopeft.cost.tracing.depth import Run as DepthRun
from autopeft.cost.tracing.layers import STACK
from autopeft.cost.tracing.take import Take


class Part(NamedTuple):
    """A step of a take with its own numbers for blocks."""

    blocks: NDArray[np.int64]
    events: NDArray[np.int32]
    frames: NDArray[np.int8]
    event_unit: NDArray[np.int32]
    block_unit: NDArray[np.int32]
    block_span: NDArray[np.int32]
    spans: NDArray[np.int32]


class Units:
    """Turns a take's layers into units of runs."""

    def __init__(self, runs: tuple[tuple[DepthRun, ...], ...] | None, take: Take) -> None:
        whole = runs or ()
        self.runs = tuple(Run(units=run.traced, copies=run.copies) for stack in whole for run in stack)
        self.table: dict[int, int] = {}
        self.depth = sum(take.depths)
        if runs is None:
            return
        short = tuple(sum(run.period * run.traced for run in stack) for stack in runs)
        if short != take.depths:
            raise NotAlikeError(f"the model has stacks of {take.depths} layers, not of {short}")
        self.depth = sum(run.period * run.units for stack in runs for run in stack)
        number = 0
        for place, stack in enumerate(runs):
            for run in stack:
                for unit in range(run.traced):
                    for layer in range(run.period):
                        code = UNITS * number + unit if run.copies else NO_UNIT
                        self.table[STACK * place + run.start + unit * run.period + layer] = code
                number += 1

    def of(self, layers: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the unit of each layer; `NO_UNIT` outside the layers that repeat."""
        unique, inverse = np.unique(layers, return_inverse=True)
        codes = np.array([self.table.get(int(layer), NO_UNIT) for layer in unique], dtype=np.int32)
        return codes[inverse] if len(layers) else np.zeros(0, dtype=np.int32)


def survivors(take: Take) -> NDArray[np.int64]:
    """Return the blocks that building leaves behind, in the order of their birth."""
    first = take.spans[take.bounds(0)[0]].event
    events = take.events[:first].astype(np.int64)
    born = events[events >= 0]
    return born[~np.isin(born, np.invert(events[events < 0]))]


def built_part(take: Take, units: Units) -> Part:
    """Return what building leaves behind."""
    blocks = survivors(take)
    unit = units.of(take.block_layer[blocks])
    numbers = np.arange(len(blocks), dtype=np.int32)
    zeros = np.zeros(len(blocks), dtype=np.int32)
    spans = np.array([[0, int(Phase.BUILD), 0, 0]], dtype=np.int32)
    return Part(blocks, numbers, zeros.astype(np.int8), unit, unit, zeros, spans)


def step_part(take: Take, step: int, units: Units) -> Part:
    """Return one step.

    Raises:
        NotAlikeError: it frees what no pattern can name.
    """
    cut = take.cut(step)
    events = take.events[cut.events].astype(np.int64)
    births = events[events >= 0]
    named = np.where(events >= 0, events, np.invert(events))
    start = int(births[0]) if len(births) else len(take.sizes)
    if len(births) and not np.array_equal(births, np.arange(start, start + len(births))):
        raise NotAlikeError("blocks are not numbered in the order of their birth")
    remaining = survivors(take)
    frames = np.full(len(events), OWN, dtype=np.int8)
    local = named - start
    old = named < start
    place = np.searchsorted(remaining, named)
    is_built = old & (place < len(remaining)) & (remaining[np.minimum(place, len(remaining) - 1)] == named)
    frames[is_built] = BUILT
    local[is_built] = place[is_built]
    older = old & ~is_built
    if np.any(older):
        before = take.events[take.cut(step - 1).events] if step else np.zeros(0, dtype=np.int32)
        begun = int(before[before >= 0][0]) if np.any(before >= 0) else start
        if np.any(named[older] < begun):
            raise NotAlikeError("a step frees what is older than the step before it")
        frames[older] = BEFORE
        local[older] = named[older] - begun
    if step > 0 and np.any(is_built):
        raise NotAlikeError("a later step frees what was built")
    spans = [
        (
            span.micro_batch,
            int(span.phase),
            span.event - cut.events.start,
            span.operator - cut.operators.start,
        )
        for span in cut.spans
    ]
    table = np.array(spans, dtype=np.int32)
    at = np.flatnonzero(events >= 0)
    event_unit = units.of(take.event_layer[cut.events])
    block_span = np.searchsorted(table[:, 2], at, side="right") - 1
    coded = np.where(events >= 0, local, np.invert(local)).astype(np.int32)
    return Part(births, coded, frames, event_unit, event_unit[at], block_span.astype(np.int32), table)


def require_alike(one: Part, other: Part, *, same_before: bool = False) -> None:
    """Check that two steps do the same things.

    Args:
        same_before: the steps before them are alike too, so that their blocks have the same numbers.

    Raises:
        NotAlikeError: they do not.
    """
    shapes = len(one.events) == len(other.events) and np.array_equal(one.spans[:, :2], other.spans[:, :2])
    if not shapes or not np.array_equal(one.frames, other.frames):
        raise NotAlikeError("steps of other shapes do other things")
    mine = (one.frames == OWN) | same_before
    if not np.array_equal(one.events[mine], other.events[mine]) or not np.array_equal(
        one.event_unit, other.event_unit
    ):
        raise NotAlikeError("steps of other shapes do other things")


def mates_of(second: Part, later: Part) -> NDArray[np.int32]:
    """Find which block of the first step each freed block of a later step's predecessor stands for."""
    mates = np.full(len(later.blocks), -1, dtype=np.int32)
    chosen = later.frames == BEFORE
    mates[np.invert(later.events[chosen])] = np.invert(second.events[chosen])
    return mates


def keys_of(part: Part) -> list[tuple[int, int, int]]:
    """Name each block by its unit, span, and place among those of the same unit and span."""
    counts: dict[tuple[int, int], int] = {}
    keys = []
    for unit, span in zip(part.block_unit.tolist(), part.block_span.tolist(), strict=True):
        place = counts.get((unit, span), 0)
        counts[unit, span] = place + 1
        keys.append((unit, span, place))
    return keys


def twins_of(part: Part) -> NDArray[np.int32]:
    """Find the block of each run's second unit that plays a block's part; -1 where there is none."""
    keys = keys_of(part)
    numbers = {key: number for number, key in enumerate(keys)}
    return np.array(
        [
            numbers.get((unit // UNITS * UNITS + 1, span, place), -1) if unit >= 0 else -1
            for unit, span, place in keys
        ],
        dtype=np.int32,
    )
