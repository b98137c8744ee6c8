"""Tests of autopeft/train/spans.py: what tags mark, by seqeval's and the CoNLL-2000 scorer's definition."""

from __future__ import annotations

import pytest

from autopeft.train.spans import marks_spans, shared, spans_of


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ("O O", set()),
        ("B-a", {("a", 0, 0)}),
        ("B-a I-a O B-b", {("a", 0, 1), ("b", 3, 3)}),
        ("B-a B-a I-a", {("a", 0, 0), ("a", 1, 2)}),
        ("O I-a I-a", {("a", 1, 2)}),
        ("B-a I-b I-b", {("a", 0, 0), ("b", 1, 2)}),
        ("I-a I-b", {("a", 0, 0), ("b", 1, 1)}),
    ],
)
def test_the_spans_of_a_row(tags: str, spans: set[tuple[str, int, int]]) -> None:
    assert spans_of(tags.split()) == spans


def test_only_whole_spans_of_the_right_type_are_shared() -> None:
    said, right = ["B-a", "I-a", "O", "B-b", "O"], ["B-a", "O", "O", "B-b", "B-c"]
    assert shared(said, right, spans=True, outside="O") == (1, 2, 3)


def test_without_spans_tokens_count_whose_tag_is_not_the_usual_one() -> None:
    said, right = ["noun", "verb", "noun"], ["verb", "verb", "noun"]
    assert shared(said, right, spans=False, outside="noun") == (1, 1, 2)


@pytest.mark.parametrize(
    ("tags", "spans"),
    [(("O", "B-a", "I-a"), True), (("O",), False), (("O", "noun"), False), (("O", "B-"), False)],
)
def test_tags_mark_spans_where_all_but_o_begin_or_go_on(tags: tuple[str, ...], spans: bool) -> None:
    assert marks_spans(tags) == spans
