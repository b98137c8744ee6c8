"""The rules of PyTorch's CUDA caching allocator, in the part of Python that `cost/native.py` compiles.

They are those of `c10/cuda/CUDACachingAllocator.cpp` in PyTorch 2.13, whose function names stand in
brackets. What they deal in is described in `cost/allocator_pieces.py`.
"""

from __future__ import annotations

from autopeft.cost.allocator_pieces import (
    ADDRESS,
    AFTER,
    ALLOCATED,
    ALLOCATED_PEAK,
    AT,
    BEFORE,
    BLOCKS,
    BORN,
    COLLECT_ABOVE,
    COUNT,
    EMPTIES,
    EMPTIES_AT,
    EVENTS,
    EVENTS_AT,
    EXPANDABLE,
    FREE,
    LIMIT,
    LIST,
    MARKS,
    MARKS_AT,
    MAX_SPLIT,
    NEXT_ADDRESS,
    PEAKS_AT,
    PIECES_AT,
    POOL,
    RESERVED,
    RESERVED_PEAK,
    SEARCHES,
    SIZE,
    SIZES_AT,
    STATUS,
    UNMAPPED,
    USED,
    Memory,
    cut,
    forget,
    insert,
    link_after,
    lower_bound,
    new_piece,
    offer,
    remove,
    remove_at,
    replace,
)

ROUND = 512  # kMinBlockSize
SMALL = 1 << 20  # kSmallSize: up to here the small pool serves
SMALL_SEGMENT = 2 << 20  # kSmallBuffer, and a page of the small pool's expandable segment
LARGE = 10 << 20  # kMinLargeAlloc: from here each request has its own segment
# large_segment_size, a page of the large pool's expandable segment, and max_non_split_rounding_size:
# by how much a block that may not be split can exceed a request.
LARGE_SEGMENT = 20 << 20
ROUND_SEGMENT = 2 << 20  # kRoundLarge
UNLIMITED = 1 << 62
# Of an expandable segment, in whole pages so that each begins a page; on a device 9/8 of its memory.
ADDRESS_SPACE = LARGE_SEGMENT << 26

# How a replay ends.
DONE, OUT_OF_MEMORY, BAD_EVENT = range(3)


def _reserve(m: Memory, size: int) -> None:
    m[RESERVED] += size
    m[RESERVED_PEAK] = max(m[RESERVED_PEAK], m[RESERVED])


def _exceeds(m: Memory, size: int) -> bool:
    return m[LIMIT] > 0 and m[RESERVED] + size > m[LIMIT]


def _up(_: Memory, size: int, unit: int) -> int:
    return (size + unit - 1) // unit * unit


def _room(m: Memory, piece: int) -> int:
    """Return to how much a free piece of an expandable segment can grow."""
    after = m[piece + AFTER]
    return m[piece + SIZE] + (m[after + SIZE] if after and m[after + STATUS] == UNMAPPED else 0)


def _best(m: Memory, wanted: int, pool: int) -> int:
    """Return the index of the free piece that serves a request, or -1 (get_free_block)."""
    index = lower_bound(m, pool, wanted)
    if index == m[COUNT + pool]:
        return -1
    entry = m[LIST + pool] + 2 * index
    if m[EXPANDABLE]:
        end = m[LIST + pool] + 2 * m[COUNT + pool]
        while entry + 2 < end and _room(m, m[entry + 3]) < _room(m, m[entry + 1]):
            entry += 2
            index += 1
    if wanted < m[MAX_SPLIT]:
        return index if m[entry] < m[MAX_SPLIT] else -1
    return index if m[entry] < wanted + LARGE_SEGMENT else -1


def _map(m: Memory, piece: int, wanted: int) -> bool:
    """Put memory behind the start of an unmapped piece, or fail for lack of it (map_block)."""
    pool = m[piece + POOL]
    size = _up(m, wanted, SMALL_SEGMENT if pool else LARGE_SEGMENT)
    if _exceeds(m, size):
        return False
    remove(m, 2 + pool, piece)
    m[piece + STATUS] = FREE
    if size < m[piece + SIZE]:
        cut(m, piece, size, UNMAPPED)
    offer(m, piece)
    _reserve(m, size)
    return True


def _candidate(m: Memory, wanted: int, pool: int) -> int:
    """Return the first piece from which free and unmapped ones suffice, or 0 (find_expandable_block)."""
    for i in range(m[COUNT + 2 + pool]):
        start = m[m[LIST + 2 + pool] + 2 * i + 1]
        if m[start + BEFORE] and m[m[start + BEFORE] + STATUS] == FREE:
            start = m[start + BEFORE]
        room = 0
        piece = start
        while room < wanted and piece and m[piece + STATUS] != USED:
            room += m[piece + SIZE]
            piece = m[piece + AFTER]
        if room >= wanted:
            return start
    return 0


