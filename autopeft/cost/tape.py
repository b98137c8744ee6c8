"""Tape: what one adapted model's training steps allocate, free and compute, in their order.

A tape is made by `cost/tracing` and read by the allocator replay and the roofline. It holds numbers
only, so it can be cached and sent between processes without executing anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Target = Literal["cpu", "cuda"]


class Category(IntEnum):
    """What a block of memory is for."""

    WEIGHTS = 0
    ADAPTER = 1
    GRADIENTS = 2
    OPTIMIZER = 3
    SAVED = 4  # born in forward and kept for backward
    TEMPORARY = 5  # born and dead within one phase
    LOGITS = 6  # as large as the model's output: logits, their copies and gradients
    OTHER = 7  # batches, and what the building of the model left behind
    QUANTIZATION = 8  # scales and tables of quantised weights


class Phase(IntEnum):
    """What the step is doing."""

    BUILD = 0
    FORWARD = 1
    BACKWARD = 2
    OPTIMIZER = 3


class Kind(IntEnum):
    """Which hardware unit or library an operator uses."""

    PLAIN = 0
    MATMUL = 1
    ATTENTION = 2
    LINALG = 3
    FFT = 4


class Span(NamedTuple):
    """A phase of a step: from `event` and `operator` (indices) to the next span's.

    `step` is -1 while the model is built.
    """

    step: int
    micro_batch: int
    phase: Phase
    event: int
    operator: int


@dataclass(frozen=True, kw_only=True)
class Tape:
    """Blocks, events, operators and spans of one trace.

    Attributes:
        rows: rows of a micro-batch.
        lengths: tokens of the rows in each traced step.
        micro_batches: micro-batches of each traced step.
        adapter_bytes: size of the exported weights.
        guesses: what the trace had to assume.
        block_bytes: requested size of each block of memory.
        block_category: `Category` of each block.
        events: in order; `block` allocates and `~block` frees it.
        operators: in order; index into `names`.
        operator_flops, operator_bytes: work and memory traffic of each operator.
        operator_dtype: index into `dtypes` of what it computes in.
        operator_kind: `Kind` of each operator.
    """

    target: Target
    rows: int
    lengths: tuple[int, ...]
    micro_batches: int
    trainable_params: int
    total_params: int
    adapter_bytes: int
    guesses: tuple[str, ...]
    spans: tuple[Span, ...]
    names: tuple[str, ...]
    dtypes: tuple[str, ...]
    block_bytes: NDArray[np.int64]
    block_category: NDArray[np.int8]
    events: NDArray[np.int32]
    operators: NDArray[np.int32]
    operator_flops: NDArray[np.float64]
    operator_bytes: NDArray[np.float64]
    operator_dtype: NDArray[np.int8]
    operator_kind: NDArray[np.int8]
    versions: dict[str, str] = field(default_factory=dict)

    def segments(self) -> Iterator[tuple[Span, slice, slice]]:
        """Yield every span with the slices of its events and of its operators."""
        ends = [*self.spans[1:], Span(0, 0, Phase.BUILD, len(self.events), len(self.operators))]
        for span, end in zip(self.spans, ends, strict=True):
            yield span, slice(span.event, end.event), slice(span.operator, end.operator)
