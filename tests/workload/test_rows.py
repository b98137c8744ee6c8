"""Tests of autopeft/workload/rows.py: cells become rows of each task, or one line that says what is wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from autopeft.errors import DataError
from autopeft.workload.dataset import Dataset
from autopeft.workload.readers import read_dataset


def read(tmp_path: Path, rows: Sequence[dict[str, Any]], **options: Any) -> Dataset:
    file = tmp_path / "data.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    return read_dataset(str(file), **options)


RATED = [{"text": f"row {index}", "score": index / 4} for index in range(60)]


def test_many_numbers_with_fractions_are_a_regression_and_that_is_said(tmp_path: Path) -> None:
    dataset = read(tmp_path, RATED)
    assert (dataset.task, dataset.metric.name) == ("regression", "relative absolute error")
    assert dataset.columns == {"text": "text", "number": "score"}
    assert any("'score' holds many numbers with fractions" in note for note in dataset.notes)
    assert {row.number for row in (*dataset.train, *dataset.validation, *dataset.test)} == {
        index / 4 for index in range(60)
    }


def test_stars_stay_classes_and_the_other_way_is_named(tmp_path: Path) -> None:
    rows = [{"text": f"row {index}", "stars": index % 5 + 1} for index in range(60)]
    dataset = read(tmp_path, rows)
    assert (dataset.task, dataset.labels) == ("classification", ("1", "2", "3", "4", "5"))
    assert any("--task regression" in note for note in dataset.notes)
    amounts = read(tmp_path, rows, task="regression")
    assert (amounts.task, amounts.columns["number"]) == ("regression", "stars")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), None, "", "much", True])
def test_a_number_that_is_none_is_refused_with_its_line(tmp_path: Path, number: object) -> None:
    rows = [*RATED[:30], {"text": "odd", "score": number}, *RATED[30:]]
    with pytest.raises(DataError, match=r"line 31: 'score' must hold a finite number"):
        read(tmp_path, rows, task="regression")


def test_an_empty_cell_does_not_make_amounts_classes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'score' must hold a finite number, but holds None"):
        read(tmp_path, [*RATED, {"text": "odd", "score": None}])


def test_numbers_that_are_all_equal_cannot_be_learnt(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 2 different numbers"):
        read(tmp_path, [{"text": f"row {index}", "score": 1.5} for index in range(40)], task="regression")


def test_equal_texts_with_different_numbers_are_left_out(tmp_path: Path) -> None:
    dataset = read(tmp_path, [*RATED, {"text": "row 7", "score": 3.3}])
    assert any("2 train rows left out" in note for note in dataset.notes)


TAGGED = [
    {"tokens": ["Ada", "of", "Rome", str(index)], "ner_tags": ["B-p", "O", "B-l", "O"]} for index in range(60)
]


def test_words_and_tags_are_guessed_and_o_comes_first(tmp_path: Path) -> None:
    dataset = read(tmp_path, TAGGED)
    assert (dataset.task, dataset.metric.name) == ("token-classification", "F1")
    assert dataset.columns == {"words": "tokens", "tags": "ner_tags"}
    assert dataset.labels == ("O", "B-l", "B-p")
    assert dataset.train[0].tags == (2, 0, 1, 0)
    assert dataset.train[0].text == " ".join(dataset.train[0].words)


def test_a_conll_file_gives_the_same_rows(tmp_path: Path) -> None:
    file = tmp_path / "data.conll"
    rows = ["\n".join(f"{word} x {tag}" for word, tag in zip(*row.values(), strict=True)) for row in TAGGED]
    file.write_text("-DOCSTART- -X- O\n\n" + "\n\n".join(rows))
    assert read_dataset(str(file)).train == read(tmp_path, TAGGED).train


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"tokens": ["a", "b"], "ner_tags": ["O"]}, "2 words and 1 tags"),
        ({"tokens": [], "ner_tags": []}, "'tokens' must hold a list of words"),
        ({"tokens": ["a", ""], "ner_tags": ["O", "O"]}, "none of them empty"),
        ({"tokens": ["a"], "ner_tags": [None]}, "'ner_tags' must hold a list of words"),
        ({"tokens": 7, "ner_tags": ["O"]}, "but holds 7"),
    ],
)
def test_words_without_their_tags_are_refused_with_their_line(
    tmp_path: Path, row: dict[str, Any], says: str
) -> None:
    with pytest.raises(DataError, match=f"line 61: .*{says}"):
        read(tmp_path, [*TAGGED, row])


def test_a_tag_that_only_test_rows_have_is_refused(tmp_path: Path) -> None:
    test = tmp_path / "test.jsonl"
    test.write_text(json.dumps({"tokens": ["x"], "ner_tags": ["B-new"]}))
    with pytest.raises(DataError, match="the class 'B-new' must occur in the training rows"):
        read(tmp_path, TAGGED, test_path=str(test))


def test_text_alone_is_learnt_from_only_where_that_is_said(tmp_path: Path) -> None:
    rows = [{"text": f"row {index}"} for index in range(40)]
    with pytest.raises(DataError, match="must have columns for"):
        read(tmp_path, rows)
    dataset = read(tmp_path, rows, task="masked-lm")
    assert (dataset.labels, dataset.metric.name, dataset.columns) == ((), "loss", {"text": "text"})


def test_an_empty_completion_is_refused_with_its_line(tmp_path: Path) -> None:
    rows = [{"prompt": f"q {index}", "completion": "a" if index else " "} for index in range(40)]
    with pytest.raises(DataError, match="line 1: 'completion' must hold text, but is empty"):
        read(tmp_path, rows)


PAIRS = [{"prompt": f"q {index}", "chosen": f"yes {index}", "rejected": "no"} for index in range(40)]


def test_pairs_of_answers_are_guessed(tmp_path: Path) -> None:
    dataset = read(tmp_path, PAIRS)
    assert (dataset.task, dataset.metric.name) == ("dpo", "preference accuracy")
    assert dataset.columns == {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}
    assert all(row.rejected == "no" and row.completion.startswith("yes") for row in dataset.train)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "q", "chosen": "same", "rejected": " same "}, "must differ, but are equal"),
        ({"prompt": "q", "chosen": "yes", "rejected": ""}, "'rejected' must hold text, but is empty"),
    ],
)
def test_pairs_that_say_nothing_are_refused_with_their_line(
    tmp_path: Path, row: dict[str, str], says: str
) -> None:
    with pytest.raises(DataError, match=f"line 41: .*{says}"):
        read(tmp_path, [*PAIRS, row])