def _expand(m: Memory, wanted: int, pool: int) -> int:
    """Return a free piece made by mapping pages, or 0 (try_allocate_expandable_block)."""
    piece = _candidate(m, wanted, pool)
    if not piece:
        piece = new_piece(m, ADDRESS_SPACE, m[NEXT_ADDRESS], pool, UNMAPPED)
        m[NEXT_ADDRESS] += ADDRESS_SPACE
        insert(m, 2 + pool, piece)
    if m[piece + STATUS] == UNMAPPED and not _map(m, piece, min(m[piece + SIZE], wanted)):
        return 0
    while m[piece + SIZE] < wanted:
        after = m[piece + AFTER]
        if not _map(m, after, min(wanted - m[piece + SIZE], m[after + SIZE])):
            return 0
        piece = after
    remove(m, pool, piece)
    return piece


def _grow(m: Memory, wanted: int, pool: int) -> int:
    """Return a piece of memory taken from the device, or 0 (alloc_block)."""
    size = _up(m, wanted, ROUND_SEGMENT)
    if wanted < LARGE:
        size = SMALL_SEGMENT if pool else LARGE_SEGMENT
    if m[EXPANDABLE]:
        # Under a fraction of the device, which collection needs, a whole segment must find room.
        if m[COLLECT_ABOVE] >= 0 and _exceeds(m, size):
            return 0
        return _expand(m, wanted, pool)
    if _exceeds(m, size):
        return 0
    _reserve(m, size)
    m[NEXT_ADDRESS] += size
    return new_piece(m, size, m[NEXT_ADDRESS] - size, pool, FREE)


def _is_split(m: Memory, piece: int) -> bool:
    return m[piece + BEFORE] > 0 or m[piece + AFTER] > 0


def _release(m: Memory, piece: int) -> None:
    """Give a whole segment that is no longer listed back to the device (release_block)."""
    m[RESERVED] -= m[piece + SIZE]
    forget(m, piece)


def _release_older(m: Memory, pool: int, ages: int, number: int) -> bool:
    """Release the pool's whole segments that no request used for `ages / number` searches or more."""
    entry = m[LIST + pool]
    end = entry + 2 * m[COUNT + pool]
    kept = entry
    while entry < end:
        piece = m[entry + 1]
        if _is_split(m, piece) or (m[SEARCHES + pool] - m[piece + BORN]) * number < ages:
            m[kept] = m[entry]
            m[kept + 1] = piece
            kept += 2
        else:
            _release(m, piece)
        entry += 2
    m[COUNT + pool] = (kept - m[LIST + pool]) // 2
    return kept < end


def _collect(m: Memory) -> None:
    """Release large segments that idle for longer than the average (garbage_collect_cached_blocks)."""
    freed = True
    while freed and m[RESERVED] > m[COLLECT_ABOVE]:
        number = 0
        ages = 0
        for i in range(m[COUNT]):
            piece = m[m[LIST] + 2 * i + 1]
            if not _is_split(m, piece):
                number += 1
                ages += m[SEARCHES] - m[piece + BORN]
        freed = number > 0 and _release_older(m, 0, ages, number)


def _release_oversize(m: Memory, wanted: int, pool: int) -> bool:
    """Release just enough blocks that may not be split, if there are (release_available_cached_blocks)."""
    key = max(wanted, m[MAX_SPLIT])
    index = lower_bound(m, pool, key)
    if index < m[COUNT + pool]:
        _release(m, remove_at(m, pool, index))
        return True
    released = 0
    while released < key and index > 0 and m[m[LIST + pool] + 2 * index - 2] >= m[MAX_SPLIT]:
        index -= 1
        piece = remove_at(m, pool, index)
        released += m[piece + SIZE]
        _release(m, piece)
    return released >= key


def _unmap(m: Memory, pool: int, index: int) -> int:
    """Give the whole pages within a free piece back; return how many parts stay free (unmap_block)."""
    page = SMALL_SEGMENT if pool else LARGE_SEGMENT
    piece = m[m[LIST + pool] + 2 * index + 1]
    start = m[piece + ADDRESS]
    first = _up(m, start, page)
    last = (start + m[piece + SIZE]) // page * page
    if first >= last:
        return 0  # it stays where it is
    parts = 0
    remove_at(m, pool, index)
    if start + m[piece + SIZE] > last:
        cut(m, piece, last - start, FREE)
        parts += 1
    if first > start:
        middle = new_piece(m, last - first, first, pool, UNMAPPED)
        m[piece + SIZE] = first - start
        m[piece + BORN] = m[SEARCHES + pool]
        link_after(m, piece, middle)
        insert(m, pool, piece)
        piece = middle
        parts += 1
    m[piece + STATUS] = UNMAPPED
    offer(m, piece)
    m[RESERVED] -= last - first
    return parts


