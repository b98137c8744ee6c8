"""A dataset in several files: Parquet shards, or the Arrow files that the `datasets` library saves to disk.

Only tables are read: nothing is unpickled, and code that a dataset brings is never run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autopeft.errors import DataError
from autopeft.workload.arrow import rows_of
from autopeft.workload.folders import SPLITS
from autopeft.workload.tables import Table, check_unique

if TYPE_CHECKING:
    import pyarrow as pa

_STATE = "state.json"


def is_sharded(folder: Path) -> bool:
    """Say whether a directory holds a saved dataset or Parquet files."""
    return bool(_saved(folder)) or next(_shards(folder), None) is not None


def read_shards(folder: Path) -> Table:
    """Read all files of a dataset as one table, with a column "split" where they are of several splits.

    Splits are those of `save_to_disk`'s folders; of Parquet files, what the name begins with
    (train-00000-of-00002.parquet) or the folder they are in.

    Raises:
        DataError: a file is missing or malformed, or the files have different columns.
    """
    parts: list[tuple[str | None, Path]] = []
    for place in _saved(folder):
        split = place.name.lower() if place != folder and place.name.lower() in SPLITS else None
        parts += [(split, file) for file in _listed(place)]
    parts = parts or [(_split_of(file, folder), file) for file in _shards(folder)]
    known = all(split is not None for split, _ in parts)
    columns: tuple[str, ...] = ()
    rows: list[dict[str, Any]] = []
    places: list[str] = []
    for split, file in parts:
        content = _read(file)
        own = tuple(content.column_names)
        check_unique(file, own)
        if columns and set(own) != set(columns):
            raise DataError(
                f"{file} must have the columns {', '.join(columns)} of the other files, "
                f"but has {', '.join(own)}: leave it out, or bring them to one form."
            )
        columns = columns or own
        for number, row in enumerate(_rows(content, file), start=1):
            rows.append(row | {"split": split} if known and "split" not in own else row)
            places.append(f"{file.relative_to(folder)}, row {number}")
    if known and "split" not in columns:
        columns = (*columns, "split")
    return Table(file=folder, columns=columns, rows=rows, places=places)


def _saved(folder: Path) -> list[Path]:
    """Return the folders of a saved dataset's splits, or itself where it has none."""
    if (folder / _STATE).is_file():
        return [folder]
    return sorted(file.parent for file in folder.glob(f"*/{_STATE}") if file.parent.name.lower() in SPLITS)


def _listed(folder: Path) -> list[Path]:
    """Return the Arrow files that a saved dataset says it has, which must be beside its state.json."""
    try:
        state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        names = [entry["filename"] for entry in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise DataError(
            f"{folder / _STATE} must list the files of a dataset as `save_to_disk` writes it, but does not."
        ) from None
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise DataError(f"{folder / _STATE} must name files beside it, but names {name!r}.")
    return [folder / name for name in names]


def _shards(folder: Path) -> Iterator[Path]:
    for pattern in ("*.parquet", "*/*.parquet", "*/*/*.parquet"):
        yield from sorted(file for file in folder.glob(pattern) if not file.name.startswith("."))


def _split_of(file: Path, folder: Path) -> str | None:
    word = re.split(r"[-._]", file.name.lower())[0]
    if word in SPLITS:
        return word
    above = file.parent.name.lower()
    return above if file.parent != folder and above in SPLITS else None


def _read(file: Path) -> pa.Table:
    import pyarrow as pa
    from pyarrow import ipc, parquet

    try:
        if file.suffix.lower() == ".parquet":
            return parquet.read_table(pa.BufferReader(file.read_bytes()))
        with ipc.open_stream(file.read_bytes()) as stream:
            return stream.read_all()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{file} is no readable dataset file: {_first_line(error)}") from None


def _rows(content: pa.Table, file: Path) -> list[dict[str, Any]]:
    import pyarrow as pa

    try:
        return rows_of(content, file)
    except (pa.ArrowException, ValueError) as error:
        raise DataError(f"{file} is no readable dataset file: {_first_line(error)}") from None


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
