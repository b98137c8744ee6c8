"""What a user names as data, as one table: a file, a directory of several kinds, or a dataset of the hub."""

from __future__ import annotations

import re
from pathlib import Path

from autopeft.errors import DataError
from autopeft.workload.folders import read_folder
from autopeft.workload.hub import fetch_dataset
from autopeft.workload.shards import is_sharded, read_shards
from autopeft.workload.tables import Table, check_cells, read_table

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def read_source(name: str) -> Table:
    """Read a data file, a directory (class folders, a saved dataset, Parquet shards) or a hub dataset.

    Raises:
        DataError: nothing of that name, or what is there is malformed.
    """
    place = Path(name)
    if not place.is_dir():
        if place.suffix or place.exists() or not _HUB_ID.fullmatch(name) or name.startswith("."):
            return read_table(name)
        place = fetch_dataset(name)
    table = read_shards(place) if is_sharded(place) else read_folder(place)
    if not table.rows:
        raise DataError(f"{name} must hold at least one row, but is empty.")
    return check_cells(table)