def _empty_cache(m: Memory) -> None:
    """Give back all that is wholly free (release_cached_blocks)."""
    for pool in range(2):
        if not m[EXPANDABLE]:
            _release_older(m, pool, 0, 1)
        else:
            # What stays free is less than a page, so it is listed before all that is still to be looked at.
            page = SMALL_SEGMENT if pool else LARGE_SEGMENT
            index = m[COUNT + pool] - 1
            while index >= 0 and m[m[LIST + pool] + 2 * index] >= page:
                index += _unmap(m, pool, index) - 1


def _grown(m: Memory, wanted: int, pool: int) -> int:
    """Return a new piece for a request, for which others are released if need be, or 0 (malloc)."""
    if m[COLLECT_ABOVE] >= 0:
        _collect(m)
    piece = _grow(m, wanted, pool)
    oversize = m[MAX_SPLIT] < UNLIMITED and not m[EXPANDABLE]
    if not piece and oversize and _release_oversize(m, wanted, pool):
        piece = _grow(m, wanted, pool)
    if not piece:
        _empty_cache(m)
        piece = _grow(m, wanted, pool)
    return piece


def _allocate(m: Memory, size: int) -> int:
    """Return the piece that serves a request, or 0 (malloc, should_split, alloc_found_block)."""
    wanted = _up(m, size, ROUND)
    pool = 1 if wanted <= SMALL else 0
    m[SEARCHES + pool] += 1
    index = _best(m, wanted, pool)
    piece = m[m[LIST + pool] + 2 * index + 1] if index >= 0 else _grown(m, wanted, pool)
    if not piece:
        return 0
    rest = m[piece + SIZE] - wanted
    if rest >= ROUND if pool or m[EXPANDABLE] else rest > SMALL and wanted < m[MAX_SPLIT]:
        other = new_piece(m, rest, m[piece + ADDRESS] + wanted, pool, FREE)
        m[piece + SIZE] = wanted
        link_after(m, piece, other)
        if index >= 0:
            replace(m, pool, index, other)
        else:
            insert(m, pool, other)
    elif index >= 0:
        remove_at(m, pool, index)
    m[piece + STATUS] = USED
    m[ALLOCATED] += m[piece + SIZE]
    m[ALLOCATED_PEAK] = max(m[ALLOCATED_PEAK], m[ALLOCATED])
    return piece


def _event(m: Memory, event: int) -> int:
    """Do one event and say how it went."""
    block = event if event >= 0 else ~event
    if block >= m[BLOCKS]:
        return BAD_EVENT
    size = m[m[SIZES_AT] + block]
    if size == 0:
        return DONE
    holder = m[PIECES_AT] + block
    piece = m[holder]
    if size < 0 or (piece > 0) == (event >= 0):
        return BAD_EVENT
    if event >= 0:
        m[holder] = _allocate(m, size)
        return DONE if m[holder] else OUT_OF_MEMORY
    m[holder] = 0
    m[ALLOCATED] -= m[piece + SIZE]
    m[piece + STATUS] = FREE
    offer(m, piece)
    return DONE


def _note_peaks(m: Memory, interval: int) -> None:
    """Write an interval's peaks down and reset them (resetPeakStats)."""
    m[m[PEAKS_AT] + 2 * interval] = m[ALLOCATED_PEAK]
    m[m[PEAKS_AT] + 2 * interval + 1] = m[RESERVED_PEAK]
    m[ALLOCATED_PEAK] = m[ALLOCATED]
    m[RESERVED_PEAK] = m[RESERVED]


def replay(m: Memory) -> int:
    """Replay the stream that lies in the memory; `AT` is then how many events were done."""
    at = 0
    stop = 0
    emptied = 0
    marked = 0
    status = DONE
    while status == DONE and at <= m[EVENTS]:
        if at == stop:
            while emptied < m[EMPTIES] and m[m[EMPTIES_AT] + emptied] <= at:
                _empty_cache(m)
                emptied += 1
            while marked < m[MARKS] and m[m[MARKS_AT] + marked] <= at:
                _note_peaks(m, marked)
                marked += 1
            stop = m[EVENTS]
            if emptied < m[EMPTIES]:
                stop = min(stop, m[m[EMPTIES_AT] + emptied])
            if marked < m[MARKS]:
                stop = min(stop, m[m[MARKS_AT] + marked])
        if at < m[EVENTS]:
            status = _event(m, m[m[EVENTS_AT] + at])
        at += 1
    m[AT] = at - 1
    _note_peaks(m, marked)
    return status
