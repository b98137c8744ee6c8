"""Replay of PyTorch's CUDA caching allocator: which bytes it takes from the device for a stream.

The rules are in `cost/allocator_rules.py`; `cost/native.py` compiles them at the first replay. Left out:
events of several CUDA streams, `roundup_power2_divisions`, private pools of CUDA graphs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from autopeft.cost import allocator_pieces as pieces
from autopeft.cost import allocator_rules as rules
from autopeft.units import MIB

if TYPE_CHECKING:
    from autopeft.cost.native import Native

_NOTHING = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class AllocatorSettings:
    """What `PYTORCH_ALLOC_CONF` says.

    Attributes:
        expandable_segments: one segment a pool, grown page by page.
        gc_threshold: share of the limit above which idle segments are released
            (`garbage_collection_threshold`); 0 is never. It counts under a limit only.
        max_split_bytes: blocks of at least this size are not split (`max_split_size_mb`); 0 is no such size.

    Raises:
        ValueError: PyTorch would refuse the setting.
    """

    expandable_segments: bool = False
    gc_threshold: float = 0.0
    max_split_bytes: int = 0

    def __post_init__(self) -> None:
        """Check what the rules rely on."""
        if not 0 <= self.gc_threshold < 1:
            raise ValueError(f"`0 <= gc_threshold < 1` must hold, but got {self.gc_threshold}.")
        size = self.max_split_bytes
        if size and (size <= rules.LARGE_SEGMENT or size % MIB):
            raise ValueError(f"max_split_bytes must be a whole number of MiB above 20, or 0, but got {size}.")


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What the allocator held and took while it served a stream.

    Attributes:
        peak_allocated_bytes, peak_reserved_bytes: the most that blocks in use held, and that was taken
            from the device.
        final_allocated_bytes, final_reserved_bytes: after the last event that was done.
        out_of_memory: a request could not be served within the limit; the replay ends there.
        failed_event: the index of that request, or -1.
        marks: the peaks, allocated and reserved, of each interval between the marks; an interval that
            the replay did not reach has zeros.
    """

    peak_allocated_bytes: int
    peak_reserved_bytes: int
    final_allocated_bytes: int
    final_reserved_bytes: int
    out_of_memory: bool
    failed_event: int
    marks: tuple[tuple[int, int], ...]


def replay(
    sizes: NDArray[np.int64],
    events: NDArray[np.int32],
    *,
    empty_cache_at: ArrayLike = _NOTHING,
    mark_at: ArrayLike = _NOTHING,
    settings: AllocatorSettings = AllocatorSettings(),
    limit_bytes: int = 0,
) -> Replay:
    """Replay a stream of events on an empty device.

    Args:
        sizes: requested bytes of each block; a block of no bytes is passed over.
        events: `block` allocates and `~block` frees it; a freed block may be allocated again.
        empty_cache_at: ascending indices of the events before which the cache is emptied; the number
            of events stands for the end.
        mark_at: likewise, where the peaks are reset. Where both meet, the cache is emptied first.
        settings: the allocator's settings.
        limit_bytes: memory of the device that the allocator may take; 0 is no limit.

    Raises:
        ValueError: an event is of no block, allocates one in use or frees one that is not.
    """
    memory = _laid_out(sizes, events, np.asarray(empty_cache_at), np.asarray(mark_at))
    memory[pieces.EXPANDABLE] = settings.expandable_segments
    memory[pieces.MAX_SPLIT] = settings.max_split_bytes or rules.UNLIMITED
    memory[pieces.LIMIT] = limit_bytes
    collects = settings.gc_threshold > 0 and limit_bytes > 0
    memory[pieces.COLLECT_ABOVE] = int(settings.gc_threshold * limit_bytes) if collects else -1
    status = _compiled()(memory.ctypes.data)
    head: Sequence[int] = memory[: pieces.HEAD].tolist()
    if status == rules.BAD_EVENT:
        raise ValueError(
            f"event {head[pieces.AT]} must allocate a free block or free one in use, of the {len(sizes)} "
            f"there are and of no negative size, but is {events[head[pieces.AT]]}."
        )
    start = head[pieces.PEAKS_AT]
    peaks = memory[start : start + 2 * (head[pieces.MARKS] + 1)].reshape(-1, 2)
    most = peaks.max(axis=0)
    return Replay(
        peak_allocated_bytes=int(most[0]),
        peak_reserved_bytes=int(most[1]),
        final_allocated_bytes=head[pieces.ALLOCATED],
        final_reserved_bytes=head[pieces.RESERVED],
        out_of_memory=status == rules.OUT_OF_MEMORY,
        failed_event=head[pieces.AT] if status == rules.OUT_OF_MEMORY else -1,
        marks=tuple((allocated, reserved) for allocated, reserved in peaks.tolist()),
    )


@cache
def _compiled() -> Native:
    from autopeft.cost.native import compile_modules

    return compile_modules((pieces, rules), "replay")


def _laid_out(
    sizes: NDArray[np.int64],
    events: NDArray[np.int32],
    empties: NDArray[np.int64],
    marks: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return the memory of a replay: the head, the stream, then room for lists and pieces.

    A request adds itself, what is cut off it and what is not mapped; emptying the cache leaves three
    pieces at most between two in use: a free part of a page, unmapped pages, another free part. So six
    rows a request suffice.
    """
    rows = 6 * int(np.count_nonzero(events >= 0)) + 8
    parts = [len(sizes), len(sizes), len(events), len(empties), len(marks), 2 * (len(marks) + 1)]
    places = pieces.HEAD + np.cumsum([0, *parts, *[2 * rows] * 4, pieces.COLUMNS * rows])
    sizes_at, holders_at, events_at, empties_at, marks_at, peaks_at, *lists, fresh, end = places.tolist()
    memory = np.empty(end, dtype=np.int64)
    memory[: pieces.HEAD] = 0
    memory[pieces.BLOCKS : pieces.MARKS + 1] = [parts[0], parts[2], parts[3], parts[4]]
    memory[pieces.SIZES_AT : pieces.PEAKS_AT + 1] = places[:6]
    memory[pieces.LIST : pieces.LIST + 4] = lists
    memory[pieces.FRESH] = fresh
    memory[sizes_at:holders_at] = sizes
    memory[holders_at:events_at] = 0
    memory[events_at:empties_at] = events
    memory[empties_at:marks_at] = empties
    memory[marks_at:peaks_at] = marks
    memory[peaks_at : lists[0]] = 0
    return memory
