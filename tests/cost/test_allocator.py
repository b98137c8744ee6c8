"""Tests of autopeft/cost/allocator.py."""

from __future__ import annotations

import random

import pytest

from autopeft.cost.allocator import CachingAllocator, rounded, segment_size
from autopeft.units import MIB


@pytest.mark.parametrize(("size", "block"), [(1, 512), (512, 512), (513, 1024), (MIB, MIB)])
def test_requests_are_rounded_up_to_512_bytes(size: int, block: int):
    assert rounded(size) == block


@pytest.mark.parametrize(
    ("block", "segment"),
    [(512, 2), (MIB, 2), (MIB + 512, 20), (10 * MIB - 512, 20), (10 * MIB, 10), (11 * MIB, 12)],
)
def test_segments_have_the_sizes_of_the_real_allocator(block: int, segment: int):
    assert segment_size(block) == segment * MIB


def test_small_requests_share_one_segment():
    device = CachingAllocator()
    for name in range(4):
        device.allocate(name, MIB // 2)
    assert device.reserved_bytes == 2 * MIB
    device.allocate(9, 1)
    assert device.reserved_bytes == 4 * MIB


def test_a_freed_block_serves_again_without_growth():
    device = CachingAllocator()
    for turn in range(10):
        device.allocate(turn, 30 * MIB)
        device.free(turn)
    assert device.reserved_bytes == 30 * MIB
    assert device.allocated_bytes == 0


def test_neighbours_merge_into_one_block_again():
    device = CachingAllocator()
    for name in range(5):
        device.allocate(name, 4 * MIB)
    for name in (1, 3, 2, 0, 4):
        device.free(name)
    device.allocate(9, 20 * MIB - 512)
    assert device.reserved_bytes == 20 * MIB


def test_a_hole_that_is_too_small_makes_the_device_give_more():
    device = CachingAllocator()
    device.allocate(0, 16 * MIB)
    device.free(0)
    device.allocate(1, 9 * MIB)
    device.allocate(2, 8 * MIB)
    assert device.reserved_bytes == 36 * MIB
    assert device.allocated_bytes == 17 * MIB


def test_emptying_the_cache_gives_back_only_wholly_free_segments():
    device = CachingAllocator()
    device.allocate(0, 30 * MIB)
    device.allocate(1, 4 * MIB)
    device.free(0)
    device.empty_cache()
    assert device.reserved_bytes == 20 * MIB
    device.free(1)
    device.empty_cache()
    assert device.reserved_bytes == 0
    assert device.peak_reserved_bytes == 50 * MIB


def test_any_order_of_requests_keeps_the_books_straight():
    dice = random.Random(1)
    device = CachingAllocator()
    alive: dict[int, int] = {}
    for name in range(4000):
        if alive and dice.random() < 0.5:
            device.free(dice.choice(tuple(alive)) if dice.random() < 0.5 else max(alive))
            alive = {each: size for each, size in alive.items() if each in device._used}
        size = int(2 ** dice.uniform(4, 25))
        device.allocate(name, size)
        alive[name] = size
        assert sum(map(rounded, alive.values())) <= device.allocated_bytes <= device.reserved_bytes
    for name in tuple(alive):
        device.free(name)
    assert device.allocated_bytes == 0
    device.empty_cache()
    assert device.reserved_bytes == 0
