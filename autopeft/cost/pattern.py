"""Pattern: a training run of few layers, with sizes that are formulas; `cost/expand.py` makes tapes of it.

A pattern has three scores: what building the model leaves behind, the first step, and every later
step. A score is a list of events on its own blocks, on those of the step before, and on those that
were built. A block's size is a polynomial of rows, length, rank and depth (see `MONOMIALS`).
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from dataclasses import dataclass, field, fields
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autopeft.cost.tape import Target

PATTERN_FORMAT = 3
"""Rises with what patterns look like on disk."""
OWN, BEFORE, BUILT = 0, 1, 2
"""Whose block an event names: its own score's, the step before's, or the building's."""
NO_UNIT = -1
UNITS = 4
"""Unit `u` of run `k` has the code `UNITS * k + u`; unit 1 stands for all units between first and last."""
_ROUNDED = (1, 8, 32, 64, 128)
_LENGTH = struct.Struct("<I")
# What struct, numpy, zlib and json raise on bytes that are no pattern.
_DAMAGE = (*(ArithmeticError, AttributeError, LookupError, TypeError, ValueError), struct.error, zlib.error)
_SCALES = tuple(product((0, 1), (0, 1)))


def _lengths(length: int) -> list[float]:
    return [float(-(-length // to) * to) for to in _ROUNDED]


def monomials(rows: int, length: int, rank: int, depth: int) -> NDArray[np.float64]:
    """Return the values of all monomials: shapes times powers of rank and depth.

    Shapes are 1, rows, each rounding of the length, products of two of them, and those times rows; the
    roundings (to 8, 32, 64 and 128) are those of attention kernels.
    """
    lengths = _lengths(length)
    squares = [a * b for place, a in enumerate(lengths) for b in lengths[place:]]
    shapes = [1.0, *lengths, *squares]
    shapes += [rows * shape for shape in shapes]
    return np.array([shape * rank**r * depth**d for r, d in _SCALES for shape in shapes])


def monomial_degrees() -> NDArray[np.int64]:
    """Return how complicated each monomial is, in the order of `monomials`."""
    lengths = [10 if place == 0 else 11 + place for place in range(len(_ROUNDED))]
    squares = [a + b for place, a in enumerate(lengths) for b in lengths[place:]]
    shapes = [0, *lengths, *squares]
    shapes += [10 + shape for shape in shapes]
    return np.array([shape + 10 * r + 20 * d for r, d in _SCALES for shape in shapes])


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run of like units of layers: `copies` is how often its second unit is to be repeated."""

    units: int
    copies: int


@dataclass(frozen=True, kw_only=True)
class Score:
    """Events and blocks of the building or of one step.

    Attributes:
        block_unit: unit in which each block is born, or `NO_UNIT`.
        block_twin: the block of the same run's second unit that plays its part; -1 where there is none.
        block_size: index into the pattern's formulas.
        block_category: `Category`.
        events: block, or `~block` for its death; `frames` say whose block it is.
        event_unit: unit that is at work.
        spans: (micro-batch, phase, first event, first operator) of each phase.
        operators: index into the pattern's kinds of operator; their units, and the formulas of their
            floating-point operations and bytes.
    """

    block_unit: NDArray[np.int32]
    block_twin: NDArray[np.int32]
    block_size: NDArray[np.int32]
    block_category: NDArray[np.int8]
    events: NDArray[np.int32]
    frames: NDArray[np.int8]
    event_unit: NDArray[np.int32]
    spans: NDArray[np.int32]
    operators: NDArray[np.int32]
    operator_unit: NDArray[np.int32]
    operator_flops: NDArray[np.int32]
    operator_bytes: NDArray[np.int32]


SCORES = ("built", "first", "later")


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """What one trace request found.

    Attributes:
        runs: runs of units, in the order of their codes.
        depth: layers of the whole model.
        added: tokens that the method adds to each row; formulas are of the sum.
        first_of_later: for each block of `later`, the block of `first` that plays its part; -1: none.
        formula_terms, formula_values: rows of (monomial, coefficient) pairs; unused ones are zero.
        parameters: numbers of (trainable, all, exported bytes) as rows of (formula, unit).
        operator_kinds: (name, dtype, kind) of each kind of operator.
        general: whether it serves other rows, lengths and ranks than those it was traced at.
    """

    target: Target
    general: bool
    micro_batches: int
    depth: int
    added: int
    guesses: tuple[str, ...]
    runs: tuple[Run, ...]
    built: Score
    first: Score
    later: Score
    first_of_later: NDArray[np.int32]
    formula_terms: NDArray[np.int16]
    formula_values: NDArray[np.float64]
    parameters: NDArray[np.int32]
    operator_kinds: tuple[tuple[str, str, int], ...]
    versions: dict[str, str] = field(default_factory=dict)

    def evaluate(self, rows: int, length: int, rank: int, depth: int) -> NDArray[np.float64]:
        """Return the value of every formula."""
        values: NDArray[np.float64] = (
            monomials(rows, length + self.added, rank, depth)[self.formula_terms] * self.formula_values
        ).sum(axis=1)
        return values

    def to_bytes(self) -> bytes:
        """Pack the pattern: all arrays in one compressed piece, behind a head that says what they are."""
        arrays: dict[str, NDArray[Any]] = {}
        head: dict[str, Any] = {"format": PATTERN_FORMAT}
        for part in fields(self):
            value = getattr(self, part.name)
            if isinstance(value, Score):
                arrays |= {f"{part.name}.{each.name}": getattr(value, each.name) for each in fields(value)}
                arrays[f"{part.name}.events"] = _as_distances(value.events)
            elif isinstance(value, np.ndarray):
                arrays[part.name] = value
            elif part.name == "runs":
                head["runs"] = [(run.units, run.copies) for run in value]
            else:
                head[part.name] = value
        head["arrays"] = [(name, each.dtype.str, each.shape) for name, each in arrays.items()]
        words = json.dumps(head).encode()
        pieces = [_LENGTH.pack(len(words)), words, *(each.tobytes() for each in arrays.values())]
        return zlib.compress(b"".join(pieces), 9)

    @classmethod
    def from_bytes(cls, data: bytes) -> Pattern:
        """Unpack what `to_bytes` packed.

        Raises:
            ValueError: the bytes hold no pattern of this format.
        """
        try:
            whole = zlib.decompress(data)
            at = _LENGTH.size + _LENGTH.unpack_from(whole)[0]
            head: dict[str, Any] = json.loads(whole[_LENGTH.size : at])
            if head.pop("format") != PATTERN_FORMAT:
                raise ValueError("a pattern of another format")
            arrays: dict[str, NDArray[Any]] = {}
            for name, kind, shape in head.pop("arrays"):
                arrays[name] = np.frombuffer(whole, kind, math.prod(shape), at).reshape(shape)
                at += arrays[name].nbytes
            head["runs"] = tuple(Run(units=units, copies=copies) for units, copies in head["runs"])
            head["guesses"] = tuple(head["guesses"])
            head["operator_kinds"] = tuple((*each,) for each in head["operator_kinds"])
            for score in SCORES:
                parts = {each.name: arrays.pop(f"{score}.{each.name}") for each in fields(Score)}
                head[score] = Score(**parts | {"events": _as_blocks(parts["events"])})
            return cls(**{**head, **arrays})
        except _DAMAGE as error:
            raise ValueError(f"no pattern: {error}") from None


def _as_distances(events: NDArray[np.int32]) -> NDArray[np.int32]:
    """Name each event's block by how far it is from the youngest; such numbers repeat, and pack well."""
    births = events >= 0
    youngest: NDArray[np.int64] = np.cumsum(births) - births
    return (2 * (np.where(births, events, np.invert(events)) - youngest) + ~births).astype(np.int32)


def _as_blocks(distances: NDArray[np.int32]) -> NDArray[np.int32]:
    """Undo `_as_distances`."""
    births = distances % 2 == 0
    blocks = (distances >> 1) + np.cumsum(births) - births
    found: NDArray[np.int32] = np.where(births, blocks, np.invert(blocks)).astype(np.int32)
    return found
