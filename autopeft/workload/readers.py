"""A user's file becomes a Dataset: columns found, labels named, rows split without leakage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from autopeft.errors import DataError
from autopeft.workload.columns import MEDIA_ROLES, assign, has_text
from autopeft.workload.dataset import Dataset, Example, Task
from autopeft.workload.folders import SPLITS
from autopeft.workload.media import KINDS, find_media
from autopeft.workload.rows import RowMaker, class_names, classes_are_numbers, holds_amounts
from autopeft.workload.sources import read_source
from autopeft.workload.splits import Rows, carve, deduplicate, seal, shrink, without
from autopeft.workload.tables import Table

_FEWEST = 20
_HELD_OUT_SHARE = 0.1
_MOST_VALIDATION, _MOST_TEST = 1_000, 2_000
"""More held-out rows than these cost time in every trial and hardly sharpen a score."""
_RARE, _SHOWN = 5, 5
"""Of a class with fewer training rows than this it is said; so many classes are named."""


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
        columns: column by role (`columns.ROLES`), where the guess is wrong.
        test_path: a file of test rows with the same columns.
        seed: decides the random split.
        train_rows: use at most this many training rows.

    Raises:
        DataError: a file is missing, malformed, or cannot be learnt from.
    """
    table = read_source(path)
    guessed = task is None
    task, roles = assign(table.columns, _with_media(table, columns or {}), task, path)
    test_table = read_source(test_path) if test_path else None
    if test_table:
        _require_columns(test_table, [column for role, column in roles.items() if role != "split"])
    notes = [*table.notes]
    if "messages" in roles:
        notes.append("of each conversation, the last answered message")
    if guessed and task == "classification" and "text" in roles and holds_amounts(table, roles["label"]):
        task, roles = "regression", {**roles, "number": roles["label"]}
        del roles["label"]
        notes.append(f"{roles['number']!r} holds many numbers with fractions, so the task is regression")
    names = class_names(task, table, roles)
    if guessed and classes_are_numbers(names):
        notes.append("the classes are whole numbers; to learn them as amounts, say --task regression")
    maker = RowMaker(task, roles, names)
    rows = maker.rows(table)
    given = _given_splits(table, roles, rows, notes)
    if test_table:
        given["test"] = maker.rows(test_table)
    splits = _split(given, seed, notes)
    splits = (shrink(splits[0], train_rows, seed), *splits[1:])
    _check_classes(splits[0], names, roles, path, notes)
    _check_numbers(splits[0], roles, path)
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
    stratified = ", stratified by class" if len({row.label for row in train}) > 1 else ""
    share = max(1, round(_HELD_OUT_SHARE * len(train)))
    if not test:
        test, train = carve(train, [min(share, _MOST_TEST)], seed)
        notes.append(f"{len(test)} test rows drawn at random (seed {seed}){stratified}")
    if not validation:
        validation, train = carve(train, [min(share, _MOST_VALIDATION)], seed + 1)
        notes.append(f"{len(validation)} validation rows drawn at random (seed {seed}){stratified}")
    return train, validation, test


def _check_classes(
    train: Rows, names: Sequence[str], roles: Mapping[str, str], path: str, notes: list[str]
) -> None:
    """Make sure that every class can be learnt; rare tags may all have been drawn into held-out rows."""
    seen = Counter(number for row in train for number in {row.label, *row.tags})
    unseen = [name for index, name in enumerate(names) if index not in seen]
    rare = [f"{name!r} ({seen[index]})" for index, name in enumerate(names) if 0 < seen[index] < _RARE]
    if rare:
        notes.append(f"few training rows, which are hardly learnt from, have {', '.join(rare[:_SHOWN])}")
    if not unseen:
        return
    shown = ", ".join(map(repr, unseen))
    if "tags" not in roles or "split" in roles:
        raise DataError(f"{path}: every class must have training rows, but {shown} has none.")
    notes.append(f"no training row has {shown}, which cannot be learnt")


def _check_numbers(train: Rows, roles: Mapping[str, str], path: str) -> None:
    """Make sure that there is something to learn about numbers."""
    numbers = {row.number for row in train}
    if "number" in roles and len(numbers) < 2:
        raise DataError(
            f"{path}: {roles['number']!r} must hold at least 2 different numbers, "
            f"but holds only {min(numbers)}."
        )


def _require_columns(table: Table, columns: Sequence[str]) -> None:
    for column in columns:
        if column not in table.columns:
            raise DataError(
                f"{table.file} must have the column {column!r} like the training file; it has "
                f"{', '.join(map(repr, table.columns))}."
            )
