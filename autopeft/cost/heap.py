"""Replay of glibc's malloc: which memory a training process on a CPU keeps for a tape.

On a CPU torch has no cache of its own, but glibc is one: what is freed inside its heap stays with the
process, in pieces that may not fit the next request. Rules of `malloc/malloc.c` (glibc 2.26 and later,
default settings): the smallest free chunk that is large enough serves a request and is split;
neighbours merge; else the heap grows at its top, or, from the mapping threshold on, a mapping of its
own serves, which goes back at once. Freeing a mapping raises the threshold to its size (up to 32 MiB),
after which such sizes come from the heap. The top goes back when it exceeds twice the threshold.
Left out: bins of small sizes, arenas of other threads, what Python itself keeps in the heap.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass

from autopeft.units import KIB, MIB

FIRST_MAPPING_THRESHOLD = 128 * KIB
LAST_MAPPING_THRESHOLD = 32 * MIB
TOP_PAD = 128 * KIB
PAGE = 4 * KIB
_ALIGNMENT = 64  # torch asks for addresses that are multiples of it
_HEADER = 16
_GRAIN = 16
_SMALLEST = 32


@dataclass(slots=True)
class _Chunk:
    address: int
    size: int
    mapped: bool = False
    free: bool = False
    before: _Chunk | None = None
    after: _Chunk | None = None


class Heap:
    """The heap of one process.

    Attributes:
        resident_bytes: heap and mappings, free chunks included.
        peak_resident_bytes: the most that was.
    """

    def __init__(self) -> None:
        """Start with an empty heap."""
        self.resident_bytes = 0
        self.peak_resident_bytes = 0
        self._threshold = FIRST_MAPPING_THRESHOLD
        self._trim_threshold = FIRST_MAPPING_THRESHOLD
        self._used: dict[int, _Chunk] = {}
        self._free: list[tuple[int, int]] = []  # size, address
        self._at: dict[int, _Chunk] = {}
        self._last: _Chunk | None = None  # the chunk below the top
        self._end = 0  # address at which the top begins
        self._top = 0  # bytes of the top, which are resident too

    def allocate(self, name: int, size: int) -> None:
        """Serve a request of `size` bytes under a name that `free` will know."""
        wanted = -(-(size + _HEADER // 2) // _GRAIN) * _GRAIN
        # `_int_memalign` asks for room to shift the chunk, so a free chunk of the very size never serves.
        searched = wanted + _ALIGNMENT + _SMALLEST
        place = bisect.bisect_left(self._free, (searched, -1))
        if place < len(self._free):
            chunk = self._taken(self._at[self._free[place][1]])
        elif searched <= self._top or searched < self._threshold:
            chunk = self._from_top(searched)
        else:
            chunk = _Chunk(address=-1, size=-(-searched // PAGE) * PAGE, mapped=True)
            self.resident_bytes += chunk.size
        if not chunk.mapped:
            chunk = self._aligned(chunk, wanted)
        self._used[name] = chunk
        self.peak_resident_bytes = max(self.peak_resident_bytes, self.resident_bytes)

    def _aligned(self, chunk: _Chunk, wanted: int) -> _Chunk:
        lead = -(chunk.address + _HEADER) % _ALIGNMENT
        if 0 < lead < _SMALLEST:
            lead += _ALIGNMENT
        if lead:
            first, chunk = chunk, self._cut(chunk, lead)
            self._give(first)
        if chunk.size > wanted + _SMALLEST:
            self._give(self._cut(chunk, wanted))
        return chunk

    def free(self, name: int) -> None:
        """Take a chunk back."""
        chunk = self._used.pop(name)
        if chunk.mapped:
            self.resident_bytes -= chunk.size
            if self._threshold < chunk.size <= LAST_MAPPING_THRESHOLD:
                self._threshold, self._trim_threshold = chunk.size, 2 * chunk.size
            return
        self._give(chunk)

    def _give(self, chunk: _Chunk) -> None:
        if chunk.before is not None and chunk.before.free:
            chunk = self._merged(self._taken(chunk.before), chunk)
        if chunk.after is not None and chunk.after.free:
            chunk = self._merged(chunk, self._taken(chunk.after))
        if chunk is self._last:
            self._to_top(chunk)
        else:
            chunk.free = True
            bisect.insort(self._free, (chunk.size, chunk.address))

    def _from_top(self, wanted: int) -> _Chunk:
        if wanted > self._top:
            grown = -(-(wanted + TOP_PAD - self._top) // PAGE) * PAGE
            self._top += grown
            self.resident_bytes += grown
        chunk = _Chunk(address=self._end, size=wanted, before=self._last)
        if self._last is not None:
            self._last.after = chunk
        self._at[chunk.address] = chunk
        self._last = chunk
        self._end += wanted
        self._top -= wanted
        return chunk

    def _to_top(self, chunk: _Chunk) -> None:
        del self._at[chunk.address]
        self._last = chunk.before
        if self._last is not None:
            self._last.after = None
        self._end = chunk.address
        self._top += chunk.size
        if self._top > self._trim_threshold:
            given = (self._top - TOP_PAD) // PAGE * PAGE
            self._top -= given
            self.resident_bytes -= given

    def _cut(self, chunk: _Chunk, size: int) -> _Chunk:
        """Shorten a chunk to `size` and return the rest."""
        rest = _Chunk(address=chunk.address + size, size=chunk.size - size, before=chunk, after=chunk.after)
        if rest.after is not None:
            rest.after.before = rest
        else:
            self._last = rest
        chunk.after, chunk.size = rest, size
        self._at[rest.address] = rest
        return rest

    def _merged(self, first: _Chunk, second: _Chunk) -> _Chunk:
        first.size += second.size
        first.after = second.after
        if second.after is not None:
            second.after.before = first
        if second is self._last:
            self._last = first
        del self._at[second.address]
        return first

    def _taken(self, chunk: _Chunk) -> _Chunk:
        self._free.pop(bisect.bisect_left(self._free, (chunk.size, chunk.address)))
        chunk.free = False
        return chunk
