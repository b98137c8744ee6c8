"""Tests of autopeft/train/masking.py: which tokens are hidden, and by what."""

from __future__ import annotations

import random

from autopeft.train.masking import mask_tokens
from autopeft.workload.tokens import IGNORED

ROW = [1, *range(10, 10_010), 2]
MASK = 5


def hidden(row: list[int], seed: int = 0) -> tuple[list[int], list[int]]:
    return mask_tokens(row, mask=MASK, special={1, 2, MASK}, vocabulary=20_000, dice=random.Random(seed))


def test_about_15_of_100_tokens_are_hidden_80_of_them_by_the_mask() -> None:
    shown, wanted = hidden(ROW)
    asked = [place for place, token in enumerate(wanted) if token != IGNORED]
    assert 0.14 < len(asked) / 10_000 < 0.16
    masked = sum(shown[place] == MASK for place in asked)
    kept = sum(shown[place] == ROW[place] for place in asked)
    assert 0.77 < masked / len(asked) < 0.83
    assert 0.07 < kept / len(asked) < 0.13
    assert all(wanted[place] == ROW[place] for place in asked)


def test_what_is_not_asked_stays_and_special_tokens_are_never_hidden() -> None:
    shown, wanted = hidden(ROW)
    assert (wanted[0], wanted[-1], shown[0], shown[-1]) == (IGNORED, IGNORED, 1, 2)
    assert all(one == other for one, other, asked in zip(shown, ROW, wanted, strict=True) if asked == IGNORED)


def test_the_shortest_row_still_asks_for_one_token() -> None:
    assert all(hidden([1, 77, 2], seed)[1] == [IGNORED, 77, IGNORED] for seed in range(20))


def test_the_same_dice_hide_the_same() -> None:
    assert hidden(ROW, 3) == hidden(ROW, 3) != hidden(ROW, 4)
