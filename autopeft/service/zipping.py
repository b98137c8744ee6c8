"""Zipping: a bundle as one stream, all of its files as they are at one moment."""

from __future__ import annotations

import stat
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from http import HTTPStatus
from os import fstat
from pathlib import Path
from typing import IO

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

    All files are open when this returns, so that a bundle that takes its place meanwhile is not mixed in.
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
                    file.relative_to(folder).as_posix(): stack.enter_context(file.open("rb"))
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


def _stream(
    files: Mapping[str, IO[bytes]], texts: Mapping[str, str], name: str, opened: ExitStack
) -> Iterator[bytes]:
    sink = _Sink()
    with opened, zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:  # type: ignore[call-overload]
        for file, stream in files.items():
            found = fstat(stream.fileno())
            entry = zipfile.ZipInfo(f"{name}/{file}", time.localtime(found.st_mtime)[:6])
            entry.external_attr = _READABLE
            if file in texts:
                archive.writestr(entry, texts[file])
                continue
            entry.file_size = found.st_size
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
