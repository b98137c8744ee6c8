from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from autopeft.errors import DataError
from autopeft.workload.readers import read_dataset

ROWS = [{"text": f"row number {index}", "label": ("pos", "neg")[index % 2]} for index in range(100)]
TURNS = [{"prompt": f"question {index}", "completion": f"answer {index}"} for index in range(40)]


def write(path: Path, rows: Iterable[Mapping[str, Any]], delimiter: str = ",") -> str:
    rows = list(rows)
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".parquet":
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, rows[0].keys(), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    return str(path)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
def test_every_format_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    delimiter = "\t" if suffix == ".tsv" else ","
    dataset = read_dataset(write(tmp_path / f"data{suffix}", ROWS, delimiter))
    assert (dataset.name, dataset.task, dataset.labels) == ("data", "classification", ("neg", "pos"))
    assert [len(part) for part in (dataset.train, dataset.validation, dataset.test)] == [80, 10, 10]
    assert dataset.columns == {"text": "text", "label": "label"}
    assert dataset.metric.name == "accuracy"
    expected = read_dataset(write(tmp_path / "expected.csv", ROWS)).fingerprint
    assert dataset.fingerprint == expected


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_delimiter_is_found_whatever_the_texts_contain(tmp_path: Path, delimiter: str) -> None:
    rows = [{"text": f'{index}, well; "so"\nor\tso', "label": index % 3} for index in range(60)]
    dataset = read_dataset(write(tmp_path / "data.csv", rows, delimiter))
    assert dataset.labels == ("0", "1", "2")
    assert "\nor\tso" in dataset.train[0].text


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    file = tmp_path / "data.csv"
    lines = ["text,label", *(f"row {index},{index % 2}" for index in range(40))]
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert read_dataset(str(file)).columns == {"text": "text", "label": "label"}


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        (("id", "Sentence", "Sentiment"), {"text": "Sentence", "label": "Sentiment"}),
        (("review", "stars"), {"text": "review", "label": "stars"}),
        (("what_was_said", "class"), {"text": "what_was_said", "label": "class"}),
        (("id", "utterance", "intent"), {"text": "utterance", "label": "intent"}),
    ],
)
def test_text_and_label_are_guessed(tmp_path: Path, names: tuple[str, ...], columns: dict[str, str]) -> None:
    rows = [
        dict(zip(names, (index, f"words {index}", index % 2)[-len(names) :], strict=True))
        for index in range(40)
    ]
    dataset = read_dataset(write(tmp_path / "data.csv", rows))
    assert (dataset.task, dataset.columns) == ("classification", columns)


@pytest.mark.parametrize(
    "columns",
    [
        {"prompt": "prompt", "completion": "completion"},
        {"prompt": "Instruction", "completion": "Response"},
        {"prompt": "question", "completion": "answer"},
        {"prompt": "input", "completion": "output"},
        {"prompt": "instruction", "context": "input", "completion": "output"},
    ],
)
def test_prompt_and_completion_are_guessed(tmp_path: Path, columns: dict[str, str]) -> None:
    rows = [{column: f"{role} {index}" for role, column in columns.items()} for index in range(40)]
    dataset = read_dataset(write(tmp_path / "data.jsonl", rows))
    assert (dataset.task, dataset.columns, dataset.labels) == ("sft", columns, ())
    assert dataset.metric.direction == "minimize"
    assert ("context" in columns) == ("\n\ncontext" in dataset.train[0].text)


@pytest.mark.parametrize(
    ("role", "content", "user", "assistant"),
    [
        ("role", "content", "user", "assistant"),
        ("from", "value", "human", "gpt"),
    ],
)
def test_of_a_chat_the_last_answered_message_is_learnt(
    tmp_path: Path, role: str, content: str, user: str, assistant: str
) -> None:
    rows = [
        {
            "messages": [
                {role: "system", content: "be brief"},
                {role: user, content: "first"},
                {role: assistant, content: "one"},
                {role: user, content: f"second {index}"},
                {role: assistant, content: "two"},
                {role: user, content: "bye"},
            ]
        }
        for index in range(40)
    ]
    dataset = read_dataset(write(tmp_path / "chat.jsonl", rows))
    assert dataset.task == "sft"
    assert dataset.train[0].text.startswith("second")
    assert dataset.train[0].completion == "two"


