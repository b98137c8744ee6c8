"""Rows dealt into training, validation and test rows without leakage, and sealed into a Dataset."""

from __future__ import annotations

import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from autopeft.errors import DataError
from autopeft.workload.dataset import Dataset, Example, Medium
from autopeft.workload.tasks import TASKS, Task

Rows = tuple[Example, ...]


def seal(
    *,
    name: str,
    task: Task,
    medium: Medium = "text",
    splits: tuple[Rows, Rows, Rows],
    labels: Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
    source: str,
    notes: Sequence[str] = (),
) -> Dataset:
    """Make a Dataset of its three splits, with its metric and its fingerprint."""
    digest = hashlib.sha256(json.dumps([task, list(labels)]).encode())
    for rows in splits:
        digest.update(b"\nsplit\n")
        for row in rows:
            digest.update(json.dumps(_content(row)).encode() + b"\n")
    train, validation, test = splits
    return Dataset(
        name=name,
        task=task,
        medium=medium,
        metric=TASKS[task].metric,
        train=train,
        validation=validation,
        test=test,
        labels=tuple(labels),
        columns=dict(columns or {}),
        source=source,
        fingerprint=digest.hexdigest(),
        notes=tuple(notes),
    )


def rows_fingerprint(rows: Iterable[Example]) -> str:
    """Return the hash of rows in their order; the same rows have it in every dataset."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(_content(row)).encode() + b"\n")
    return digest.hexdigest()


def deduplicate(rows: Iterable[Example]) -> tuple[Rows, int, int]:
    """Keep the first of equal rows, and none of a text whose label is contradictory.

    Returns: the rows kept, the number of copies dropped, the number of contradictory rows dropped.
    """
    labels_of: dict[tuple[str, ...], set[object]] = defaultdict(set)
    everything = list(rows)
    for row in everything:
        labels_of[row.identity].add((row.label, row.number, row.tags))
    kept: dict[tuple[str, ...], Example] = {}
    contradictory = 0
    for row in everything:
        if len(labels_of[row.identity]) > 1:
            contradictory += 1
        else:
            kept.setdefault(row.identity, row)
    return tuple(kept.values()), len(everything) - contradictory - len(kept), contradictory


def without(rows: Iterable[Example], *held_out: Iterable[Example]) -> Rows:
    """Leave out the rows that are also in a held-out split, whatever their label."""
    seen = {row.identity for split in held_out for row in split}
    return tuple(row for row in rows if row.identity not in seen)


def carve(rows: Sequence[Example], sizes: Sequence[int], seed: int) -> list[Rows]:
    """Deal rows into parts of the given sizes and a rest, each with the same share of every class.

    Rows of the same text (a prompt with several completions) stay together where they fit into a part.
    The rest keeps at least one row of every class, so a part can come out smaller than asked.
    """
    dice = random.Random(seed)
    strata = _strata(rows)
    for units in strata:
        dice.shuffle(units)
    parts = []
    for size in sizes:
        shares = allocate([sum(map(len, units)) for units in strata], size)
        part = [row for units, share in zip(strata, shares, strict=True) for row in _take(units, share)]
        dice.shuffle(part)
        parts.append(tuple(part))
    rest = [row for units in strata for unit in units for row in unit]
    dice.shuffle(rest)
    return [*parts, tuple(rest)]


def shrink(rows: Rows, size: int | None, seed: int) -> Rows:
    """Return at most `size` rows with the same share of every class; None keeps all.

    Raises:
        DataError: there are more classes than rows asked for.
    """
    if size is None or size >= len(rows):
        return rows
    classes = len({row.label for row in rows})
    if size < classes:
        raise DataError(f"`train_rows >= {classes}` must hold (one row of each class), but got {size}.")
    return carve(rows, [size], seed)[0] if classes == 1 else carve(rows, [len(rows) - size], seed)[1]


def allocate(counts: Sequence[int], wanted: int) -> list[int]:
    """Share `wanted` among strata in proportion to their counts, leaving one row in each.

    Largest remainders: the shares differ from the exact proportion by less than one row.
    """
    spare = [max(count - 1, 0) for count in counts]
    total = sum(counts)
    wanted = min(wanted, sum(spare))
    exact = [wanted * count / total for count in counts]
    shares = [min(int(share), most) for share, most in zip(exact, spare, strict=True)]
    order = sorted(range(len(counts)), key=lambda index: shares[index] - exact[index])
    while sum(shares) < wanted:
        for index in order:
            if sum(shares) < wanted and shares[index] < spare[index]:
                shares[index] += 1
    return shares


def _strata(rows: Iterable[Example]) -> list[list[list[Example]]]:
    """Group rows by class, and within a class by text."""
    groups: dict[int, dict[str, list[Example]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        groups[row.label][row.identity[0]].append(row)
    return [list(groups[label].values()) for label in sorted(groups)]


def _take(units: list[list[Example]], size: int) -> list[Example]:
    """Remove units that together hold at most `size` rows; a unit is cut only where none fits."""
    taken: list[Example] = []
    left = []
    for unit in units:
        if len(taken) + len(unit) <= size:
            taken += unit
        else:
            left.append(unit)
    if not taken and left and size:
        taken, left[0] = left[0][:size], left[0][size:]
    units[:] = left
    return taken


def _content(row: Example) -> list[object]:
    """Return all that a row says; what its task does not know is left out."""
    known = row.model_dump(
        mode="json", exclude_defaults=True, exclude={"text", "label", "completion", "file"}
    )
    return [row.text, row.label, row.completion, *known.items()]
