"""A user's file becomes a Dataset: columns found, labels named, rows split without leakage."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autopeft.errors import DataError
from autopeft.workload.columns import MEDIA_ROLES, assign, has_text
from autopeft.workload.dataset import Dataset, Example, Task
from autopeft.workload.folders import SPLITS
from autopeft.workload.media import KINDS, admit, find_media
from autopeft.workload.sources import read_source
from autopeft.workload.splits import Rows, carve, deduplicate, seal, shrink, without
from autopeft.workload.tables import Table

_FEWEST = 20
_HELD_OUT_SHARE = 0.1
_MOST_VALIDATION, _MOST_TEST = 1_000, 2_000
"""More held-out rows than these cost time in every trial and hardly sharpen a score."""

_SPEAKERS = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}


def read_dataset(
    path: str,
    *,
    task: Task | None = None,
    columns: Mapping[str, str] | None = None,
    test_path: str | None = None,
    seed: int = 0,
    train_rows: int | None = None,
) -> Dataset:
    """Read labelled rows from CSV, JSON Lines, a JSON list or Parquet, or from a directory or hub dataset.

    A row is a text, or names an image or a sound; a directory is one of class folders of such files, or of
    what the `datasets` library saves, or of Parquet files (see `sources`).

    Rows are split as a "split" column says; what it leaves open is dealt out at random with the same
    share of every class: 10 % validation, 10 % test (unless `test_path` brings it), the rest training.

    Args:
        path: the file or directory of training rows, or the id of a hub dataset.
        task: what is learnt; None guesses it from the columns.
        columns: column by role (text, image, audio, label, prompt, context, completion, messages, split),
            where the guess is wrong.
        test_path: a file of test rows with the same columns.
        seed: decides the random split.
        train_rows: use at most this many training rows.

    Raises:
        DataError: a file is missing, malformed, or cannot be learnt from.
    """
    table = read_source(path)
    task, roles = assign(table.columns, _with_media(table, columns or {}), task, path)
    test_table = read_source(test_path) if test_path else None
    if test_table:
        _require_columns(test_table, [column for role, column in roles.items() if role != "split"])
    names = _class_names(table, roles) if task == "classification" else ()
    notes = [*table.notes]
    if "messages" in roles:
        notes.append("of each conversation, the last answered message")
    rows = _examples(table, roles, names)
    given = _given_splits(table, roles, rows, notes)
    if test_table:
        given["test"] = _examples(test_table, roles, names)
    splits = _split(given, seed, notes)
    splits = (shrink(splits[0], train_rows, seed), *splits[1:])
    _check_classes(splits[0], names, path)
    notes.append(
        "rows: " + ", ".join(f"{len(part)} {name}" for part, name in zip(splits, given, strict=True))
    )
    return seal(
        name=Path(path).stem,
        task=task,
        medium=next((KINDS[role].medium for role in MEDIA_ROLES if role in roles), "text"),
        splits=splits,
        labels=names,
        columns=roles,
        source=path,
        notes=notes,
    )


def _with_media(table: Table, given: Mapping[str, str]) -> Mapping[str, str]:
    """Add the column that names images or sounds to what the user said, where rows have no other text."""
    if given.keys() & {*MEDIA_ROLES, "prompt", "completion", "messages"}:
        return given
    found = find_media(table.rows, [column for column in table.columns if column not in given.values()])
    if "image" in found and ("text" in given or has_text(table.columns)):
        return given
    return {**found, **given}


def _given_splits(
    table: Table, roles: Mapping[str, str], rows: Sequence[Example], notes: list[str]
) -> dict[str, list[Example]]:
    """Deal rows as the split column says; without one, all are training rows."""
    given: dict[str, list[Example]] = {"train": [], "validation": [], "test": []}
    if "split" not in roles:
        given["train"] = list(rows)
        return given
    for example, cells, place in zip(rows, table.rows, table.places, strict=True):
        word = str(cells.get(roles["split"])).strip().lower()
        if word not in SPLITS:
            raise DataError(
                f"{table.file}, {place}: {roles['split']!r} must be one of {', '.join(SPLITS)}, "
                f"but is {word!r}."
            )
        given[SPLITS[word]].append(example)
    notes.append(f"split as the column {roles['split']!r} says")
    return given


def _split(given: Mapping[str, Sequence[Example]], seed: int, notes: list[str]) -> tuple[Rows, Rows, Rows]:
    """Complete the splits that are given, without any row in two of them."""
    unique = {}
    for name, rows in given.items():
        unique[name], copies, contradictory = deduplicate(rows)
        if copies:
            notes.append(f"{copies} repeated {name} rows left out")
        if contradictory:
            notes.append(f"{contradictory} {name} rows left out: the same text has different labels")
    test = unique["test"]
    validation = without(unique["validation"], test)
    train = without(unique["train"], test, validation)
    leaked = sum(map(len, unique.values())) - len(test) - len(validation) - len(train)
    notes.append(
        f"{leaked} rows left out that were also in a held-out split" if leaked else "no row is in two splits"
    )
    if len(train) < _FEWEST:
        raise DataError(
            f"there must be at least {_FEWEST} different training rows, but there are {len(train)}."
        )
    share = max(1, round(_HELD_OUT_SHARE * len(train)))
    if not test:
        test, train = carve(train, [min(share, _MOST_TEST)], seed)
        notes.append(f"{len(test)} test rows drawn at random (seed {seed}), stratified by class")
    if not validation:
        validation, train = carve(train, [min(share, _MOST_VALIDATION)], seed + 1)
        notes.append(f"{len(validation)} validation rows drawn at random (seed {seed}), stratified by class")
    return train, validation, test


def _check_classes(train: Rows, names: Sequence[str], path: str) -> None:
    """Make sure that every class can be learnt."""
    if not names:
        return
    counts = Counter(row.label for row in train)
    unseen = [name for index, name in enumerate(names) if index not in counts]
    if unseen:
        raise DataError(
            f"{path}: every class must have training rows, but {', '.join(map(repr, unseen))} has none."
        )


def _class_names(table: Table, roles: Mapping[str, str]) -> tuple[str, ...]:
    """Return the classes in the file: integers in their order, words alphabetically."""
    column = roles["label"]
    names = {
        _label(cells.get(column), table, place, column)
        for cells, place in zip(table.rows, table.places, strict=True)
    }
    if len(names) < 2:
        raise DataError(
            f"{table.file}: {column!r} must hold at least 2 classes, but holds only {min(names)!r}."
        )
    if len(names) > max(2, len(table.rows) // 2):
        raise DataError(
            f"{table.file}: {column!r} holds {len(names)} different values in {len(table.rows)} rows, "
            "so it is no class: say which column is the label, or that the task is sft."
        )
    numbers = all(name.lstrip("-").isdecimal() for name in names)
    return tuple(sorted(names, key=int) if numbers else sorted(names))


def _label(cell: object, table: Table, place: str, column: str) -> str:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)) or not str(cell).strip():
        raise DataError(f"{table.file}, {place}: {column!r} must name a class, but is empty.")
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, bool | int | str) and str(cell).strip().lower() not in ("nan", "null"):
        return str(cell).strip()
    raise DataError(f"{table.file}, {place}: {column!r} must be a word or an integer, but is {cell!r}.")


def _examples(table: Table, roles: Mapping[str, str], names: Sequence[str]) -> list[Example]:
    index = {name: number for number, name in enumerate(names)}
    examples = []
    for cells, place in zip(table.rows, table.places, strict=True):
        if "messages" in roles:
            prompt, completion = _last_turn(cells.get(roles["messages"]), table, place)
            examples.append(Example(text=prompt, completion=completion))
        elif names:
            label = _label(cells.get(roles["label"]), table, place, roles["label"])
            if label not in index:
                raise DataError(
                    f"{table.file}, {place}: the class {label!r} must occur in the training rows, whose "
                    f"classes are {', '.join(map(repr, names))}."
                )
            examples.append(_read(cells, roles, table, place, label=index[label]))
        elif "audio" in roles:
            spoken = _text(cells, roles["text"], table, place)
            examples.append(_read(cells, roles, table, place, completion=spoken))
        else:
            prompt = _text(cells, roles["prompt"], table, place)
            context = str(cells.get(roles.get("context", "")) or "").strip()
            completion = _text(cells, roles["completion"], table, place)
            examples.append(
                Example(text=f"{prompt}\n\n{context}" if context else prompt, completion=completion)
            )
    return examples


def _read(
    cells: Mapping[str, Any], roles: Mapping[str, str], table: Table, place: str, **answer: Any
) -> Example:
    """Return a row that is read from a text, or from a file that holds an image or a sound."""
    for role in MEDIA_ROLES:
        if role in roles:
            beside = table.file if table.file.is_dir() else table.file.parent
            file, content = admit(cells.get(roles[role]), role, beside, f"{table.file}, {place}")
            return Example(file=file, content=content, **answer)
    return Example(text=_text(cells, roles["text"], table, place), **answer)


def _text(cells: Mapping[str, Any], column: str, table: Table, place: str) -> str:
    cell = cells.get(column)
    if isinstance(cell, int | float) and not math.isnan(cell):
        return str(cell)
    if not isinstance(cell, str) or not cell.strip():
        held = (
            "is empty" if cell is None or isinstance(cell, str | float) else f"holds a {type(cell).__name__}"
        )
        raise DataError(f"{table.file}, {place}: {column!r} must hold text, but {held}.")
    return _encodable(cell)


def _encodable(text: str) -> str:
    """Replace half characters, which JSON can hold and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()


def _last_turn(messages: object, table: Table, place: str) -> tuple[str, str]:
    """Return the last user message that an assistant message answers, and that answer."""
    turns = []
    for message in messages if isinstance(messages, list) else []:
        fields = message if isinstance(message, dict) else {}
        speaker = _SPEAKERS.get(str(fields.get("role", fields.get("from"))), "")
        turns.append((speaker, fields.get("content", fields.get("value"))))
    for (asker, question), (answerer, answer) in reversed(list(itertools.pairwise(turns))):
        if (
            (asker, answerer) == ("user", "assistant")
            and isinstance(question, str)
            and isinstance(answer, str)
        ):
            return _encodable(question), _encodable(answer)
    raise DataError(
        f"{table.file}, {place}: messages must be a list of objects with role and content, "
        "in which an assistant message answers a user message."
    )


def _require_columns(table: Table, columns: Sequence[str]) -> None:
    for column in columns:
        if column not in table.columns:
            raise DataError(
                f"{table.file} must have the column {column!r} like the training file; it has "
                f"{', '.join(map(repr, table.columns))}."
            )
