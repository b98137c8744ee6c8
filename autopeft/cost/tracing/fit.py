"""Fit: takes of few layers and a few shapes in, one pattern out, or the reason why there is none.

Nothing is approximated: sizes must obey their formulas at every shape that was recorded, steps must be
alike, and the pattern, expanded to the depth of a second take, must equal it event for event.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from autopeft.cost.expand import Expansion, NotAlikeError, unfold
from autopeft.cost.pattern import (
    BEFORE,
    BUILT,
    OWN,
    Pattern,
    Score,
    monomials,
)
from autopeft.cost.tape import Phase
from autopeft.cost.tracing.depth import Run as DepthRun
from autopeft.cost.tracing.formulas import Formulas
from autopeft.cost.tracing.parts import (
    Part,
    Units,
    built_part,
    keys_of,
    mates_of,
    require_alike,
    step_part,
    twins_of,
)
from autopeft.cost.tracing.request import versions
from autopeft.cost.tracing.take import Take

_TERMS = 3


class Takes(NamedTuple):
    """What was recorded for one pattern.

    Attributes:
        shallow: first step, the same shape again, then other shapes (three steps at least).
        deeper: first and second step of a model with one unit more in every run that repeats.
        ranked: first and second step at another rank.
        runs: runs of each stack of `shallow`; None: it has all layers of the model.
    """

    shallow: Take
    deeper: Take | None
    ranked: Take | None
    runs: tuple[tuple[DepthRun, ...], ...] | None


def fit(takes: Takes, *, general: bool) -> Pattern:
    """Make a pattern of takes.

    Raises:
        NotAlikeError: layers, steps or shapes are not alike.
    """
    shallow = takes.shallow
    units = Units(takes.runs, shallow)
    first, second, later = (step_part(shallow, step, units) for step in (0, 1, 2))
    require_alike(second, later)
    mates = mates_of(second, later)
    count = max(span.step for span in shallow.spans)
    others = [step_part(shallow, step, units) for step in range(3, count + 1)]
    for other in others:
        require_alike(later, other, same_before=True)
    built = built_part(shallow, units)
    table = _Table(takes)
    scores = {
        "built": _score(built, shallow, -1),
        "first": _score(first, shallow, 0),
        "later": _score(later, shallow, 2, units),
    }
    kinds: dict[tuple[str, str, int], int] = {}
    ops = shallow.operators[shallow.cut(2).operators]
    chosen = [kinds.setdefault((name, dtype, kind), len(kinds)) for name, _, _, dtype, kind in ops]
    scores["later"] = replace(scores["later"], operators=np.array(chosen, dtype=np.int32))
    draft = Pattern(
        target=shallow.job.target,
        general=general,
        micro_batches=1 + max(span.micro_batch for span in shallow.spans),
        depth=units.depth,
        added=shallow.job.added,
        guesses=tuple(dict.fromkeys(g for take in table.takes for g in take.guesses)),
        runs=units.runs,
        **scores,
        first_of_later=mates,
        formula_terms=np.zeros((0, _TERMS), dtype=np.int16),
        formula_values=np.zeros((0, _TERMS)),
        parameters=np.zeros((0, 4), dtype=np.int32),
        operator_kinds=tuple(kinds),
        versions=versions(),
    )
    return _with_sizes(draft, takes, table, (built, first, later), [second, later, *others])


def _score(part: Part, take: Take, step: int, units: Units | None = None) -> Score:
    none = np.zeros(0, dtype=np.int32)
    work = none
    if units is not None:
        work = units.of(take.operator_layer[take.cut(step).operators])
    return Score(
        block_unit=part.block_unit,
        block_twin=twins_of(part),
        block_size=np.zeros(len(part.blocks), dtype=np.int32),
        block_category=take.categories[part.blocks],
        events=part.events,
        frames=part.frames,
        event_unit=part.event_unit,
        spans=part.spans,
        operators=none,
        operator_unit=work,
        operator_flops=none,
        operator_bytes=none,
    )


class _Table:
    """The takes of a pattern with the monomials at each of their steps."""

    def __init__(self, takes: Takes) -> None:
        self.takes = [take for take in (takes.shallow, takes.deeper, takes.ranked) if take is not None]

    def point(self, take: Take, step: int) -> NDArray[np.float64]:
        rows, length = take.job.shapes[step]
        return monomials(rows, length + take.job.added, take.job.candidate.rank or 1, sum(take.depths))


def _with_sizes(
    draft: Pattern, takes: Takes, table: _Table, parts: tuple[Part, Part, Part], steps: list[Part]
) -> Pattern:
    built, first, later = parts
    shallow, deeper, ranked = takes.shallow, takes.deeper, takes.ranked
    found: dict[tuple[tuple[int, float], ...], int] = {((0, 0.0),): 0}
    unit_of = Units(takes.runs, shallow)
    parameter_units = unit_of.of(np.array([each.layer for each in shallow.parameters], dtype=np.int32))
    more = [_deeper_values(draft, deeper, parameter_units)] if deeper is not None else []
    points = [table.point(shallow, step) for step in range(1, 1 + len(steps))]
    still = [table.point(shallow, 0)]
    if deeper is not None:
        points.append(table.point(deeper, 1))
        still.append(table.point(deeper, 0))
    ranks = []
    if ranked is not None:
        points.append(table.point(ranked, 1))
        still.append(table.point(ranked, 0))
        ranks.append(_ranked_values(draft, ranked, takes))
    formulas = Formulas(points, found)
    sizes = [shallow.sizes[step.blocks] for step in steps] + [each["later"] for each in (*more, *ranks)]
    later_sizes = np.array([formulas.of(row) for row in np.array(sizes).T.tolist()], dtype=np.int32)
    flops, moved = [], []
    work = [shallow.operators[shallow.cut(1 + place).operators] for place in range(len(steps))]
    more_work = [each["operators"] for each in (*more, *ranks)]
    for place, _ in enumerate(work[0]):
        values = [ops[place] for ops in (*work, *more_work)]
        flops.append(formulas.of([value[1] for value in values], exact=False))
        moved.append(formulas.of([value[2] for value in values], exact=False))
    plain = Formulas(still, found)
    built_sizes = [shallow.sizes[built.blocks]] + [each["built"] for each in (*more, *ranks)]
    built_numbers = np.array([plain.of(row) for row in np.array(built_sizes).T.tolist()], dtype=np.int32)
    first_sizes = np.array([shallow.sizes[first.blocks]] + [each["first"] for each in (*more, *ranks)]).T
    shared = _shared(first, later, first_sizes, np.array(sizes), later_sizes, len(steps))
    first_numbers = np.array(
        [
            shared[place] if shared[place] >= 0 else plain.of(row)
            for place, row in enumerate(first_sizes.tolist())
        ],
        dtype=np.int32,
    )
    columns = [shallow.parameters] + [each["parameters"] for each in (*more, *ranks)]
    parameters = []
    for code, row in zip(parameter_units.tolist(), zip(*columns, strict=True), strict=True):
        elements = plain.of([each.elements for each in row])
        parameters.append((code, elements, int(row[0].trained), plain.of([each.exported for each in row])))
    terms = np.zeros((len(found), _TERMS), dtype=np.int16)
    values_of = np.zeros((len(found), _TERMS))
    for combination, number in found.items():
        for place, (monomial, coefficient) in enumerate(combination):
            terms[number, place], values_of[number, place] = monomial, coefficient
    return replace(
        draft,
        built=replace(draft.built, block_size=built_numbers),
        first=replace(draft.first, block_size=first_numbers),
        later=replace(
            draft.later,
            block_size=later_sizes,
            operator_flops=np.array(flops, dtype=np.int32),
            operator_bytes=np.array(moved, dtype=np.int32),
        ),
        formula_terms=terms,
        formula_values=values_of,
        parameters=np.array(parameters, dtype=np.int32).reshape(-1, 4),
    )


def _shared(
    first: Part,
    later: Part,
    first_sizes: NDArray[np.int64],
    later_values: NDArray[np.int64],
    later_numbers: NDArray[np.int32],
    steps: int,
) -> list[int]:
    """Give blocks of the first step's forward and backward the formulas of their likes in later steps."""
    by_key = {key: number for number, key in enumerate(keys_of(later))}
    same_points = [0, *range(steps, len(later_values))]
    alike = later_values[same_points].T
    by_size: dict[tuple[int, ...], int] = {}
    for number, row in enumerate(alike.tolist()):
        by_size.setdefault(tuple(row), number)
    shared = []
    for place, key in enumerate(keys_of(first)):
        phase = int(first.spans[key[1], 1])
        mate = by_key.get(key, -1)
        sizes = tuple(first_sizes[place].tolist())
        if phase == Phase.OPTIMIZER:
            shared.append(-1)
        elif mate >= 0 and tuple(alike[mate].tolist()) == sizes:
            shared.append(int(later_numbers[mate]))
        else:
            number = by_size.get(sizes, -1)
            shared.append(int(later_numbers[number]) if number >= 0 else -1)
    return shared


