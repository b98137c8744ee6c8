"""Tests of autopeft/cost/allocator.py and of the rules that it compiles."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopeft.cost import allocator_pieces as pieces
from autopeft.cost import allocator_rules as rules
from autopeft.cost.allocator import AllocatorSettings, Replay, _laid_out, replay
from autopeft.units import GIB, MIB

sys.path.insert(0, str(Path(__file__).parent))
from reference_allocator import ReferenceAllocator

EXPANDABLE = AllocatorSettings(expandable_segments=True)
SIZES = [1, 512, 513, 4096, 300_000, MIB, MIB + 1, *(size * MIB for size in (3, 9, 10, 14, 33, 80))]


def stream(*steps: int, unit: int = MIB) -> tuple[np.ndarray, np.ndarray]:
    """Make a stream: a positive number allocates so many units, a negative frees the -nth block, from -1."""
    sizes, events = [], []
    for step in steps:
        if step < 0:
            events.append(step)
        else:
            events.append(len(sizes))
            sizes.append(step * unit)
    return np.array(sizes, dtype=np.int64), np.array(events, dtype=np.int32)


@st.composite
def streams(draw: st.DrawFn, longest: int = 120) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Draw sizes, events and where the cache is emptied."""
    sizes: list[int] = []
    events: list[int] = []
    alive: list[int] = []
    size = st.one_of(st.sampled_from([0, *SIZES]), st.integers(1, 60 * MIB))
    for turn in draw(st.lists(st.integers(0, 99), max_size=longest)):
        if alive and turn < 45:
            events.append(~alive.pop(turn % len(alive)))
        elif turn > 95 and len(alive) < len(sizes):
            again = draw(st.sampled_from(sorted(set(range(len(sizes))) - set(alive))))
            events.append(again)
            alive.append(again)
        else:
            events.append(len(sizes))
            alive.append(len(sizes))
            sizes.append(draw(size))
    emptied = draw(st.lists(st.integers(0, len(events)), max_size=3).map(sorted))
    return np.array(sizes, dtype=np.int64), np.array(events, dtype=np.int32), emptied


def live_peak(sizes: np.ndarray, events: np.ndarray) -> int:
    change = np.where(events >= 0, sizes[np.maximum(events, ~events)], -sizes[np.maximum(events, ~events)])
    return int(np.maximum(0, np.cumsum(change)).max(initial=0))


def freed_at_end(sizes: np.ndarray, events: np.ndarray) -> np.ndarray:
    alive = set(events[events >= 0].tolist())
    for event in events.tolist():
        alive.add(event) if event >= 0 else alive.discard(~event)
    return np.append(events, [~block for block in sorted(alive)]).astype(np.int32)


ANY_SETTINGS = st.builds(
    AllocatorSettings,
    expandable_segments=st.booleans(),
    gc_threshold=st.sampled_from([0.0, 0.3, 0.8]),
    max_split_bytes=st.sampled_from([0, 21 * MIB, 40 * MIB]),
)


@settings(max_examples=300)
@given(streams())
def test_a_replay_equals_the_reference(case: tuple[np.ndarray, np.ndarray, list[int]]):
    sizes, events, emptied = case
    device = ReferenceAllocator()
    for at, event in enumerate([*events.tolist(), None]):
        for _ in range(emptied.count(at)):
            device.empty_cache()
        block = event if event is None or event >= 0 else ~event
        if block is None or sizes[block] == 0:
            continue
        if event >= 0:
            device.allocate(block, int(sizes[block]))
        else:
            device.free(block)
    assert replay(sizes, events, empty_cache_at=emptied) == Replay(
        peak_allocated_bytes=device.peak_allocated_bytes,
        peak_reserved_bytes=device.peak_reserved_bytes,
        final_allocated_bytes=device.allocated_bytes,
        final_reserved_bytes=device.reserved_bytes,
        out_of_memory=False,
        failed_event=-1,
        marks=((device.peak_allocated_bytes, device.peak_reserved_bytes),),
    )


