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
