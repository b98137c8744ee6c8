"""Tapes on disk: traced once, read by every later plan. Torch-free."""

from __future__ import annotations

from pathlib import Path

from autopeft.cost.tape import Tape
from autopeft.cost.tracing.request import TraceRequest
from autopeft.files import cache_folder, write_atomically


class TapeCache:
    """Tapes by the key of their request."""

    def __init__(self, folder: Path | None = None) -> None:
        """Keep tapes in `folder`, or where autopeft keeps what can be made again."""
        self.folder = folder or cache_folder("tapes")

    def get(self, request: TraceRequest) -> Tape | None:
        """Return the tape of a request; None where there is none that can be read."""
        try:
            return Tape.from_bytes(self._path(request).read_bytes())
        except (OSError, ValueError):
            return None

    def put(self, request: TraceRequest, tape: Tape) -> None:
        """Keep a tape.

        Raises:
            StorageError: it cannot be written.
        """
        write_atomically(self._path(request), tape.to_bytes())

    def _path(self, request: TraceRequest) -> Path:
        return self.folder / f"{request.key}.npz"
