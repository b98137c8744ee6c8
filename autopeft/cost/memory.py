"""From a tape to a MemoryEstimate: the peak, its parts, what the device shows, and a band."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from autopeft.cost.allocator import CachingAllocator
from autopeft.cost.estimate import MemoryEstimate, MemoryParts
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
_PART_OF = {
    Category.WEIGHTS: "weights",
    Category.ADAPTER: "adapter",
    Category.GRADIENTS: "gradients",
    Category.OPTIMIZER: "optimizer",
    Category.SAVED: "activations",
    Category.TEMPORARY: "activations",
    Category.LOGITS: "activations",
    Category.OTHER: "other",
}

_PHASE_NAMES: dict[Phase, PhaseName] = {
    Phase.BUILD: "build",
    Phase.FORWARD: "forward",
    Phase.BACKWARD: "backward",
    Phase.OPTIMIZER: "optimizer",
}


@dataclass(frozen=True)
class Peak:
    """The moment at which most bytes are allocated.

    `heap_bytes` are those in blocks that come from the host's heap: no weights, nothing above 32 MiB.
    """

    allocated_bytes: int
    heap_bytes: int
    phase: Phase
    parts: MemoryParts


def allocated_peak(tape: Tape) -> Peak:
    """Find the peak of requested bytes in the traced steps and what held them.

    Working copies of the optimizer count as optimizer.
    """
    signed = np.where(
        tape.events >= 0, tape.block_bytes[tape.events], -tape.block_bytes[np.invert(tape.events)]
    )
    level = np.cumsum(signed)
    # Building happens before: what it holds for a moment is another matter, see `estimate_memory`.
    first = tape.spans[1].event
    at = first - 1 + int(np.argmax(level[first - 1 :]))
    held = np.zeros(len(tape.block_bytes), dtype=bool)
    seen = tape.events[: at + 1]
    held[seen[seen >= 0]] = True
    held[np.invert(seen[seen < 0])] = False
    span = _span_at(tape, at)
    born = np.zeros(len(tape.block_bytes), dtype=np.int64)
    births = np.flatnonzero(tape.events >= 0)
    born[tape.events[births]] = births
    sizes = dict.fromkeys(MemoryParts.model_fields, 0)
    for category, name in _PART_OF.items():
        of_it = held & (tape.block_category == category)
        if category is Category.TEMPORARY and span.phase is Phase.OPTIMIZER:
            late = of_it & (born >= span.event)
            sizes["optimizer"] += int(tape.block_bytes[late].sum())
            of_it &= ~late
        sizes[name] += int(tape.block_bytes[of_it].sum())
    from_heap = held & (tape.block_bytes <= _ALWAYS_MAPPED_BYTES) & (tape.block_category != Category.WEIGHTS)
    heap_bytes = int(tape.block_bytes[from_heap].sum())
    return Peak(int(level[at]), heap_bytes, span.phase, MemoryParts(**sizes))


def reserved_peak(tape: Tape, workspace_bytes: int = _WORKSPACE_BYTES, *, unfragmented: bool = False) -> int:
    """Replay the caching allocator over the tape and return the most it takes from the device.

    The model is built on the host and moved over as a whole, so of its building only what is left
    at the end is replayed.

    Args:
        tape: what was traced.
        workspace_bytes: size of one cuBLAS workspace.
        unfragmented: give free segments back before each step, so that steps of other lengths leave
            nothing in the way.
    """
    device = CachingAllocator()
    blocks = tape.block_bytes.tolist()
    workspaces = {Phase.FORWARD: -1, Phase.BACKWARD: -2}
    for span, events, _ in tape.segments():
        if unfragmented and span.phase is Phase.FORWARD and span.micro_batch == 0:
            device.empty_cache()
        if span.step >= 0 and span.phase in workspaces:
            device.allocate(workspaces.pop(span.phase), workspace_bytes)
        listed = tape.events[events].tolist()
        if span.step < 0:
            died = {~event for event in listed if event < 0}
            listed = [event for event in listed if event >= 0 and event not in died]
        for event in listed:
            block = event if event >= 0 else ~event
            if blocks[block] == 0:
                continue
            if event >= 0:
                device.allocate(block, blocks[block])
            else:
                device.free(block)
    return device.peak_reserved_bytes


def estimate_memory(tape: Tape, profile: HardwareProfile, *, guesses: int = 0) -> MemoryEstimate:
    """Turn a tape into what the device will show at its fullest, with a band.

    Args:
        tape: what was traced.
        profile: the device.
        guesses: how many things had to be assumed; each widens the band.
    """
    peak = allocated_peak(tape)
    if tape.target == "cpu":
        reserved = peak.allocated_bytes
        device = profile.context_bytes + reserved + int(_RETAINED_SHARE * peak.heap_bytes)
        below, above = _cpu_band(peak)
    else:
        hopper = any(name in profile.device_name for name in _FROM_HOPPER)
        workspace = _WORKSPACE_BYTES_FROM_HOPPER if hopper else _WORKSPACE_BYTES
        reserved = reserved_peak(tape, workspace)
        device = profile.context_bytes + reserved
        below, above = _cuda_band(tape, reserved, reserved_peak(tape, workspace, unfragmented=True))
    guessed = int(0.05 * guesses * peak.allocated_bytes)
    return MemoryEstimate(
        parts=peak.parts,
        allocated_peak_bytes=peak.allocated_bytes,
        reserved_peak_bytes=reserved,
        device_peak_bytes=device,
        low_bytes=device - below - guessed,
        high_bytes=device + above + guessed,
        peak_phase=_PHASE_NAMES[peak.phase],
    )


def _cpu_band(peak: Peak) -> tuple[int, int]:
    """Return how many bytes below and above the estimate the truth may lie on a CPU.

    Ten steps retained 0.3 times the heap's tensors, whole trials 0.6 to 2.0 times (see
    `_RETAINED_SHARE`). Below also rows of the embedding that no batch touches, so that they are never
    read from the file.
    """
    spread = 0.05 * peak.allocated_bytes
    below = (_RETAINED_SHARE - _LEAST_RETAINED) * peak.heap_bytes + 0.1 * peak.parts.weights
    return int(below + spread), int((_MOST_RETAINED - _RETAINED_SHARE) * peak.heap_bytes + spread)


def _cuda_band(tape: Tape, reserved: int, unfragmented: int) -> tuple[int, int]:
    """Return how many bytes below and above the estimate the truth may lie on a GPU.

    Replays of 53 published runs erred by 0.2 % (median) to 1 % (mean), a few by 5 %. Where lengths
    vary, the order of the batches decides how much fragmentation there is: below, none.
    """
    above = 0.10 if len(set(tape.lengths)) > 1 else 0.06
    return max(0, reserved - unfragmented) + int(0.03 * reserved), int(above * reserved)


def _span_at(tape: Tape, event: int) -> Span:
    starts = [span.event for span in tape.spans]
    return tape.spans[int(np.searchsorted(starts, event, side="right")) - 1]
