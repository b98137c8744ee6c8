"""A service as a process of its own, as `autopeft serve` starts it, and rows for it to train on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from autopeft.workload.dataset import Dataset

STARTING_SECONDS = 120


class Service:
    """A running service: its address, and the process to be killed."""

    def __init__(self, workspace: Path, *flags: str, port: int = 0) -> None:
        self.log = workspace.parent / f"{workspace.name}-{port}-{time.time_ns()}.log"
        command = [sys.executable, "-m", "autopeft", "serve", "--workspace", str(workspace), "--rate", "0"]
        self._stream = self.log.open("wb")
        self.process = subprocess.Popen(
            [*command, "--port", str(port), *flags],
            stdout=self._stream,
            stderr=subprocess.STDOUT,
            cwd=workspace.parent,
            env={**os.environ, "no_proxy": "*"},
            start_new_session=True,
        )
        wait_for(lambda: self.url or self.process.poll() is not None, STARTING_SECONDS)
        assert self.url, self.log.read_text()

    @property
    def url(self) -> str:
        """The address, once it listens; empty before."""
        found = re.search(r"autopeft serves (\S+)", self.log.read_text())
        return found[1] if found else ""

    def kill(self) -> None:
        """Kill the service alone, as the kernel would."""
        self.process.kill()
        self.process.wait()

    def close(self) -> int:
        """Tell it to stop, and return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(120)
            except subprocess.TimeoutExpired:
                self.kill()
        self._stream.close()
        return int(self.process.returncode)


@contextmanager
def running(workspace: Path, *flags: str, port: int = 0) -> Iterator[Service]:
    """Have a service for a while."""
    service = Service(workspace, *flags, port=port)
    try:
        yield service
    finally:
        service.close()


def wait_for(found: Callable[[], object], seconds: float) -> None:
    """Wait until something is found, or fail."""
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.2)


def write_rows(dataset: Dataset, file: Path) -> Path:
    """Write a dataset as CSV with the columns review and mood."""
    rows = [*dataset.train, *dataset.validation, *dataset.test]
    lines = [f"{row.text} {index},{dataset.labels[row.label or 0]}" for index, row in enumerate(rows)]
    file.write_text("review,mood\n" + "\n".join(lines) + "\n")
    return file
