"""Owned: whether a directory holds what autopeft wrote, so that --force may replace it."""

from __future__ import annotations

import re
from pathlib import Path

from autopeft.errors import ExportError
from autopeft.export.names import DATASETS, MANIFEST, MARK, TEST, TRAIN, VALIDATION

_REPOSITORY = ".git"
_LINE = 4096
_FIRST = re.compile(rf", {MARK}\W*$".encode())
ANOTHER_PLACE = "move it away or name another place"


def require_owned(folder: Path) -> None:
    """Check that a directory is empty, a bundle, or holds a recipe and nothing else.

    A bundle may have been added to, as its card says for Ollama; but a repository is never replaced.

    Raises:
        ExportError: it holds something that would be lost.
    """
    names = {each.name for each in folder.iterdir()}
    if _REPOSITORY in names:
        raise ExportError(f"{folder} is a git repository, and is not replaced; {ANOTHER_PLACE}.")
    if not names or MANIFEST in names:
        return
    others = sorted(names - {TRAIN, VALIDATION, TEST, DATASETS})
    foreign = next((name for name in others if not _is_of_recipe(folder / name)), None)
    if foreign is not None or not others:
        raise ExportError(
            f"{folder} holds {foreign or min(names)}, which autopeft did not write there, and is not "
            f"replaced; {ANOTHER_PLACE}."
        )


def _is_of_recipe(file: Path) -> bool:
    """Say whether the first line of a file says that it is a recipe's."""
    if not file.is_file():
        return False
    with file.open("rb") as stream:
        return _FIRST.search(stream.readline(_LINE)) is not None