def test_given_columns_and_task_override_the_guess(tmp_path: Path) -> None:
    rows = [{"text": f"t{i}", "label": i % 2, "question": f"q{i}", "answer": f"a{i}"} for i in range(40)]
    path = write(tmp_path / "data.csv", rows)
    assert read_dataset(path).task == "classification"
    assert read_dataset(path, task="sft").columns == {"prompt": "question", "completion": "answer"}
    given = read_dataset(path, columns={"text": "question"})
    assert given.columns == {"text": "question", "label": "label"}
    assert read_dataset(path, columns={"prompt": "text"}).columns == {
        "prompt": "text",
        "completion": "answer",
    }


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ((10, 9), ("9", "10")),
        ((True, False), ("False", "True")),
        ((1.0, 0.0), ("0", "1")),
        (("b", "A"), ("A", "b")),
    ],
)
def test_labels_become_sorted_class_names(
    tmp_path: Path, values: tuple[Any, Any], names: tuple[str, ...]
) -> None:
    rows = [{"text": f"t{index}", "label": values[index % 2]} for index in range(40)]
    dataset = read_dataset(write(tmp_path / "data.jsonl", rows))
    assert dataset.labels == names
    row = dataset.train[0]
    assert dataset.labels[row.label] in str(values[int(row.text[1:]) % 2])


def test_a_split_column_is_honoured_and_completed(tmp_path: Path) -> None:
    rows = [{**row, "split": "test" if index < 30 else "train"} for index, row in enumerate(ROWS)]
    dataset = read_dataset(write(tmp_path / "data.csv", rows))
    assert {row.text for row in dataset.test} == {f"row number {index}" for index in range(30)}
    assert (len(dataset.validation), len(dataset.train)) == (7, 63)
    assert dataset.columns["split"] == "split"


def test_a_test_file_is_the_test_split_and_leaves_no_row_in_training(tmp_path: Path) -> None:
    train = write(tmp_path / "train.csv", ROWS)
    test = write(tmp_path / "test.jsonl", ROWS[:20])
    dataset = read_dataset(train, test_path=test)
    assert len(dataset.test) == 20
    assert not {row.text for row in dataset.test} & {
        row.text for row in (*dataset.train, *dataset.validation)
    }
    assert any("20 rows left out" in note for note in dataset.notes)


def test_repeated_rows_are_in_one_split_only(tmp_path: Path) -> None:
    dataset = read_dataset(write(tmp_path / "data.csv", [*ROWS, *ROWS]))
    texts = [row.text for part in (dataset.train, dataset.validation, dataset.test) for row in part]
    assert sorted(texts) == sorted(row["text"] for row in ROWS)
    assert any("100 repeated" in note for note in dataset.notes)


def test_training_rows_are_limited_with_the_share_of_each_class(tmp_path: Path) -> None:
    path = write(tmp_path / "data.csv", ROWS)
    dataset = read_dataset(path, train_rows=20)
    assert Counter(row.label for row in dataset.train) == {0: 10, 1: 10}
    assert dataset.test == read_dataset(path).test


def test_the_seed_decides_the_split_and_the_fingerprint(tmp_path: Path) -> None:
    path = write(tmp_path / "data.csv", ROWS)
    assert read_dataset(path, seed=1) == read_dataset(path, seed=1)
    assert read_dataset(path, seed=1).fingerprint != read_dataset(path, seed=2).fingerprint


def csv_lines(*lines: str) -> bytes:
    return "\n".join(["text,label", *(f"t{index},{index % 2}" for index in range(30)), *lines]).encode()


