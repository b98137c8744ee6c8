"""Files to rows of named cells: CSV, JSON Lines, a JSON list, Parquet, CoNLL; errors name the line."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autopeft.errors import DataError
from autopeft.workload.arrow import rows_of

LARGEST_CELL = 1_000_000
"""Characters; more is a file in the wrong format (a quote left open), not a text to learn from."""
_LONGEST_HEADER = 200


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of a file: cells by column name, and where each row stands ("line 7").

    Attributes:
        file: what was read; what its cells name as files is beside it.
        notes: what was decided about the rows on the user's behalf.
    """

    file: Path
    columns: tuple[str, ...]
    rows: list[dict[str, Any]]
    places: list[str]
    notes: tuple[str, ...] = ()


def read_table(path: str) -> Table:
    """Read a file by its suffix.

    Raises:
        DataError: it is missing, empty, malformed, not UTF-8, or of an unknown kind.
    """
    file = Path(path)
    readers = {
        ".csv": _read_csv,
        ".tsv": _read_csv,
        ".jsonl": _read_json_lines,
        ".ndjson": _read_json_lines,
        ".json": _read_json,
        ".parquet": _read_parquet,
        ".conll": _read_conll,
        ".iob2": _read_conll,
    }
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise DataError(
            f"{file} must end in one of {', '.join(readers)}, but ends in {file.suffix or 'no suffix'!r}."
        )
    table = reader(file)
    if not table.rows:
        raise DataError(f"{file} must hold at least one row, but is empty.")
    return check_cells(table)


def check_cells(table: Table) -> Table:
    """Return the table.

    Raises:
        DataError: a cell is larger than any text to learn from.
    """
    for row, place in zip(table.rows, table.places, strict=True):
        for column, cell in row.items():
            if isinstance(cell, str) and len(cell) > LARGEST_CELL:
                raise DataError(
                    f"{table.file}, {place}: a cell must hold at most {LARGEST_CELL} characters, "
                    f"but {column!r} holds {len(cell)}: leave the row out, or quote its cells."
                )
    return table


def _read_text(file: Path) -> str:
    data = _read_bytes(file)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{file}, line {line}: the file must be UTF-8 text; save it as UTF-8.") from None


def _read_bytes(file: Path) -> bytes:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}.") from None
    if not data.strip():
        raise DataError(f"{file} must hold at least one row, but is empty.")
    return data


def _read_csv(file: Path) -> Table:
    text = _read_text(file)
    header = text.lstrip().partition("\n")[0]
    delimiter = max(",;\t", key=lambda sign: len(next(csv.reader([header], delimiter=sign), [])))
    limit = csv.field_size_limit(LARGEST_CELL)  # the default, 131 kB, is less than a long document
    try:
        return _parse_csv(file, text, delimiter)
    finally:
        csv.field_size_limit(limit)


def _parse_csv(file: Path, text: str, delimiter: str) -> Table:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns: tuple[str, ...] = ()
    rows: list[dict[str, Any]] = []
    places: list[str] = []
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DataError(f"{file}, line {line}: {error} (is a quote left open?).") from None
        if cells is None:
            _require_more_than_header(file, columns, rows)
            return Table(file=file, columns=columns, rows=rows, places=places)
        if not cells:
            continue
        if not columns:
            columns = tuple(name.strip() for name in cells)
            check_unique(file, columns)
            continue
        if len(cells) != len(columns):
            raise DataError(
                f"{file}, line {line}: a row must have {len(columns)} cells like the header, "
                f"but has {len(cells)} (separated by {delimiter!r}; quote a cell that contains it)."
            )
        rows.append(dict(zip(columns, cells, strict=True)))
        places.append(f"line {line}")


def _require_more_than_header(file: Path, columns: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    if columns and not rows:
        header = ", ".join(columns)
        shown = header if len(header) <= _LONGEST_HEADER else f"{header[:_LONGEST_HEADER]}..."
        raise DataError(
            f"{file} must hold at least one row, but has none below its first line, which was read as the "
            f"header: {shown!r}."
        )


def check_unique(file: Path, columns: tuple[str, ...]) -> None:
    """Make sure that a column can be told by its name."""
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise DataError(f"{file}: column names must be unique, but {', '.join(map(repr, twice))} is not.")


def _read_json_lines(file: Path) -> Table:
    rows, places = [], []
    for number, line in enumerate(_read_text(file).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{file}, line {number}: no valid JSON: {error.msg}.") from None
        except (ValueError, RecursionError):
            raise DataError(f"{file}, line {number}: nested too deeply, or a number too long.") from None
        rows.append(_object(row, file, f"line {number}"))
        places.append(f"line {number}")
    return _of_objects(file, rows, places)


def _read_json(file: Path) -> Table:
    try:
        content = json.loads(_read_text(file))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{file}, line {error.lineno}: no valid JSON: {error.msg} (one object a line is .jsonl)."
        ) from None
    except (ValueError, RecursionError):
        raise DataError(f"{file}: nested too deeply, or a number too long.") from None
    if not isinstance(content, list):
        raise DataError(f"{file} must hold a JSON list of objects, but holds a {type(content).__name__}.")
    places = [f"row {number}" for number in range(1, len(content) + 1)]
    rows = [_object(row, file, place) for row, place in zip(content, places, strict=True)]
    return _of_objects(file, rows, places)


def _object(row: object, file: Path, place: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise DataError(f"{file}, {place}: a row must be a JSON object, but is a {type(row).__name__}.")
    return row


def _of_objects(file: Path, rows: list[dict[str, Any]], places: list[str]) -> Table:
    columns = dict.fromkeys(name for row in rows for name in row)
    return Table(file=file, columns=tuple(columns), rows=rows, places=places)


def _read_parquet(file: Path) -> Table:
    import pyarrow as pa
    from pyarrow import parquet

    data = _read_bytes(file)
    try:
        content = parquet.read_table(pa.BufferReader(data))
        rows = rows_of(content, file)
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{file} is no readable Parquet file: {reason}") from None
    check_unique(file, tuple(content.column_names))
    places = [f"row {number}" for number in range(1, len(rows) + 1)]
    return Table(file=file, columns=tuple(content.column_names), rows=rows, places=places)


def _read_conll(file: Path) -> Table:
    """Read a word a line with its tag in the last column, and an empty line after each row."""
    rows: list[dict[str, Any]] = []
    places: list[str] = []
    words: list[str] = []
    tags: list[str] = []
    for number, line in enumerate([*_read_text(file).splitlines(), ""], start=1):
        cells = line.split()
        if not cells or cells[0] == "-DOCSTART-":
            if words:
                rows.append({"words": words, "tags": tags})
                places.append(f"line {number - len(words)}")
            words, tags = [], []
            continue
        if len(cells) < 2:
            raise DataError(
                f"{file}, line {number}: a line must hold a word and its tag, but holds {line!r}."
            )
        words.append(cells[0])
        tags.append(cells[-1])
    return Table(file=file, columns=("words", "tags"), rows=rows, places=places)
