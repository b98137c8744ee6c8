"""The pieces of the device's memory that the allocator deals in, and the lists that it keeps of them.

In the part of Python that `cost/native.py` compiles: everything lives in one memory `m` of 64-bit words,
and all sizes and addresses are in bytes:

- a head of settings, counters and places (`HEAD` words);
- a row of `COLUMNS` words for each piece of a segment: in use, free, or unmapped (address space of an
  expandable segment without memory behind it). A piece is named by the place of its row;
- four sorted lists of (key, piece): the free pieces of the large and of the small pool by size and
  address, then the unmapped ones of both by address.

Addresses ascend in the order in which segments are made: where cudaMalloc puts them is not known.
"""

from __future__ import annotations

from collections.abc import MutableSequence

Memory = MutableSequence[int]

# The head: settings, where `COLLECT_ABOVE` is -1 without garbage collection; numbers of the stream
# and the places of its parts; the four lists; and what the replay counts.
EXPANDABLE, MAX_SPLIT, LIMIT, COLLECT_ABOVE = range(4)
BLOCKS, EVENTS, EMPTIES, MARKS = range(4, 8)
SIZES_AT, PIECES_AT, EVENTS_AT, EMPTIES_AT, MARKS_AT, PEAKS_AT = range(8, 14)
LIST = 14  # to 17
COUNT = 18  # to 21
SEARCHES = 22  # of the large pool, and of the small one
ALLOCATED, RESERVED, ALLOCATED_PEAK, RESERVED_PEAK = range(24, 28)
NEXT_ADDRESS, SPARE, FRESH, AT = range(28, 32)
HEAD = 32

# The row of a piece.
SIZE, ADDRESS, BEFORE, AFTER, STATUS, POOL, BORN = range(7)
COLUMNS = 8
USED, FREE, UNMAPPED = range(3)


def lower_bound(m: Memory, which: int, key: int) -> int:
    """Return how many entries of a list have a lesser key.

    Every round halves what is left without a jump that depends on a key: a processor guesses those wrong.
    """
    entries, low, count = m[LIST + which], 0, m[COUNT + which]
    while count > 0:
        half = (count + 1) >> 1
        low = low + (half if m[entries + 2 * (low + half) - 2] < key else 0)
        count -= half
    return low


def index_of(m: Memory, which: int, piece: int) -> int:
    """Return how many entries of a list come before a piece."""
    key = _key(m, which, piece)
    low = lower_bound(m, which, key)
    entries = m[LIST + which]
    if low == m[COUNT + which] or m[entries + 2 * low] != key:
        return low
    count = lower_bound(m, which, key + 1) - low
    address = m[piece + ADDRESS]
    while count > 0:
        half = (count + 1) >> 1
        low = low + (half if m[m[entries + 2 * (low + half) - 1] + ADDRESS] < address else 0)
        count -= half
    return low


def _key(m: Memory, which: int, piece: int) -> int:
    return m[piece + SIZE] if which < 2 else m[piece + ADDRESS]


def _put(m: Memory, which: int, index: int, piece: int) -> None:
    entry = m[LIST + which] + 2 * index
    m[entry] = _key(m, which, piece)
    m[entry + 1] = piece


def insert(m: Memory, which: int, piece: int) -> None:
    """List a piece."""
    index = index_of(m, which, piece)
    entry = m[LIST + which] + 2 * index
    end = m[LIST + which] + 2 * m[COUNT + which]
    m[entry + 2 : end + 2] = m[entry:end]
    _put(m, which, index, piece)
    m[COUNT + which] += 1


def replace(m: Memory, which: int, old: int, piece: int) -> None:
    """Put a piece in and the entry at `old` out, so that only those between them move."""
    index = index_of(m, which, piece)
    entries = m[LIST + which]
    if index > old:
        index -= 1
        m[entries + 2 * old : entries + 2 * index] = m[entries + 2 * old + 2 : entries + 2 * index + 2]
    else:
        m[entries + 2 * index + 2 : entries + 2 * old + 2] = m[entries + 2 * index : entries + 2 * old]
    _put(m, which, index, piece)


def remove_at(m: Memory, which: int, index: int) -> int:
    """Take an entry out of a list and return its piece."""
    entry = m[LIST + which] + 2 * index
    end = m[LIST + which] + 2 * m[COUNT + which]
    piece = m[entry + 1]
    m[entry : end - 2] = m[entry + 2 : end]
    m[COUNT + which] -= 1
    return piece


def remove(m: Memory, which: int, piece: int) -> None:
    """Take a piece out of a list."""
    remove_at(m, which, index_of(m, which, piece))


def new_piece(m: Memory, size: int, address: int, pool: int, status: int) -> int:
    """Return a piece without neighbours, not listed."""
    piece = m[SPARE]
    if piece:
        m[SPARE] = m[piece + AFTER]
    else:
        piece = m[FRESH]
        m[FRESH] = piece + COLUMNS
    m[piece + SIZE] = size
    m[piece + ADDRESS] = address
    m[piece + BEFORE] = 0
    m[piece + AFTER] = 0
    m[piece + STATUS] = status
    m[piece + POOL] = pool
    m[piece + BORN] = m[SEARCHES + pool]
    return piece


def forget(m: Memory, piece: int) -> None:
    """Let the row of a piece serve again."""
    m[piece + AFTER] = m[SPARE]
    m[SPARE] = piece


def link_after(m: Memory, piece: int, rest: int) -> None:
    """Put `rest` between a piece and the one after it."""
    after = m[piece + AFTER]
    m[rest + BEFORE] = piece
    m[rest + AFTER] = after
    m[piece + AFTER] = rest
    if after:
        m[after + BEFORE] = rest


def _list_of(m: Memory, piece: int) -> int:
    return m[piece + POOL] + (2 if m[piece + STATUS] == UNMAPPED else 0)


def cut(m: Memory, piece: int, size: int, status: int) -> None:
    """Leave `size` bytes of a piece; the rest of it is listed under its own status."""
    rest = new_piece(m, m[piece + SIZE] - size, m[piece + ADDRESS] + size, m[piece + POOL], status)
    m[piece + SIZE] = size
    link_after(m, piece, rest)
    insert(m, _list_of(m, rest), rest)


def offer(m: Memory, piece: int) -> None:
    """Merge a piece with its neighbours of the same status and list it (try_merge_blocks)."""
    which = _list_of(m, piece)
    place = -1
    before = m[piece + BEFORE]
    if before and m[before + STATUS] == m[piece + STATUS]:
        place = index_of(m, which, before)
        m[piece + SIZE] += m[before + SIZE]
        m[piece + ADDRESS] = m[before + ADDRESS]
        first = m[before + BEFORE]
        m[piece + BEFORE] = first
        if first:
            m[first + AFTER] = piece
        forget(m, before)
    after = m[piece + AFTER]
    if after and m[after + STATUS] == m[piece + STATUS]:
        other = index_of(m, which, after)
        if place >= 0:
            remove_at(m, which, other)
            place -= 1 if other < place else 0
        else:
            place = other
        m[piece + SIZE] += m[after + SIZE]
        last = m[after + AFTER]
        m[piece + AFTER] = last
        if last:
            m[last + BEFORE] = piece
        forget(m, after)
    m[piece + BORN] = m[SEARCHES + m[piece + POOL]]
    if place >= 0:
        replace(m, which, place, piece)
    else:
        insert(m, which, piece)