def _deeper_values(draft: Pattern, deeper: Take, parameter_units: NDArray[np.int32]) -> dict[str, Any]:
    """Expand the draft to the depth of a second take, compare, and give each block's size there.

    Raises:
        NotAlikeError: the expansion is not what was traced.
    """
    copies = [1 if run.copies else 0 for run in draft.runs]
    whole = Expansion(draft, copies, sum(deeper.depths))
    free = Units(None, deeper)
    parts = {
        "built": built_part(deeper, free),
        "first": step_part(deeper, 0, free),
        "later": step_part(deeper, 1, free),
    }
    values: dict[str, Any] = {}
    for name, part in parts.items():
        mine = getattr(whole, name)
        if len(mine.origin) != len(part.blocks):
            raise NotAlikeError(
                f"{name}: another depth has {len(part.blocks)} blocks, not {len(mine.origin)}"
            )
        if name != "built":
            _compare(whole, name, part)
        sizes = deeper.sizes[part.blocks]
        columns = np.zeros(len(getattr(draft, name).block_unit), dtype=np.int64)
        columns[mine.origin] = sizes
        if not np.array_equal(columns[mine.origin], sizes):
            raise NotAlikeError(f"{name}: blocks of like layers differ in size")
        values[name] = columns
    source, _ = whole._operator_source
    ops = deeper.operators[deeper.cut(1).operators]
    if len(source) != len(ops):
        raise NotAlikeError(f"another depth has {len(ops)} operators, not {len(source)}")
    values["operators"] = [ops[place] for place in _firsts(source, len(draft.later.operator_unit))]
    source, _ = unfold(parameter_units, copies)
    if len(source) != len(deeper.parameters):
        raise NotAlikeError("another depth has other parameters")
    values["parameters"] = [deeper.parameters[place] for place in _firsts(source, len(parameter_units))]
    return values


