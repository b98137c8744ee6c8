"""Stages: how long each part of the journey took, kept over resumptions."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autopeft.files import write_atomically


class Stages:
    """Wall time by stage, in a file of the study."""

    def __init__(self, file: Path) -> None:
        """Go on with what `file` holds."""
        self.file = file
        self.seconds: dict[str, float] = json.loads(file.read_text()) if file.exists() else {}

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time spent inside to a stage."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.add(stage, time.monotonic() - began)

    def add(self, stage: str, seconds: float) -> None:
        """Add a time to a stage."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        write_atomically(self.file, json.dumps(self.seconds))

    def move(self, stage: str, to: str, seconds: float) -> None:
        """Count so many seconds of a stage to another one."""
        seconds = min(seconds, self.seconds.get(stage, 0.0))
        if seconds > 0:
            self.add(stage, -seconds)
            self.add(to, seconds)

    @property
    def total(self) -> float:
        """Seconds of all stages."""
        return sum(self.seconds.values())
