"""From a tape to a MemoryEstimate: the peak, its parts, what the device shows, and a band."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from autopeft.cost.allocator import Replay, replay
from autopeft.cost.estimate import MemoryEstimate, MemoryParts
from autopeft.cost.loops import LOOPS, Loop
from autopeft.cost.tape import Category, Phase, Span, Tape
from autopeft.hardware.profile import HardwareProfile
from autopeft.units import MIB

PhaseName = Literal["build", "forward", "backward", "optimizer"]
# cuBLAS gets a workspace per thread that calls it: the main one in forward, autograd's in backward.
# Sizes of getChosenWorkspaceSize in aten/src/ATen/cuda/CublasHandlePool.cpp.
_WORKSPACE_BYTES = 4096 * 1024 * 2 + 16 * 1024 * 8
_WORKSPACE_BYTES_FROM_HOPPER = 32 * MIB
_FROM_HOPPER = ("H100", "H200", "GH200", "H20", "H800", "B100", "B200", "GB200", "B300")
# On a CPU glibc's heap keeps what is freed in it, in pieces that do not fit the next request, and it
# grows over the first hundreds of batches of varied length. Measured in whole trials (MiniLM and
# SmolLM2-135M, eight methods, batches of 4 and 16, glibc 2.36): beyond context and weights a process
# held 1.6 to 3.0 times what its tensors do. With every tensor mapped on its own
# (MALLOC_MMAP_THRESHOLD_=65536) the excess vanishes, but training took 16 to 33 % longer. Tensors
# above the largest threshold are always mapped, and go back when freed.
_RETAINED_SHARE = 1.3
_LEAST_RETAINED, _MOST_RETAINED = 0.3, 2.0
_ALWAYS_MAPPED_BYTES = 32 * MIB
# What no tensor explains: the tokenizer, kernels of shapes that no tiny model has. Processes that train
# models of a few MiB held 20 to 48 MiB more than what was predicted (experiments/014-memory-limit).
_UNEXPLAINED_BYTES, _MOST_UNEXPLAINED_BYTES = 20 * MIB, 48 * MIB
# Where long rows make tensors that are mapped, shorter rows make some that just are not, and the heap keeps
# a few of these.
_KEPT_OF_SHORTER_ROWS = 3
# Batches of other lengths than the replayed ones leave other holes.
_FRAGMENTED = 0.04
_PART_OF = {
    Category.WEIGHTS: "weights",
    Category.ADAPTER: "adapter",
    Category.GRADIENTS: "gradients",
    Category.OPTIMIZER: "optimizer",
    Category.SAVED: "activations",
    Category.TEMPORARY: "temporary",
    Category.LOGITS: "logits",
    Category.OTHER: "other",
    Category.QUANTIZATION: "quantization",
}

_PASSING = np.isin(list(Category), (Category.SAVED, Category.TEMPORARY, Category.LOGITS, Category.OTHER))

_LASTING = np.isin(
    list(Category), (Category.WEIGHTS, Category.ADAPTER, Category.OPTIMIZER, Category.QUANTIZATION)
)

_PHASE_NAMES: dict[Phase, PhaseName] = {
    Phase.BUILD: "build",
    Phase.FORWARD: "forward",
    Phase.BACKWARD: "backward",
    Phase.OPTIMIZER: "optimizer",
}


@dataclass(frozen=True)
class Peak:
    """The moment at which most bytes are allocated.

    `heap_bytes` are those in blocks that come from the host's heap and go back to it in every step: no
    weights, no states of the optimizer, nothing above 32 MiB. `mapped`: whether there is something
    above that.
    """

    allocated_bytes: int
    heap_bytes: int
    mapped: bool
    phase: Phase
    parts: MemoryParts


def allocated_peak(tape: Tape) -> Peak:
    """Find the peak of requested bytes in the traced steps and what held them.

    Working copies of the optimizer count as optimizer; what the step before made and left, other than
    its state, as kept.
    """
    births = tape.events >= 0
    blocks = np.maximum(tape.events, np.invert(tape.events))
    requested = tape.block_bytes[blocks]
    level = np.cumsum(np.where(births, requested, -requested))
    # Building happens before: what it holds for a moment is another matter, see `estimate_memory`.
    first = tape.spans[1].event
    at = first - 1 + int(np.argmax(level[first - 1 :]))
    alive = np.zeros(len(tape.block_bytes), dtype=bool)
    # Of a block that is born and dies the death comes last, and the last assignment counts.
    alive[blocks[: at + 1]] = births[: at + 1]
    born = np.flatnonzero(births[: at + 1])
    born = born[alive[blocks[born]]]
    held = blocks[born]
    size, kind = tape.block_bytes[held], tape.block_category[held]
    span = _span_at(tape, at)
    sizes = dict.fromkeys(MemoryParts.model_fields, 0)
    begun = next((each.event for each in tape.spans if each.step == span.step), 0)
    left = _PASSING[kind] & (born >= first) & (born < begun)
    sizes["kept"] = int(size[left].sum())
    for category, name in _PART_OF.items():
        of_it = ~left & (kind == category)
        if category is Category.TEMPORARY and span.phase is Phase.OPTIMIZER:
            late = of_it & (born >= span.event)
            sizes["optimizer"] += int(size[late].sum())
            of_it &= ~late
        sizes[name] += int(size[of_it].sum())
    small, passing = size <= _ALWAYS_MAPPED_BYTES, ~_LASTING[kind]
    return Peak(
        allocated_bytes=int(level[at]),
        heap_bytes=int(size[small & passing].sum()),
        mapped=bool((~small & passing).any()),
        phase=span.phase,
        parts=MemoryParts(**sizes),
    )


def replayed(
    tape: Tape,
    loop: Loop = LOOPS["autopeft"],
    workspace_bytes: int = _WORKSPACE_BYTES,
    *,
    unfragmented: bool = False,
) -> Replay:
    """Replay the caching allocator over the tape.

    The model is built on the host and moved over as a whole, so of its building only what is left
    at the end is replayed. A loop that empties its cache now and then does so before the longest batch.

    Args:
        tape: what was traced.
        loop: what happens around the steps.
        workspace_bytes: size of one cuBLAS workspace.
        unfragmented: give free segments back before each step, so that steps of other lengths leave
            nothing in the way.
    """
    sizes, events, empties = stream(tape, loop, workspace_bytes, unfragmented=unfragmented)
    return replay(sizes, events, empty_cache_at=empties)


def stream(
    tape: Tape, loop: Loop, workspace_bytes: int = _WORKSPACE_BYTES, *, unfragmented: bool = False
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
    """Return sizes and events as the device's allocator sees them, and where its cache is emptied."""
    count = len(tape.block_bytes)
    weights = int(tape.block_bytes[tape.block_category == Category.WEIGHTS].sum())
    sizes = np.append(tape.block_bytes, [workspace_bytes, workspace_bytes, weights])
    spans = tape.spans
    forward = spans[1].event
    ends = len(tape.events)
    backward = next((span.event for span in spans if span.phase is Phase.BACKWARD), ends)
    built = tape.events[:forward]
    gone = np.isin(built, np.invert(built[built < 0]))
    kept = built[(built >= 0) & ~gone]
    warm = np.array([count + 2, ~(count + 2)] if loop.warms_allocator else [], dtype=np.int32)
    head = np.concatenate((warm, kept, np.array([count], dtype=np.int32)))
    middle = np.array([count + 1] if backward < ends else [], dtype=np.int32)
    events = np.concatenate((head, tape.events[forward:backward], middle, tape.events[backward:]))
    starts = [span.event for span in spans if span.phase is Phase.FORWARD and span.micro_batch == 0]
    if loop.empties_cache_every:
        longest = max(tape.lengths)
        starts = [starts[place] for place, length in enumerate(tape.lengths) if length == longest]
    elif not unfragmented:
        starts = []
    places = np.array(starts, dtype=np.int64)
    return sizes, events.astype(np.int32), places - forward + len(head) + (places >= backward)


