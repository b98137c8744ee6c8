"""Where things are on disk, and writing them so that a crash leaves the old or the new, never half."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from autopeft.errors import StorageError

WORKSPACE = Path(".autopeft")
THIS_MACHINE = "this-machine"
"""Name of the profile that `autopeft profile` measures."""


def shipped(folder: str) -> Path:
    """Return a data folder that ships with autopeft (`profiles`, `search_spaces`)."""
    packed = Path(__file__).parent / "_shipped" / folder
    return packed if packed.is_dir() else Path(__file__).parents[1] / folder


def cache_folder(*parts: str) -> Path:
    """Return (and make) a folder for what can always be made again; `AUTOPEFT_CACHE` moves it."""
    root = os.environ.get("AUTOPEFT_CACHE") or Path.home() / ".cache" / "autopeft"
    return make_folder(Path(root).joinpath(*parts))


def make_folder(path: Path) -> Path:
    """Make a folder and its parents.

    Raises:
        StorageError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"the folder {path} cannot be made: {error.strerror}.") from None
    return path


def write_atomically(path: Path, content: str | bytes) -> Path:
    """Write a whole file or leave the old one untouched.

    Raises:
        StorageError: the disk is full or the place cannot be written.
    """
    make_folder(path.parent)
    data = content.encode() if isinstance(content, str) else content
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise StorageError(
            f"{path} cannot be written: {error.strerror}. Free some space or name another place."
        ) from None
    return path
