"""Cells of a table become rows to learn from, one function a task; errors name the line."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from autopeft.errors import DataError
from autopeft.workload.columns import MEDIA_ROLES
from autopeft.workload.dataset import Example, Task
from autopeft.workload.media import admit
from autopeft.workload.tables import Table
from autopeft.workload.tasks import OUTSIDE, TASKS

Cells = Mapping[str, Any]
_SPEAKERS = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
_MANY = 10
"""Different numbers from which on fractions are amounts, not names of classes."""


class RowMaker:
    """Makes rows of one task, from columns whose roles are known."""

    def __init__(self, task: Task, roles: Mapping[str, str], names: Sequence[str]) -> None:
        """Know the task, the column of each role, and the classes that there are."""
        self._make = _MAKERS[task]
        self.roles = roles
        self.names = {name: number for number, name in enumerate(names)}

    def rows(self, table: Table) -> list[Example]:
        """Make the rows of a table.

        Raises:
            DataError: a cell is not what its role needs.
        """
        return [self._make(self, cells, table, place) for cells, place in each_row(table)]

    def text(self, role: str, cells: Cells, table: Table, place: str) -> str:
        """Return the text of a role."""
        return _text(cells, self.roles[role], table, place)

    def read(self, cells: Cells, table: Table, place: str, **answer: Any) -> Example:
        """Return a row that is read from a text, or from a file that holds an image or a sound."""
        for role in MEDIA_ROLES:
            if role in self.roles:
                beside = table.file if table.file.is_dir() else table.file.parent
                where = f"{table.file}, {place}"
                file, content = admit(cells.get(self.roles[role]), role, beside, where)
                return Example(file=file, content=content, **answer)
        return Example(text=self.text("text", cells, table, place), **answer)

    def class_of(self, name: str, table: Table, place: str) -> int:
        """Return the number of a class."""
        if name not in self.names:
            raise DataError(
                f"{table.file}, {place}: the class {name!r} must occur in the training rows, whose "
                f"classes are {', '.join(map(repr, self.names))}."
            )
        return self.names[name]


def each_row(table: Table) -> zip[tuple[dict[str, Any], str]]:
    """Return the rows of a table, each with its place."""
    return zip(table.rows, table.places, strict=True)


def class_names(task: Task, table: Table, roles: Mapping[str, str]) -> tuple[str, ...]:
    """Return the classes in a file: integers in their order, words alphabetically; none where there are none.

    Raises:
        DataError: there are fewer than two, or so many that they name no classes.
    """
    if TASKS[task].outputs != "classes":
        return ()
    if TASKS[task].each_token:
        return _tag_names(table, roles)
    column = roles["label"]
    names = {_label(cells.get(column), table, place, column) for cells, place in each_row(table)}
    if len(names) < 2:
        raise DataError(
            f"{table.file}: {column!r} must hold at least 2 classes, but holds only {min(names)!r}."
        )
    if len(names) > max(2, len(table.rows) // 2):
        raise DataError(
            f"{table.file}: {column!r} holds {len(names)} different values in {len(table.rows)} rows, "
            "so it is no class: say which column is the label, or that the task is sft or regression."
        )
    return tuple(sorted(names, key=int) if _whole(names) else sorted(names))


def _tag_names(table: Table, roles: Mapping[str, str]) -> tuple[str, ...]:
    """Return the tags in a file, alphabetically; O, which marks nothing, is the first."""
    names = {
        name for cells, place in each_row(table) for name in _tagged_cells(cells, roles, table, place)[1]
    }
    if len(names) < 2:
        raise DataError(
            f"{table.file}: {roles['tags']!r} must hold at least 2 tags, but holds only {min(names)!r}."
        )
    return tuple(sorted(names, key=lambda name: (name != OUTSIDE, name)))


def holds_amounts(table: Table, column: str) -> bool:
    """Say whether a column holds numbers with fractions, and many different ones: amounts, no classes.

    Empty cells say nothing here; they are refused where rows are made.
    """
    filled = [cells.get(column) for cells in table.rows if cells.get(column) not in (None, "")]
    numbers = [_as_number(cell) for cell in filled]
    found = {number for number in numbers if number is not None}
    fractions = any(math.isfinite(number) and not number.is_integer() for number in found)
    return None not in numbers and fractions and len(found) > _MANY


def classes_are_numbers(names: Sequence[str]) -> bool:
    """Say whether classes may be steps of one amount, as stars are."""
    return len(names) > 2 and _whole(names)


def _whole(names: Sequence[str] | set[str]) -> bool:
    return all(re.fullmatch(r"-?[0-9]{1,18}", name) for name in names)


def _classified(maker: RowMaker, cells: Cells, table: Table, place: str) -> Example:
    column = maker.roles["label"]
    label = maker.class_of(_label(cells.get(column), table, place, column), table, place)
    return maker.read(cells, table, place, label=label)


def _measured(maker: RowMaker, cells: Cells, table: Table, place: str) -> Example:
    column = maker.roles["number"]
    number = _as_number(cells.get(column))
    if number is None or not math.isfinite(number):
        raise DataError(
            f"{table.file}, {place}: {column!r} must hold a finite number, but holds {cells.get(column)!r}."
        )
    return Example(text=maker.text("text", cells, table, place), number=number)


def _tagged(maker: RowMaker, cells: Cells, table: Table, place: str) -> Example:
    words, names = _tagged_cells(cells, maker.roles, table, place)
    tags = tuple(maker.class_of(name, table, place) for name in names)
    return Example(text=" ".join(words), words=tuple(words), tags=tags)


def _tagged_cells(
    cells: Cells, roles: Mapping[str, str], table: Table, place: str
) -> tuple[list[str], list[str]]:
    """Return the words of a row and their tags."""
    words, tags = (_list(cells, roles[role], table, place) for role in ("words", "tags"))
    if len(words) != len(tags):
        raise DataError(
            f"{table.file}, {place}: each word must have one tag, but there are {len(words)} words and "
            f"{len(tags)} tags."
        )
    return [_encodable(word) for word in words], tags


def _list(cells: Cells, column: str, table: Table, place: str) -> list[str]:
    """Read a list of words, or of what stands for them: a list of JSON as text, or words between spaces."""
    cell = cells.get(column)
    if isinstance(cell, str):
        try:
            found = json.loads(cell) if cell.lstrip().startswith("[") else cell.split()
        except json.JSONDecodeError:
            found = cell.split()
    else:
        found = cell
    right = isinstance(found, list) and bool(found)
    if not right or not all(type(each) in (str, int) and str(each).strip() for each in found):
        raise DataError(
            f"{table.file}, {place}: {column!r} must hold a list of words, none of them empty, but holds "
            f"{_short(cell)}."
        )
    return [str(each).strip() for each in found]


def _short(cell: object) -> str:
    shown = repr(cell)
    return shown if len(shown) <= 60 else f"{shown[:60]}..."


def _unlabelled(maker: RowMaker, cells: Cells, table: Table, place: str) -> Example:
    return Example(text=maker.text("text", cells, table, place))


def _answered(maker: RowMaker, cells: Cells, table: Table, place: str) -> Example:
    if "audio" in maker.roles:
        return maker.read(cells, table, place, completion=maker.text("text", cells, table, place))
    if "messages" in maker.roles:
        prompt, completion = _last_turn(cells.get(maker.roles["messages"]), table, place)
        return Example(text=prompt, completion=completion)
    prompt = maker.text("prompt", cells, table, place)
    context = str(cells.get(maker.roles.get("context", "")) or "").strip()
    completion = maker.text("completion", cells, table, place)
    return Example(text=f"{prompt}\n\n{context}" if context else prompt, completion=completion)


def _preferred(maker: RowMaker, cells: Cells, table: Table, place: str) -> Example:
    prompt, chosen, rejected = (
        maker.text(role, cells, table, place) for role in ("prompt", "chosen", "rejected")
    )
    if chosen.strip() == rejected.strip():
        raise DataError(
            f"{table.file}, {place}: the chosen and the rejected answer must differ, but are equal."
        )
    return Example(text=prompt, completion=chosen, rejected=rejected)


_MAKERS: dict[Task, Callable[[RowMaker, Cells, Table, str], Example]] = {
    "classification": _classified,
    "regression": _measured,
    "token-classification": _tagged,
    "masked-lm": _unlabelled,
    "sft": _answered,
    "dpo": _preferred,
}


def _as_number(cell: object) -> float | None:
    """Read a cell as a number; None where it is none."""
    if isinstance(cell, bool) or not isinstance(cell, int | float | str):
        return None
    try:
        return float(cell)
    except (ValueError, OverflowError):
        return None


def _label(cell: object, table: Table, place: str, column: str) -> str:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)) or not str(cell).strip():
        raise DataError(f"{table.file}, {place}: {column!r} must name a class, but is empty.")
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, bool | int | str) and str(cell).strip().lower() not in ("nan", "null"):
        return str(cell).strip()
    raise DataError(f"{table.file}, {place}: {column!r} must be a word or an integer, but is {cell!r}.")


def _text(cells: Cells, column: str, table: Table, place: str) -> str:
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