def estimate_memory(
    tape: Tape,
    profile: HardwareProfile,
    loop: Loop = LOOPS["autopeft"],
    *,
    guesses: int = 0,
    padding_bytes: int = 0,
) -> MemoryEstimate:
    """Turn a tape into what the device will show at its fullest, with a band.

    Args:
        tape: what was traced.
        profile: the device.
        loop: what happens around the steps.
        guesses: how many things had to be assumed; each widens the band.
        padding_bytes: what padding would add if there were some; the band reaches up to there.
    """
    peak = allocated_peak(tape)
    parts, allocated = peak.parts, peak.allocated_bytes
    if tape.target == "cpu":
        reserved = allocated
        device = profile.context_bytes + _UNEXPLAINED_BYTES + reserved
        device += int(_RETAINED_SHARE * peak.heap_bytes)
        below, above = _cpu_band(peak, varied=len(set(tape.lengths)) > 1)
    else:
        hopper = any(name in profile.device_name for name in _FROM_HOPPER)
        workspace = _WORKSPACE_BYTES_FROM_HOPPER if hopper else _WORKSPACE_BYTES
        taken = replayed(tape, loop, workspace)
        rounding = taken.peak_allocated_bytes - allocated
        parts = parts.model_copy(update={"other": parts.other + rounding})
        allocated, reserved = taken.peak_allocated_bytes, taken.peak_reserved_bytes
        device = profile.context_bytes + reserved
        plain = reserved
        if len(set(tape.lengths)) > 1:
            plain = replayed(tape, loop, workspace, unfragmented=True).peak_reserved_bytes
        below, above = _cuda_band(tape, loop, reserved, plain)
    guessed = int(0.05 * guesses * allocated)
    return MemoryEstimate(
        parts=parts,
        allocated_peak_bytes=allocated,
        reserved_peak_bytes=reserved,
        device_peak_bytes=device,
        low_bytes=device - below - guessed,
        high_bytes=device + above + guessed + padding_bytes,
        peak_phase=_PHASE_NAMES[peak.phase],
    )