BAD_FILES = {
    "empty": ("data.csv", b" \n", "is empty"),
    "header only": ("data.csv", b"text,label\n", "was read as the header: 'text, label'"),
    "a page": ("data.csv", b"<html>no table</html>\n", "was read as the header: '<html>no table</html>'"),
    "suffix": ("data.xlsx", b"x", r"must end in one of \.csv"),
    "encoding": ("data.csv", csv_lines("caf\xe9,1").decode().encode("latin-1"), "line 32: .* UTF-8"),
    "no columns": ("data.csv", b"a,b,c\n1,2,3\n", r"must have columns .* but has 'a', 'b', 'c'"),
    "twice": ("data.csv", b"text,text\n1,2\n", "'text' is not"),
    "ragged": ("data.csv", csv_lines("a,b,c"), "line 32: a row must have 2 cells"),
    "open quote": ("data.csv", csv_lines('"never closed,1'), "line 32: .*quote"),
    "one class": ("data.csv", b"text,label\n" + b"a,1\n" * 30, "at least 2 classes"),
    "empty label": ("data.csv", csv_lines("words,"), "line 32: 'label' must name a class"),
    "nan label": ("data.jsonl", b'{"text": "a", "label": NaN}\n', "line 1: 'label' must name a class"),
    "nan word": ("data.csv", csv_lines("words,nan"), "line 32: 'label'"),
    "real label": (
        "data.jsonl",
        b'{"text": "a", "label": 0.5}\n',
        "line 1: 'label' must be a word or an integer",
    ),
    "list label": ("data.jsonl", b'{"text": "a", "label": [1]}\n', "line 1: 'label' must be a word"),
    "empty text": ("data.csv", csv_lines(" ,1"), "line 32: 'text' must hold text"),
    "long cell": ("data.csv", csv_lines("x" * 1_000_001 + ",1"), "line 32: field larger"),
    "long value": (
        "data.jsonl",
        json.dumps({"text": "x" * 1_000_001, "label": 1}).encode(),
        "line 1: a cell must hold at most",
    ),
    "too few": (
        "data.csv",
        b"text,label\n" + b"".join(b"t%d,%d\n" % (i, i % 2) for i in range(19)),
        "at least 20",
    ),
    "no class": (
        "data.csv",
        b"text,label\n" + b"".join(b"t%d,l%d\n" % (i, i) for i in range(50)),
        "no class",
    ),
    "bad json line": ("data.jsonl", b'{"text": "a", "label": 1}\n{"text": \n', "line 2: no valid JSON"),
    "json line no object": ("data.jsonl", b"[1]\n", "line 1: a row must be a JSON object"),
    "bad json": ("data.json", b"[{]", "line 1: no valid JSON"),
    "huge number": (
        "data.jsonl",
        b'{"text": "a", "label": ' + b"9" * 5000 + b"}",
        "line 1: .*number too long",
    ),
    "json no list": ("data.json", b"{}", "must hold a JSON list"),
    "deep json": ("data.json", b"[" * 100_000, "nested too deeply"),
    "parquet": ("data.parquet", b"not parquet", "no readable Parquet"),
    "chat": ("data.jsonl", b'{"messages": "hello"}\n', "line 1: messages must be a list"),
    "split": ("data.csv", b"text,label,split\na,1,later\nb,0,train\n", "line 2: 'split' must be one of"),
}


@pytest.mark.parametrize(("name", "content", "message"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_file_is_one_clear_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_dataset(str(file))
    assert "\n" not in str(caught.value)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_dataset(str(tmp_path / "missing.csv"))
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match="directory"):
        read_dataset(str(tmp_path / "folder.csv"))


def test_a_wrong_column_or_role_lists_those_there_are(tmp_path: Path) -> None:
    path = write(tmp_path / "data.csv", ROWS)
    with pytest.raises(DataError, match="no column 'stars'; it has 'text', 'label'"):
        read_dataset(path, columns={"label": "stars"})
    with pytest.raises(DataError, match="must play one of text, image"):
        read_dataset(path, columns={"colour": "text"})
    with pytest.raises(DataError, match="must have columns for sft"):
        read_dataset(path, task="sft")


def test_a_test_file_with_other_classes_or_columns_is_an_error(tmp_path: Path) -> None:
    train = write(tmp_path / "train.csv", ROWS)
    with pytest.raises(DataError, match="line 2: the class 'new' must occur in the training rows"):
        read_dataset(train, test_path=write(tmp_path / "test.csv", [{"text": "a", "label": "new"}]))
    with pytest.raises(DataError, match="must have the column 'label'"):
        read_dataset(train, test_path=write(tmp_path / "other.csv", [{"text": "a", "class": "pos"}]))


def test_a_class_only_in_the_test_split_is_an_error(tmp_path: Path) -> None:
    rows = [{**row, "split": "train"} for row in ROWS] + [{"text": "x", "label": "new", "split": "test"}]
    with pytest.raises(DataError, match="'new' has none"):
        read_dataset(write(tmp_path / "data.csv", rows))


def test_a_prompt_for_supervised_fine_tuning_is_split_too(tmp_path: Path) -> None:
    dataset = read_dataset(write(tmp_path / "turns.csv", TURNS))
    assert [len(part) for part in (dataset.train, dataset.validation, dataset.test)] == [32, 4, 4]


def test_half_characters_are_replaced(tmp_path: Path) -> None:
    lines = [f'{{"text": "t{index} \\ud800", "label": {index % 2}}}' for index in range(40)]
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    dataset = read_dataset(str(tmp_path / "data.jsonl"))
    assert all(row.text.endswith(" ?") for row in dataset.train)


def test_a_class_of_hardly_any_rows_is_said(tmp_path: Path) -> None:
    rows = [*ROWS, {"text": "rain is expected", "label": "weather"}]
    dataset = read_dataset(write(tmp_path / "rows.csv", rows))
    assert "few training rows, which are hardly learnt from, have 'weather' (1)" in dataset.notes
    assert not any(
        "few training rows" in note for note in read_dataset(write(tmp_path / "b.csv", ROWS)).notes
    )
