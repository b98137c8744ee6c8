"""Arrow tables to rows: class numbers get their names, images and sounds inside become files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from autopeft.workload.media import copies_of, unpack

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa


def rows_of(content: pa.Table, file: Path) -> list[dict[str, Any]]:
    """Return the rows of a table, checked to be whole: its offsets come from a file that anyone can write.

    Args:
        file: what the table was read from.

    Raises:
        pyarrow.ArrowException, ValueError: the table is malformed.
    """
    names = _class_names(content.schema)
    content.validate(full=True)
    copies = copies_of(file)
    return [
        {column: _cell(value, names.get(column), copies) for column, value in row.items()}
        for batch in content.to_batches(max_chunksize=1024)
        for row in batch.to_pylist()
    ]


def _cell(value: object, names: list[str] | None, copies: Path | None) -> Any:
    if names is not None and isinstance(value, int):
        return names[value] if 0 <= value < len(names) else None
    return unpack(value, copies)


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Return the names of classes by column, where the `datasets` library left them in the file."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    found = features.items() if isinstance(features, dict) else ()
    return {
        column: [str(name) for name in feature["names"]]
        for column, feature in found
        if isinstance(feature, dict) and isinstance(feature.get("names"), list)
    }
