"""Media: rows that are files, of images or of sounds, told apart by their content and not by their names."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autopeft.errors import DataError
from autopeft.files import cache_folder, write_atomically
from autopeft.workload import images, sounds
from autopeft.workload.dataset import Medium

_LOOKED_AT = 100
MEDIA_CACHE = "media"
"""Folder of the cache with copies of what datasets hold inside their files."""
LARGEST_FILE = 200 * 2**20
"""Bytes of one image or sound."""
CONFINED = ".confined"
"""A folder with a file of this name holds data of strangers: a table in it, or in a folder below, may name
no file outside of the table's own folder, and what it holds inside is copied there, not to the cache."""
_COPIES = ".media"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of media.

    Attributes:
        suffixes: endings of file names that are taken for this kind.
        fault: says what keeps a file's content from being of this kind.
    """

    medium: Medium
    article: str
    suffixes: tuple[str, ...]
    fault: Callable[[bytes], str]


KINDS: dict[str, Kind] = {
    "image": Kind(medium="image", article="an image", suffixes=images.SUFFIXES, fault=images.image_fault),
    "audio": Kind(medium="sound", article="a sound", suffixes=sounds.SUFFIXES, fault=sounds.sound_fault),
}
"""By the role of the column that names the files."""


def role_of(cell: object) -> str | None:
    """Return the role of a column with such a cell: "image" or "audio", or None where it names no file."""
    if not isinstance(cell, str):
        return None
    suffix = Path(cell.strip()).suffix.lower()
    return next((role for role, kind in KINDS.items() if suffix in kind.suffixes), None)


def find_media(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> dict[str, str]:
    """Return the one column whose cells name images or sounds, by its role; none where there are several."""
    found = {
        column: role
        for column in columns
        if (cell := next((row[column] for row in rows[:_LOOKED_AT] if row.get(column)), None)) is not None
        and (role := role_of(cell)) is not None
    }
    return {role: column for column, role in found.items()} if len(found) == 1 else {}


def admit(cell: object, role: str, beside: Path, where: str) -> tuple[str, str]:
    """Check a file that a row names.

    Args:
        cell: its path, absolute or relative to `beside`.
        where: the row, for messages.

    Returns: its absolute path and the SHA-256 of its content.

    Raises:
        DataError: there is no such file, it is too large, it is nothing of this kind, or it lies outside of
            a confined folder, whether it exists or not.
    """
    kind = KINDS[role]
    if not isinstance(cell, str) or not cell.strip() or "\0" in cell:
        raise DataError(f"{where}: a row must name {kind.article} file, but holds {cell!r:.80}.")
    file = beside / cell.strip()
    if is_confined(beside) and not _within(file, beside):
        raise DataError(
            f"{where}: a table that was uploaded must name no file elsewhere: "
            f"upload Parquet that holds {kind.article} in each row."
        )
    try:
        if not file.is_file():
            raise DataError(
                f"{where}: {cell.strip()!r} must be {kind.article}, but {beside} has no such file: "
                "name it absolutely or beside the data file."
            )
        if file.stat().st_size > LARGEST_FILE:
            raise DataError(f"{where}: {cell!r} must be at most {LARGEST_FILE >> 20} MiB large.")
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"{where}: {cell!r:.200} cannot be read: {error.strerror}.") from None
    fault = kind.fault(data) if data else "it is empty"
    if fault:
        raise DataError(f"{where}: {cell.strip()!r} must be {kind.article}, but {fault}.")
    return str(file.resolve()), hashlib.sha256(data).hexdigest()


def is_confined(folder: Path) -> bool:
    """Say whether the tables of a folder may name no files elsewhere (see `CONFINED`)."""
    place = folder.resolve()
    return any((each / CONFINED).exists() for each in (place, *place.parents))


def _within(file: Path, folder: Path) -> bool:
    """Say whether a path leads, over whatever links, into a folder."""
    try:
        return file.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # links in a circle, names that are too long
        return False


def copies_of(file: Path) -> Path | None:
    """Return the folder for copies of what a data file holds inside; None is the cache."""
    return file.parent / _COPIES if is_confined(file.parent) else None


def unpack(cell: object, copies: Path | None) -> Any:
    """Return a cell of an Arrow file; of an image or sound that is stored in it, the path of a copy.

    Copies are named by their content and kept, so that none is made twice.

    Args:
        copies: folder for them; None is the cache.

    Raises:
        ValueError: it is too large.
    """
    if not isinstance(cell, Mapping) or set(cell) != {"bytes", "path"}:
        return cell
    data, path = cell["bytes"], cell["path"]
    if not isinstance(data, bytes):
        return path
    if len(data) > LARGEST_FILE:
        raise ValueError(f"an image or sound in it must be at most {LARGEST_FILE >> 20} MiB large")
    name = hashlib.sha256(data).hexdigest()
    folder = cache_folder(MEDIA_CACHE, name[:2]) if copies is None else copies
    file = folder / f"{name}{_suffix(path, data)}"
    if not file.is_file():
        write_atomically(file, data)
    return str(file)


_SIGNS = {
    b"\x89PNG": ".png",
    b"\xff\xd8\xff": ".jpg",
    b"GIF8": ".gif",
    b"RIFF": ".wav",
    b"fLaC": ".flac",
}
"""First bytes of what datasets hold without a name."""


def _suffix(path: object, data: bytes) -> str:
    """Return the ending of a copy's name: that of the original, or what its first bytes say."""
    if role_of(path) is not None:
        return Path(str(path)).suffix.lower()
    if data[8:12] == b"WEBP":
        return ".webp"
    return next((suffix for sign, suffix in _SIGNS.items() if data.startswith(sign)), ".bin")