@settings(max_examples=150)
@given(streams(longest=60), ANY_SETTINGS, st.sampled_from([0, 60 * MIB, 150 * MIB]))
def test_compiled_and_uncompiled_rules_agree_word_for_word(
    case: tuple[np.ndarray, np.ndarray, list[int]], chosen: AllocatorSettings, limit: int
):
    sizes, events, emptied = case
    memory = _laid_out(sizes, events, np.array(emptied, dtype=np.int64), np.zeros(0, dtype=np.int64))
    memory[pieces.EXPANDABLE] = chosen.expandable_segments
    memory[pieces.MAX_SPLIT] = chosen.max_split_bytes or rules.UNLIMITED
    memory[pieces.LIMIT] = limit
    memory[pieces.COLLECT_ABOVE] = int(chosen.gc_threshold * limit) if limit and chosen.gc_threshold else -1
    plain = memory.tolist()
    status = rules.replay(plain)
    answer = replay(sizes, events, empty_cache_at=emptied, settings=chosen, limit_bytes=limit)
    assert answer.final_allocated_bytes == plain[pieces.ALLOCATED]
    assert answer.final_reserved_bytes == plain[pieces.RESERVED]
    assert answer.marks == (tuple(plain[plain[pieces.PEAKS_AT] : plain[pieces.PEAKS_AT] + 2]),)
    assert answer.out_of_memory == (status == rules.OUT_OF_MEMORY)
    assert answer.failed_event == (plain[pieces.AT] if answer.out_of_memory else -1)


@settings(max_examples=150)
@given(streams(), ANY_SETTINGS)
def test_without_a_limit_all_is_served_and_the_books_are_straight(
    case: tuple[np.ndarray, np.ndarray, list[int]], chosen: AllocatorSettings
):
    sizes, events, emptied = case
    answer = replay(sizes, events, empty_cache_at=emptied, settings=chosen)
    assert not answer.out_of_memory
    assert answer.peak_reserved_bytes >= answer.peak_allocated_bytes >= live_peak(sizes, events)
    assert answer.final_reserved_bytes >= answer.final_allocated_bytes
    events = freed_at_end(sizes, events)
    emptied = [*emptied, len(events)]
    end = replay(sizes, events, empty_cache_at=emptied, settings=chosen)
    assert (end.final_allocated_bytes, end.final_reserved_bytes) == (0, 0)


@settings(max_examples=150)
@given(streams(), ANY_SETTINGS, st.integers(1, 40))
def test_a_limit_is_kept_and_one_at_the_peak_costs_nothing(
    case: tuple[np.ndarray, np.ndarray, list[int]], chosen: AllocatorSettings, share: int
):
    sizes, events, emptied = case
    limit = share * 10 * MIB
    bound = replay(sizes, events, empty_cache_at=emptied, settings=chosen, limit_bytes=limit)
    assert bound.peak_reserved_bytes <= limit
    assert bound.out_of_memory == (bound.failed_event >= 0)
    if bound.out_of_memory:
        assert events[bound.failed_event] >= 0
    plain = AllocatorSettings(
        expandable_segments=chosen.expandable_segments, max_split_bytes=chosen.max_split_bytes
    )
    free = replay(sizes, events, empty_cache_at=emptied, settings=plain)
    at_peak = replay(
        sizes, events, empty_cache_at=emptied, settings=plain, limit_bytes=max(1, free.peak_reserved_bytes)
    )
    assert at_peak == free


