"""When studies were searched last, by a file of theirs that no reader touches."""

from __future__ import annotations

from pathlib import Path

from autopeft.files import write_atomically

MARK = "searched"
_BEFORE = ("study.db", "storage.url")
"""Of studies without the mark. SQLite writes to a database also when the last of its readers closes it."""


def mark_searched(folder: Path) -> None:
    """Note that a search of a study begins or goes on now.

    Raises:
        StorageError: the folder cannot be written.
    """
    write_atomically(folder / MARK, "")


def searched_at(folder: Path) -> float:
    """Return when a search of a study began or went on last, in seconds of the clock; 0 where it is gone."""
    for name in (MARK, *_BEFORE):
        try:
            return (folder / name).stat().st_mtime
        except OSError:
            continue
    return 0.0
