"""Workers: traces made in processes of their own, several at a time. Torch-free."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import IO

import autopeft
from autopeft.cost.tape import Tape
from autopeft.cost.tracing.request import TraceRequest
from autopeft.errors import AutopeftError, InputError, UnsupportedError

SECONDS_A_TRACE = 180.0
MOST_WORKERS = 2


class TracingWorkers:
    """A few worker processes, started when first needed."""

    def __init__(self, workers: int | None = None, seconds: float = SECONDS_A_TRACE) -> None:
        self._count = workers or min(MOST_WORKERS, os.cpu_count() or 1)
        self._seconds = seconds
        self._idle: queue.SimpleQueue[_Worker | None] = queue.SimpleQueue()
        self._started: list[_Worker] = []
        for _ in range(self._count):
            self._idle.put(None)

    def trace_all(
        self, requests: Sequence[TraceRequest], on_done: Callable[[int], None]
    ) -> list[Tape | AutopeftError]:
        """Trace all requests, side by side; `on_done` is told the index of each that is done."""
        answers: list[Tape | AutopeftError] = [UnsupportedError("not traced")] * len(requests)
        with ThreadPoolExecutor(self._count) as threads:
            running = {threads.submit(self._trace, each): index for index, each in enumerate(requests)}
            for done in as_completed(running):
                answers[running[done]] = done.result()
                on_done(running[done])
        return answers

    def close(self) -> None:
        """End all workers."""
        for worker in self._started:
            worker.close()
        self._started.clear()

    def _trace(self, request: TraceRequest) -> Tape | AutopeftError:
        worker = self._idle.get()
        try:
            if worker is None or not worker.alive:
                worker = _Worker()
                self._started.append(worker)
            return worker.ask(request, self._seconds)
        finally:
            self._idle.put(worker)


class _Worker:
    def __init__(self) -> None:
        # The caller's own folder of autopeft comes first, so that the worker runs the same code.
        home = str(Path(autopeft.__file__).parents[1])
        path = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH", "")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "autopeft.cost.tracing.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: TraceRequest, seconds: float) -> Tape | AutopeftError:
        message = json.dumps({"request": request.model_dump(mode="json"), "seconds": seconds})
        try:
            _stream(self._process.stdin).write(message.encode() + b"\n")
            _stream(self._process.stdin).flush()
            head = json.loads(_stream(self._process.stdout).readline() or b"{}")
            payload = _stream(self._process.stdout).read(head.get("bytes", 0))
        except (OSError, ValueError) as error:
            return UnsupportedError(f"the tracing process ended: {error}")
        match head.get("state"):
            case "tape":
                return Tape.from_bytes(payload)
            case "input":
                return InputError(payload.decode())
            case "unsupported":
                return UnsupportedError(payload.decode())
        return UnsupportedError("the tracing process ended before it answered")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        _stream(self._process.stdin).close()
        _stream(self._process.stdout).close()


def _stream(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise ValueError("the worker's pipes are always open")
    return pipe