def _compare(whole: Expansion, name: str, part: Part) -> None:
    events, frames = whole.events_of(0 if name == "first" else 1)
    if len(events) != len(part.events) or not np.array_equal(frames, part.frames):
        raise NotAlikeError(f"{name}: another depth does other things")
    own = frames == OWN
    if not np.array_equal(events[own], part.events[own]):
        raise NotAlikeError(f"{name}: another depth frees in another order")
    built = frames == BUILT
    if not np.array_equal(events[built], part.events[built]):
        raise NotAlikeError(f"{name}: another depth frees other things that were built")
    if name == "later":
        before = frames == BEFORE
        mapped = np.invert(whole._before_first[np.invert(events[before])])
        if not np.array_equal(mapped, part.events[before]):
            raise NotAlikeError("later: another depth frees other things of the step before")


def _firsts(source: NDArray[np.int64], count: int) -> list[int]:
    """Return for each of `count` sources where it occurs first."""
    places = np.full(count, -1, dtype=np.int64)
    places[source[::-1]] = np.arange(len(source))[::-1]
    return places.tolist()


def _ranked_values(draft: Pattern, ranked: Take, takes: Takes) -> dict[str, Any]:
    """Compare a take at another rank and give each block's size there.

    Raises:
        NotAlikeError: another rank does other things.
    """
    units = Units(takes.runs, ranked)
    built, first, later = built_part(ranked, units), step_part(ranked, 0, units), step_part(ranked, 1, units)
    for name, part in (("first", first), ("later", later)):
        score: Score = getattr(draft, name)
        own = score.frames == OWN
        if len(part.events) != len(score.events) or not np.array_equal(part.events[own], score.events[own]):
            raise NotAlikeError(f"{name}: another rank does other things")
    if len(built.blocks) != len(draft.built.block_unit):
        raise NotAlikeError("another rank builds other things")
    ops = ranked.operators[ranked.cut(1).operators]
    if len(ops) != len(draft.later.operator_unit):
        raise NotAlikeError("another rank has other operators")
    return {
        "built": ranked.sizes[built.blocks],
        "first": ranked.sizes[first.blocks],
        "later": ranked.sizes[later.blocks],
        "operators": ops,
        "parameters": list(ranked.parameters),
    }