@pytest.mark.parametrize("seed", range(20))
def test_expandable_segments_take_no_more_than_a_page_beyond_the_default(seed: int):
    # Steps as training does them: what forward keeps is freed in reverse, temporaries come and go.
    dice = random.Random(seed)
    kept = [int(2 ** dice.uniform(9, 26)) for _ in range(30)]
    sizes: list[int] = []
    events: list[int] = []
    for _ in range(4):
        stretch = dice.uniform(0.5, 1.5)
        saved = []
        for size in kept:
            first = len(sizes)
            sizes += [int(size * stretch), int(size * stretch) // 2]
            events += [first + 1, first, ~(first + 1)]
            saved.append(first)
        for first in reversed(saved):
            events += [len(sizes), ~first, ~len(sizes)]
            sizes.append(sizes[first])
    case = np.array(sizes, dtype=np.int64), np.array(events, dtype=np.int32)
    slack = 22 * MIB  # a page of each pool
    expandable = replay(*case, settings=EXPANDABLE)
    assert expandable.peak_reserved_bytes <= replay(*case).peak_reserved_bytes + slack
    assert expandable.peak_allocated_bytes <= expandable.peak_reserved_bytes


@settings(max_examples=50)
@given(streams())
def test_an_expandable_segment_without_holes_has_less_than_a_page_to_spare(
    case: tuple[np.ndarray, np.ndarray, list[int]],
):
    sizes = case[0]
    packed = replay(sizes, np.arange(len(sizes), dtype=np.int32), settings=EXPANDABLE)
    assert packed.peak_reserved_bytes - packed.peak_allocated_bytes < 22 * MIB


@pytest.mark.parametrize(
    ("size", "reserved"),
    [(1, 2), (MIB, 2), (MIB + 1, 20), (10 * MIB - 512, 20), (10 * MIB - 511, 10), (10 * MIB + 1, 12)],
)
def test_segments_have_the_sizes_of_the_real_allocator(size: int, reserved: int):
    answer = replay(np.array([size]), np.array([0], dtype=np.int32))
    assert answer.peak_reserved_bytes == reserved * MIB


@pytest.mark.parametrize(("size", "block"), [(1, 512), (512, 512), (513, 1024), (MIB + 1, MIB + 512)])
def test_requests_are_rounded_up_to_512_bytes(size: int, block: int):
    assert replay(np.array([size]), np.array([0], dtype=np.int32)).peak_allocated_bytes == block


def test_a_rest_of_a_megabyte_stays_with_its_block_and_a_larger_one_is_cut_off():
    # 19 MiB of 20 are served from one piece, whose rest of 1 MiB is held too; of 18 MiB 2 are cut off.
    whole = replay(*stream(20, -1, 19))
    assert whole.final_allocated_bytes == 20 * MIB
    cut = replay(*stream(20, -1, 18, 2))
    assert cut.final_allocated_bytes == cut.final_reserved_bytes == 20 * MIB


def test_the_smallest_free_block_that_suffices_is_taken():
    # Free: 40 and 30 MiB. 30 goes to the second, so 40 is still there for 40.
    assert replay(*stream(40, 30, -1, -2, 30, 40)).peak_reserved_bytes == 70 * MIB


def test_neighbours_merge_into_one_block_again():
    answer = replay(*stream(4, 4, 4, 4, 4, -2, -4, -3, -1, -5, 20))
    assert answer.peak_reserved_bytes == 20 * MIB


def test_a_hole_that_is_too_small_makes_the_device_give_more():
    answer = replay(*stream(16, -1, 9, 8))
    assert (answer.peak_reserved_bytes, answer.peak_allocated_bytes) == (36 * MIB, 17 * MIB)


def test_an_expandable_segment_fills_the_hole_and_maps_what_is_missing():
    # Default: 24 and then 40 anew. Expandable: 40 MiB of pages for 24, grown by one page to 60 for 50.
    case = stream(24, -1, 50)
    assert replay(*case).peak_reserved_bytes == 74 * MIB
    assert replay(*case, settings=EXPANDABLE).peak_reserved_bytes == 60 * MIB


def test_emptying_unmaps_whole_pages_between_live_blocks_and_later_requests_map_them_again():
    # 10, 50 and 10 MiB fill 80 MiB of pages; of the freed 50 (10 to 60) the pages 20 to 60 go back.
    case = stream(10, 50, 10, -2)
    kept = replay(*case, settings=EXPANDABLE)
    assert kept.final_reserved_bytes == 80 * MIB
    emptied = replay(*case, settings=EXPANDABLE, empty_cache_at=[4])
    assert emptied.final_reserved_bytes == 40 * MIB
    # 50 MiB fit into the hole again: 10 are mapped still, two pages are mapped anew.
    filled = replay(*stream(10, 50, 10, -2, 50), settings=EXPANDABLE, empty_cache_at=[4])
    assert filled.final_reserved_bytes == 80 * MIB


def test_under_a_limit_free_segments_are_given_back_before_a_request_fails():
    sizes, events = stream(40, -1, 60)
    assert replay(sizes, events).peak_reserved_bytes == 100 * MIB
    tight = replay(sizes, events, limit_bytes=70 * MIB)
    assert (tight.out_of_memory, tight.final_reserved_bytes) == (False, 60 * MIB)
    failed = replay(sizes, events, limit_bytes=50 * MIB)
    assert (failed.out_of_memory, failed.failed_event, failed.final_reserved_bytes) == (True, 2, 0)


def test_fragments_of_a_segment_in_use_cannot_be_given_back_so_the_request_fails():
    # 30 MiB hold 4 in use; 26 are free, but 28 need a segment of their own.
    case = stream(30, -1, 4, 28)
    assert replay(*case, limit_bytes=57 * MIB).out_of_memory
    assert not replay(*case, limit_bytes=58 * MIB).out_of_memory
    assert not replay(*case, settings=EXPANDABLE, limit_bytes=57 * MIB).out_of_memory


def test_blocks_above_the_largest_split_are_neither_split_nor_given_to_small_requests():
    # 60 MiB freed: 30 would be cut from it; unsplittable, it gets its own segment.
    case = stream(60, -1, 30)
    assert replay(*case).peak_reserved_bytes == 60 * MIB
    unsplit = AllocatorSettings(max_split_bytes=40 * MIB)
    assert replay(*case, settings=unsplit).peak_reserved_bytes == 90 * MIB
    # A request above it takes a block that is less than 20 MiB larger, whole.
    near = replay(*stream(60, -1, 41), settings=unsplit)
    assert (near.peak_reserved_bytes, near.final_allocated_bytes) == (60 * MIB, 60 * MIB)
    assert replay(*stream(60, -1, 40), settings=unsplit).peak_reserved_bytes == 100 * MIB


def test_only_as_many_unsplittable_blocks_are_released_as_a_request_needs():
    # 64 and 80 MiB are cached. Neither is near 44, so the smaller is released, and that suffices.
    sizes, events = stream(64, 80, -1, -2, 44)
    unsplit = AllocatorSettings(max_split_bytes=40 * MIB)
    answer = replay(sizes, events, settings=unsplit, limit_bytes=150 * MIB)
    assert answer.final_reserved_bytes == (80 + 44) * MIB


def test_garbage_collection_releases_what_idles_longest():
    # Freed segments of 30 and 40 MiB, the first idle for longer. At 50 more, above half of 200 MiB are
    # reserved: the older one goes, the younger stays.
    sizes, events = stream(30, 60, -1, 40, -3, 50)
    sweeping = AllocatorSettings(gc_threshold=0.5)
    assert replay(sizes, events, limit_bytes=200 * MIB).final_reserved_bytes == 180 * MIB
    assert replay(sizes, events, limit_bytes=200 * MIB, settings=sweeping).final_reserved_bytes == 150 * MIB


def test_marks_reset_the_peaks_as_torch_does():
    sizes, events = stream(30, 40, -2, 20, -1)
    answer = replay(sizes, events, mark_at=[3, 5])
    assert answer.marks == (
        (70 * MIB, 70 * MIB),
        (30 * MIB + 20 * MIB, 70 * MIB),
        (20 * MIB, 70 * MIB),
    )
    assert (answer.peak_allocated_bytes, answer.peak_reserved_bytes) == (70 * MIB, 70 * MIB)
    emptied = replay(sizes, events, mark_at=[5], empty_cache_at=[5])
    assert emptied.marks[1] == (20 * MIB, 40 * MIB)


@pytest.mark.parametrize("events", [[2], [0, 0], [-1], [0, -1, -1], [-3], [1]])
def test_an_event_that_cannot_be_is_refused(events: list[int]):
    with pytest.raises(ValueError, match="must allocate a free block"):
        replay(np.array([MIB, -5]), np.array(events, dtype=np.int32))


def test_an_empty_stream_takes_nothing():
    nothing = replay(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int32))
    assert (nothing.peak_allocated_bytes, nothing.peak_reserved_bytes) == (0, 0)


@pytest.mark.parametrize(
    "fields", [{"gc_threshold": 1.0}, {"max_split_bytes": 20 * MIB}, {"max_split_bytes": MIB + 1}]
)
def test_settings_that_pytorch_refuses_are_refused(fields: dict[str, float]):
    with pytest.raises(ValueError, match="but got"):
        AllocatorSettings(**fields)


def test_terabytes_are_counted_as_well():
    sizes, events = stream(*[700] * 1000, unit=GIB)
    assert replay(sizes, events).peak_reserved_bytes == 700_000 * GIB
    assert replay(sizes, events, settings=EXPANDABLE).peak_allocated_bytes == 700_000 * GIB


def test_no_compiler_is_imported_before_the_first_replay():
    code = "import sys, autopeft.cost.allocator; assert not {'llvmlite', 'numba'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
