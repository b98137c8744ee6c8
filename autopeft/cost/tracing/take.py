"""Take: what one recording holds, before it is made into a pattern."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from autopeft.cost.loops import Loop
from autopeft.cost.tape import Span, Target
from autopeft.cost.tracing.request import added_tokens
from autopeft.methods.heads import head_family
from autopeft.space.candidate import Candidate
from autopeft.workload.base_model import BaseModel, Family
from autopeft.workload.dataset import Task


class Job(NamedTuple):
    """One recording to make: `shapes` are the (rows, length) of its steps.

    `target_length` is that of what an encoder-decoder writes; None: as long as what it reads.
    """

    base: BaseModel
    candidate: Candidate
    task: Task
    labels: int
    target: Target
    padded: bool
    loop: Loop
    shapes: tuple[tuple[int, int], ...]
    target_length: int | None = None

    @property
    def kind(self) -> Family:
        """The family whose heads and batches the model takes."""
        return head_family(self.base.family, self.base.config.get("model_type", ""))

    @property
    def added(self) -> int:
        """How many tokens the method adds to each row."""
        return added_tokens(self.candidate)

    @property
    def packed(self) -> bool:
        """Whether rows of several documents become one long row; flash attention never sees a mask of it."""
        training = self.candidate.training
        return training.packing and training.attention != "flash"

    @property
    def reads_values(self) -> bool:
        """Whether the model looks for tokens in its input: ends of text, places of images."""
        return self.kind in ("encoder-decoder", "multimodal")


class Parameter(NamedTuple):
    """One parameter: its layer, elements, whether it is trained, and its bytes in the exported file."""

    layer: int
    elements: int
    trained: bool
    exported: int


@dataclass(frozen=True, kw_only=True)
class Take:
    """Blocks, events and operators in the order of one recording; layers are numbers of `layers.py`.

    Attributes:
        events: block, or `~block` for its death.
        operators: (name, floating-point operations, bytes, dtype, kind) of each.
        depths: layers of each stack.
    """

    job: Job
    spans: tuple[Span, ...]
    guesses: tuple[str, ...]
    sizes: NDArray[np.int64]
    categories: NDArray[np.int8]
    block_layer: NDArray[np.int32]
    events: NDArray[np.int32]
    event_layer: NDArray[np.int32]
    operators: list[tuple[str, float, float, str, int]]
    operator_layer: NDArray[np.int32]
    parameters: tuple[Parameter, ...]
    depths: tuple[int, ...]

    def bounds(self, step: int) -> tuple[int, int]:
        """Return the indices of the first span of a step and of the first after it (-1: building)."""
        steps = [span.step for span in self.spans]
        first = steps.index(step)
        return first, first + steps.count(step)

    def cut(self, step: int) -> Cut:
        """Return what belongs to one step."""
        first, after = self.bounds(step)
        ends = (len(self.events), len(self.operators))
        start = self.spans[first]
        stop = self.spans[after] if after < len(self.spans) else None
        return Cut(
            self.spans[first:after],
            slice(start.event, stop.event if stop else ends[0]),
            slice(start.operator, stop.operator if stop else ends[1]),
        )


class Cut(NamedTuple):
    """The part of a take that is one step."""

    spans: tuple[Span, ...]
    events: slice
    operators: slice
