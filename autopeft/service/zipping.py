"""Zipping: a bundle as one stream, all of its files as they are at one moment."""

from __future__ import annotations

import io
import stat
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from http import HTTPStatus
from os import fstat
from pathlib import Path
from typing import IO, NamedTuple

from autopeft.errors import ConfigError
from autopeft.export.abroad import abroad
from autopeft.export.bundle import Bundle
from autopeft.export.names import MANIFEST
from autopeft.service.problems import RefusedError

_CHUNK = 1 << 20
_TRIES = 5
_READABLE = (stat.S_IFREG | 0o644) << 16


def zipped(folder: Path) -> Iterator[bytes]:
    """Zip the bundle of a study, with nothing in it that only the service's disk knows.

    All is read or open when this returns, so that a bundle that takes its place meanwhile is not mixed in.
    Weights do not shrink, so nothing is compressed.

    Raises:
        RefusedError: it is replaced again and again.
        ConfigError: what it says of itself cannot be read.
    """
    name = folder.parent.name
    for _ in range(_TRIES):
        with ExitStack() as stack:
            before = _identity(folder)
            try:
                files = {
                    file.relative_to(folder).as_posix(): _taken(file, stack)
                    for file in sorted(folder.rglob("*"))
                    if file.is_file() and not file.is_symlink()
                }
                texts = abroad(folder, Bundle.read(folder / MANIFEST), name)
            except (FileNotFoundError, ConfigError):
                if before is not None and _identity(folder) == before:
                    raise
                continue
            if _identity(folder) == before:
                return _stream(files, texts, name, stack.pop_all())
    raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "busy", "the bundle is being replaced: try again.")


def _identity(folder: Path) -> tuple[int, int] | None:
    """Return what another directory of that name has not; None where there is none."""
    try:
        found = folder.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


class _File(NamedTuple):
    """A file of a bundle: when it was written, its size in bytes, and what it holds."""

    written: float
    size: int
    stream: IO[bytes]


def _taken(file: Path, stack: ExitStack) -> _File:
    """Open a file; a small one is read, as a process may have few files open and a client be slow."""
    with ExitStack() as own:
        stream = own.enter_context(file.open("rb"))
        found = fstat(stream.fileno())
        if found.st_size <= _CHUNK:
            return _File(found.st_mtime, found.st_size, io.BytesIO(stream.read()))
        stack.enter_context(own.pop_all())
        return _File(found.st_mtime, found.st_size, stream)


def _stream(
    files: Mapping[str, _File], texts: Mapping[str, str], name: str, opened: ExitStack
) -> Iterator[bytes]:
    sink = _Sink()
    with opened, zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:  # type: ignore[call-overload]
        for file, (written, size, stream) in files.items():
            entry = zipfile.ZipInfo(f"{name}/{file}", time.localtime(written)[:6])
            entry.external_attr = _READABLE
            if file in texts:
                archive.writestr(entry, texts[file])
                continue
            entry.file_size = size
            with archive.open(entry, "w") as target:
                while part := stream.read(_CHUNK):
                    target.write(part)
                    yield sink.take()
    yield sink.take()


class _Sink:
    """What a zip is written to; hands over what came since the last time."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        return

    def take(self) -> bytes:
        taken, self._parts = b"".join(self._parts), []
        return taken