def _cpu_band(peak: Peak, *, varied: bool) -> tuple[int, int]:
    """Return how many bytes below and above the estimate the truth may lie on a CPU.

    Ten steps retained 0.3 times the heap's tensors, whole trials 0.6 to 2.0 times (see
    `_RETAINED_SHARE`). Below also rows of the embedding that no batch touches, so that they are never
    read from the file.
    """
    spread = 0.05 * peak.allocated_bytes
    below = (_RETAINED_SHARE - _LEAST_RETAINED) * peak.heap_bytes + 0.1 * peak.parts.weights
    below += _UNEXPLAINED_BYTES
    above = (_MOST_RETAINED - _RETAINED_SHARE) * peak.heap_bytes
    above += _MOST_UNEXPLAINED_BYTES - _UNEXPLAINED_BYTES
    if varied and peak.mapped:
        above += _KEPT_OF_SHORTER_ROWS * _ALWAYS_MAPPED_BYTES
    return int(below + spread), int(above + spread)


def _cuda_band(tape: Tape, loop: Loop, reserved: int, unfragmented: int) -> tuple[int, int]:
    """Return how many bytes below and above the estimate the truth may lie on a GPU.

    Where lengths vary, the order of the batches decides how much fragmentation there is: below, none.
    """
    varied = _FRAGMENTED if len(set(tape.lengths)) > 1 else 0.0
    return max(0, reserved - unfragmented) + int(loop.below * reserved), int((loop.above + varied) * reserved)


def _span_at(tape: Tape, event: int) -> Span:
    starts = [span.event for span in tape.spans]
    return tape.spans[int(np.searchsorted(starts, event, side="right")) - 1]
