from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopeft.errors import DataError
from autopeft.workload.dataset import Example
from autopeft.workload.splits import allocate, carve, deduplicate, seal, shrink, without


def rows(*counts: int) -> tuple[Example, ...]:
    return tuple(
        Example(text=f"{label}-{index}", label=label)
        for label, count in enumerate(counts)
        for index in range(count)
    )


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.integers(0, 200))
def test_shares_add_up_and_leave_one_row_of_each_class(counts: list[int], wanted: int) -> None:
    shares = allocate(counts, wanted)
    assert sum(shares) == min(wanted, sum(counts) - len(counts))
    assert all(0 <= share < count for share, count in zip(shares, counts, strict=True))


@given(st.lists(st.integers(1, 20), min_size=1, max_size=4), st.integers(0, 30), st.integers(0, 5))
def test_carving_loses_and_doubles_nothing(counts: list[int], size: int, seed: int) -> None:
    everything = rows(*counts)
    parts = carve(everything, [size, 3], seed)
    assert sorted(row.text for part in parts for row in part) == sorted(row.text for row in everything)
    assert {row.label for row in parts[-1]} == set(range(len(counts)))


def test_parts_have_the_shares_of_the_classes() -> None:
    test, rest = carve(rows(900, 100), [100], seed=0)
    assert Counter(row.label for row in test) == {0: 90, 1: 10}
    assert Counter(row.label for row in rest) == {0: 810, 1: 90}


def test_a_split_is_decided_by_its_seed() -> None:
    assert carve(rows(50, 50), [10], seed=1) == carve(rows(50, 50), [10], seed=1)
    assert carve(rows(50, 50), [10], seed=1) != carve(rows(50, 50), [10], seed=2)


def test_completions_of_one_prompt_stay_together() -> None:
    turns = [Example(text=f"q{index % 10}", completion=f"a{index}") for index in range(100)]
    test, rest = carve(turns, [20], seed=0)
    assert len(test) == 20
    assert not {row.text for row in test} & {row.text for row in rest}


def test_a_prompt_that_all_rows_share_is_split_all_the_same() -> None:
    turns = [Example(text="Summarise.", completion=f"a{index}") for index in range(100)]
    test, rest = carve(turns, [20], seed=0)
    assert (len(test), len(rest)) == (20, 80)


def test_copies_go_and_contradictions_go_entirely() -> None:
    kept, copies, contradictory = deduplicate(
        [
            Example(text="a", label=0),
            Example(text=" a ", label=0),
            Example(text="b", label=0),
            Example(text="b", label=1),
        ]
    )
    assert ([row.text for row in kept], copies, contradictory) == (["a"], 1, 2)


def test_rows_of_a_held_out_split_are_left_out_whatever_their_label() -> None:
    train = (Example(text="a", label=0), Example(text="b", label=1))
    assert without(train, [Example(text="a ", label=1)]) == (train[1],)


def test_shrinking_keeps_every_class() -> None:
    few = shrink(rows(97, 2, 1), 10, seed=0)
    assert len(few) == 10
    assert {row.label for row in few} == {0, 1, 2}


def test_fewer_rows_than_classes_is_an_error() -> None:
    with pytest.raises(DataError, match="`train_rows >= 3`"):
        shrink(rows(9, 9, 9), 2, seed=0)


def test_the_fingerprint_changes_with_any_row_and_any_split() -> None:
    one, two, three = rows(1), rows(2)[1:], rows(3)[2:]
    prints = {
        seal(name="x", task="sft", splits=splits, source="here").fingerprint
        for splits in [(one, two, three), (two, one, three), ((*one, *two), two, three)]
    }
    assert len(prints) == 3
