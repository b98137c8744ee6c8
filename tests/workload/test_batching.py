"""Tests of autopeft/workload/batching.py."""

from __future__ import annotations

import math
import random

import pytest

from autopeft.errors import UnsupportedError
from autopeft.workload.batching import (
    bucketed_batches,
    mean_padded_length,
    pack,
    packed,
    require_packable,
    truncate,
)
from autopeft.workload.dataset import Lengths, Workload


def _rows(count: int, seed: int = 0) -> list[int]:
    dice = random.Random(seed)
    return [max(3, min(128, round(dice.lognormvariate(3.3, 0.6)))) for _ in range(count)]


def test_every_row_is_in_exactly_one_batch():
    batches = bucketed_batches(_rows(1003), 16, seed=1)
    assert sorted(row for batch in batches for row in batch) == list(range(1003))
    assert sorted(len(batch) for batch in batches)[:2] == [1003 % 16, 16]


def test_one_seed_gives_one_order_and_another_seed_another():
    lengths = _rows(400)
    assert bucketed_batches(lengths, 8, seed=3) == bucketed_batches(lengths, 8, seed=3)
    assert bucketed_batches(lengths, 8, seed=3) != bucketed_batches(lengths, 8, seed=4)


def test_batches_hold_rows_of_similar_length():
    lengths = _rows(2000)
    padded = sum(
        max(lengths[row] for row in batch) * len(batch) for batch in bucketed_batches(lengths, 16, 0)
    )
    assert padded / sum(lengths) < 1.12


@pytest.mark.parametrize(("count", "batch_size"), [(5000, 16), (5000, 4), (200, 16), (40, 32), (10, 16)])
def test_the_mean_padded_length_is_what_batches_have(count: int, batch_size: int):
    lengths = _rows(count)
    found = [
        max(lengths[row] for row in batch)
        for seed in range(40)
        for batch in bucketed_batches(lengths, batch_size, seed)
    ]
    expected = mean_padded_length(Lengths.of(lengths), batch_size, rows=count)
    assert expected == pytest.approx(sum(found) / len(found), rel=0.04)


def test_equal_rows_need_no_padding():
    assert mean_padded_length(Lengths.constant(77), 16) == 77


def test_no_rows_make_no_batches():
    assert bucketed_batches([], 16, seed=0) == []


def test_truncation_cuts_the_long_rows_only():
    lengths = _rows(3000)
    cut = truncate(Lengths.of(lengths), 40)
    assert cut.longest == 40
    assert cut.mean == pytest.approx(sum(min(n, 40) for n in lengths) / len(lengths), rel=0.02)
    assert truncate(cut, 64) is cut


@pytest.mark.parametrize("seed", range(5))
def test_packs_hold_every_row_once_and_never_too_much(seed: int) -> None:
    lengths = random.Random(seed).choices(range(1, 101), k=300)
    packs = pack(lengths, 100)
    assert sorted(row for rows in packs for row in rows) == list(range(300))
    sizes = [sum(lengths[row] for row in rows) for rows in packs]
    assert max(sizes) <= 100
    assert len(packs) <= 1.05 * math.ceil(sum(lengths) / 100) + 1


def test_a_row_goes_where_it_leaves_the_least_room() -> None:
    assert pack([6, 5, 4, 3], 10) == [[0, 2], [1, 3]]


def test_a_packed_workload_has_fewer_rows_that_are_all_full() -> None:
    plain = Workload(task="sft", lengths=Lengths.of([10, 20, 30]), rows=100)
    full = packed(plain, 40)
    assert (full.lengths.percentiles[0], full.lengths.longest, full.rows) == (40, 40, 50)
    exact = Workload(task="sft", lengths=Lengths.constant(40), rows=7)
    assert packed(exact, 40) == exact
    few = packed(Workload(task="sft", lengths=Lengths.constant(5), rows=3), 40)
    assert (few.lengths.longest, few.rows) == (15, 1)


def test_only_models_that_were_seen_to_keep_packed_rows_apart_may_pack_them() -> None:
    require_packable("decoder", "llama", "sft")
    for family, model_type, task in (
        ("decoder", "opt", "sft"),
        ("decoder", "nobody-knows", "sft"),
        ("decoder", "llama", "classification"),
        ("encoder-decoder", "t5", "sft"),
    ):
        with pytest.raises(UnsupportedError, match="leave packing out"):
            require_packable(family, model_type, task)
