"""Patterns on disk: those that ship, and those traced here once and read by every later plan. Torch-free."""

from __future__ import annotations

import zipfile
from functools import cache
from pathlib import Path

from autopeft.cost.pattern import Pattern
from autopeft.cost.tracing.request import TraceRequest
from autopeft.files import cache_folder, write_atomically

SHIPPED = Path(__file__).with_name("shipped.zip")
_NONE = b"no general pattern"


class PatternCache:
    """Patterns by the key of their request."""

    def __init__(self, folder: Path | None = None) -> None:
        """Keep patterns in `folder`, or where autopeft keeps what can be made again."""
        self.folder = folder or cache_folder("patterns")

    def resolve(self, request: TraceRequest) -> TraceRequest:
        """Return the request, or its exact shape's where it is known that no general pattern exists."""
        if not request.general:
            return request
        try:
            known = self._path(request.key).read_bytes() == _NONE
        except OSError:
            return request
        return request.exact if known else request

    def get(self, request: TraceRequest) -> Pattern | None:
        """Return what serves a request, traced here or shipped; None where there is nothing."""
        return self.traced(request) or shipped_pattern(request)

    def traced(self, request: TraceRequest) -> Pattern | None:
        """Return what was traced here for a request."""
        try:
            return Pattern.from_bytes(self._path(request.key).read_bytes())
        except (OSError, ValueError):
            return None

    def put(self, request: TraceRequest, pattern: Pattern) -> None:
        """Keep a pattern; one that is not general serves its exact request only.

        Raises:
            StorageError: it cannot be written.
        """
        if request.general and not pattern.general:
            write_atomically(self._path(request.key), _NONE)
            request = request.exact
        write_atomically(self._path(request.key), pattern.to_bytes())

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.pattern"


def shipped_pattern(request: TraceRequest) -> Pattern | None:
    """Return the pattern that ships for a request; None where there is none."""
    name = request.shipped_name
    if name not in _shipped_names():
        return None
    try:
        with zipfile.ZipFile(SHIPPED) as archive:
            return Pattern.from_bytes(archive.read(name))
    except (OSError, ValueError, zipfile.BadZipFile):
        return None  # damaged: it is traced


@cache
def _shipped_names() -> frozenset[str]:
    try:
        with zipfile.ZipFile(SHIPPED) as archive:
            return frozenset(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return frozenset()
