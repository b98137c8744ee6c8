"""Replay: what a tape's events make of a device's memory.

On a CPU the memory that tensors hold is all there is. On a GPU torch keeps a cache: it takes segments
from the device, cuts blocks from them and gives none back unasked, so what it holds (reserved) is
more than what tensors hold (allocated). See `c10/cuda/CUDACachingAllocator.cpp`; left out are
streams, `max_split_size`, garbage collection and expandable segments.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass

import numpy as np

from autopeft.cost.tape import Phase, Tape
from autopeft.units import MIB

_ALIGNMENT = 512
_SMALL = MIB  # requests up to this share segments of 2 MiB
_SMALL_SEGMENT, _LARGE_SEGMENT, _LARGE_FROM, _ROUND = 2 * MIB, 20 * MIB, 10 * MIB, 2 * MIB
_CUBLAS_WORKSPACE = 8_519_680  # what cuBLAS asks torch for at the first matrix product


@dataclass(frozen=True, kw_only=True)
class Peak:
    """The memory at its highest during training.

    Attributes:
        event: index of the event of the allocated peak.
        allocated, reserved: bytes.
    """

    event: int
    allocated: int
    reserved: int


def peak_on_cpu(tape: Tape) -> Peak:
    """Find the peak of what tensors hold."""
    start = _training_starts(tape)
    held = np.cumsum(_signed_bytes(tape))
    event = start + int(np.argmax(held[start:]))
    return Peak(event=event, allocated=int(held[event]), reserved=int(held[event]))


def peak_on_cuda(tape: Tape) -> Peak:
    """Find the peak of what tensors hold, and of what the caching allocator takes.

    Weights are loaded one after the other and stay, so the blocks that survive the building of the
    model are replayed compactly, in the order of their birth.
    """
    start = _training_starts(tape)
    events, sizes = tape.events.tolist(), tape.block_bytes.tolist()
    alive: dict[int, None] = {}
    for event in events[:start]:
        if event >= 0:
            alive[event] = None
        else:
            alive.pop(~event, None)
    cache = CachingAllocator()
    for block in alive:
        cache.allocate(block, sizes[block])
    cache.allocate(len(sizes), _CUBLAS_WORKSPACE)
    cache.peak_reserved = cache.reserved
    best, at = cache.allocated, start
    for index in range(start, len(events)):
        event = events[index]
        if event >= 0:
            cache.allocate(event, sizes[event])
            if cache.allocated > best:
                best, at = cache.allocated, index
        else:
            cache.free(~event)
    return Peak(event=at, allocated=best, reserved=cache.peak_reserved)


def held_at(tape: Tape, event: int) -> np.ndarray:
    """Return the bytes of each `Category` after an event, requested sizes."""
    made = tape.events[: event + 1]
    born, dead = made[made >= 0], ~made[made < 0]
    alive = np.zeros(len(tape.block_bytes), dtype=bool)
    alive[born] = True
    alive[dead] = False
    return np.bincount(
        tape.block_category[alive], weights=tape.block_bytes[alive].astype(np.float64), minlength=8
    ).astype(np.int64)


def phase_at(tape: Tape, event: int) -> Phase:
    """Return the phase in which an event lies."""
    return next(span.phase for span, events, _ in tape.segments() if events.start <= event < events.stop)


class CachingAllocator:
    """torch's caching allocator for one stream: best fit, splitting, merging of neighbours."""

    def __init__(self) -> None:
        self.allocated = self.reserved = self.peak_reserved = 0
        self._free: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
        self._blocks: dict[int, _Block] = {}
        self._places: dict[int, int] = {}
        self._next_address = 0

    def allocate(self, name: int, size: int) -> None:
        """Give a block of at least `size` bytes to `name`; nothing for 0 bytes."""
        if size == 0:
            return
        rounded = -(-size // _ALIGNMENT) * _ALIGNMENT
        small = rounded <= _SMALL
        free = self._free[small]
        fit = bisect.bisect_left(free, (rounded, -1))
        address = free.pop(fit)[1] if fit < len(free) else self._take_segment(rounded, small=small)
        block = self._blocks[address]
        block.free = False
        rest = block.size - rounded
        if rest >= _ALIGNMENT if small else rest > _SMALL:
            after = _Block(rest, small, address, block.after)
            self._blocks[address + rounded] = after
            if block.after is not None:
                self._blocks[block.after].before = address + rounded
            block.size, block.after = rounded, address + rounded
            self._release(address + rounded)
        self._places[name] = address
        self.allocated += block.size

    def free(self, name: int) -> None:
        """Take a block back and merge it with its free neighbours."""
        address = self._places.pop(name, None)
        if address is None:
            return
        block = self._blocks[address]
        self.allocated -= block.size
        if block.before is not None and self._blocks[block.before].free:
            address = self._merge(block.before, address)
        after = self._blocks[address].after
        if after is not None and self._blocks[after].free:
            self._merge(address, after)
        self._release(address)

    def empty(self) -> None:
        """Give whole free segments back to the device (`torch.cuda.empty_cache`)."""
        for free in self._free.values():
            for size, address in list(free):
                block = self._blocks[address]
                if block.before is None and block.after is None:
                    free.remove((size, address))
                    del self._blocks[address]
                    self.reserved -= size

    def _take_segment(self, size: int, *, small: bool) -> int:
        segment = _SMALL_SEGMENT if small else _LARGE_SEGMENT
        if size >= _LARGE_FROM:
            segment = -(-size // _ROUND) * _ROUND
        address, self._next_address = self._next_address, self._next_address + segment + _ALIGNMENT
        self._blocks[address] = _Block(segment, small, None, None)
        self.reserved += segment
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        return address

    def _merge(self, left: int, right: int) -> int:
        """Make one block of two neighbours, of which the free one leaves its list."""
        one, other = self._blocks[left], self._blocks.pop(right)
        for address, block in ((left, one), (right, other)):
            if block.free:
                free = self._free[block.small]
                free.pop(bisect.bisect_left(free, (block.size, address)))
        one.free = False
        one.size += other.size
        one.after = other.after
        if other.after is not None:
            self._blocks[other.after].before = left
        return left

    def _release(self, address: int) -> None:
        block = self._blocks[address]
        block.free = True
        bisect.insort(self._free[block.small], (block.size, address))


class _Block:
    __slots__ = ("after", "before", "free", "size", "small")

    def __init__(self, size: int, small: bool, before: int | None, after: int | None) -> None:  # noqa: FBT001
        self.size, self.small, self.before, self.after = size, small, before, after
        self.free = False


def _training_starts(tape: Tape) -> int:
    return next((span.event for span in tape.spans if span.step >= 0), 0)


def _signed_bytes(tape: Tape) -> np.ndarray:
    blocks = np.where(tape.events >= 0, tape.events, ~tape.events)
    return np.where(tape.events >= 0, 1, -1) * tape.block_bytes[blocks]
