"""The allocator's default rules once more, with objects instead of words, to check the compiled ones."""

from __future__ import annotations

import bisect
from dataclasses import dataclass

from autopeft.units import MIB

ROUND_BYTES = 512
SMALL_REQUEST_BYTES = MIB
SMALL_SEGMENT_BYTES = 2 * MIB
LARGE_REQUEST_BYTES = 10 * MIB
LARGE_SEGMENT_BYTES = 20 * MIB
ROUND_SEGMENT_BYTES = 2 * MIB
_SEGMENT_DISTANCE = 2**48


def rounded(size: int) -> int:
    """Return the bytes of the block that serves a request."""
    return max(ROUND_BYTES, -(-size // ROUND_BYTES) * ROUND_BYTES)


def segment_size(block: int) -> int:
    """Return the bytes taken from the device for a block that no free one can serve."""
    if block <= SMALL_REQUEST_BYTES:
        return SMALL_SEGMENT_BYTES
    if block < LARGE_REQUEST_BYTES:
        return LARGE_SEGMENT_BYTES
    return -(-block // ROUND_SEGMENT_BYTES) * ROUND_SEGMENT_BYTES


@dataclass(slots=True)
class _Block:
    address: int
    size: int
    small: bool
    free: bool = False
    before: _Block | None = None
    after: _Block | None = None


class ReferenceAllocator:
    """The allocator of one device.

    Attributes:
        allocated_bytes: held by blocks in use.
        reserved_bytes: taken from the device.
        peak_allocated_bytes, peak_reserved_bytes: the most they have been.
    """

    def __init__(self) -> None:
        """Start with an empty device."""
        self.allocated_bytes = 0
        self.reserved_bytes = 0
        self.peak_allocated_bytes = 0
        self.peak_reserved_bytes = 0
        self._segments = 0
        self._used: dict[int, _Block] = {}
        # Free blocks of the large and of the small pool, ordered by size, then address.
        self._free: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
        self._at: dict[int, _Block] = {}

    def allocate(self, name: int, size: int) -> None:
        """Serve a request of `size` bytes under a name that `free` will know."""
        wanted = rounded(size)
        small = wanted <= SMALL_REQUEST_BYTES
        pool = self._free[small]
        place = bisect.bisect_left(pool, (wanted, -1))
        block = self._taken(self._at[pool[place][1]]) if place < len(pool) else self._segment(wanted, small)
        rest = block.size - wanted
        if rest >= ROUND_BYTES if small else rest > SMALL_REQUEST_BYTES:
            self._split(block, wanted)
        self._used[name] = block
        self.allocated_bytes += block.size
        self.peak_allocated_bytes = max(self.peak_allocated_bytes, self.allocated_bytes)
        self.peak_reserved_bytes = max(self.peak_reserved_bytes, self.reserved_bytes)

    def free(self, name: int) -> None:
        """Give the block back to its pool, merged with its free neighbours."""
        block = self._used.pop(name)
        self.allocated_bytes -= block.size
        if block.before is not None and block.before.free:
            block = self._merged(self._taken(block.before), block)
        if block.after is not None and block.after.free:
            block = self._merged(block, self._taken(block.after))
        self._offer(block)

    def empty_cache(self) -> None:
        """Give every wholly free segment back to the device."""
        for pool in self._free:
            for size, address in tuple(pool):
                block = self._at[address]
                if block.before is None and block.after is None:
                    self._taken(block)
                    del self._at[address]
                    self.reserved_bytes -= size

    def _segment(self, wanted: int, small: bool) -> _Block:
        size = segment_size(wanted)
        block = _Block(address=self._segments * _SEGMENT_DISTANCE, size=size, small=small)
        self._segments += 1
        self._at[block.address] = block
        self.reserved_bytes += size
        return block

    def _split(self, block: _Block, wanted: int) -> None:
        rest = _Block(
            address=block.address + wanted,
            size=block.size - wanted,
            small=block.small,
            before=block,
            after=block.after,
        )
        if rest.after is not None:
            rest.after.before = rest
        block.after, block.size = rest, wanted
        self._at[rest.address] = rest
        self._offer(rest)

    def _merged(self, first: _Block, second: _Block) -> _Block:
        first.size += second.size
        first.after = second.after
        if second.after is not None:
            second.after.before = first
        del self._at[second.address]
        return first

    def _offer(self, block: _Block) -> None:
        block.free = True
        bisect.insort(self._free[block.small], (block.size, block.address))

    def _taken(self, block: _Block) -> _Block:
        pool = self._free[block.small]
        pool.pop(bisect.bisect_left(pool, (block.size, block.address)))
        block.free = False
        return block
