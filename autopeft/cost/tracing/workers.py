"""Tracing processes of our own: nothing that trains or serves ever imports or runs a trace.

They are started as programs, not forked, so they work from pytest, `python -c`, notebooks and scripts
without a main guard; they end by themselves when their stdin does.
"""

from __future__ import annotations

import os
import queue
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from autopeft.cost.pattern import Pattern
from autopeft.cost.tracing.request import TraceRequest
from autopeft.cost.tracing.worker import ALONE, AMONG_OTHERS, INPUT, PATTERN, write_frame
from autopeft.errors import AutopeftError, InputError, UnsupportedError

_STARTING_SECONDS = 180.0  # importing torch and transformers from a cold disk on a busy machine
_ENDING_SECONDS = 2.0
_HEAD_BYTES = 8
_QUIET = {
    "CUDA_VISIBLE_DEVICES": "",  # tracing needs no device, and must not take memory of one
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
}


class TracePool:
    """A few tracing processes, started when first needed."""

    def __init__(self, workers: int | None = None, seconds: float = 120.0) -> None:
        """Prepare the pool; nothing is started yet.

        Args:
            workers: processes at most; None takes 2, or 1 on a single core.
            seconds: limit of one trace.
        """
        self.workers = workers or min(2, os.cpu_count() or 1)
        self.seconds = seconds
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._all: list[_Worker] = []
        self._lock = threading.Lock()
        self._tracing = 0

    def __enter__(self) -> Self:
        """Return the pool."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the pool."""
        self.close()

    def warm_up(self, count: int | None = None) -> None:
        """Start processes, which import their libraries while the caller does something else."""
        with self._lock:
            for _ in range(min(count or self.workers, self.workers) - len(self._all)):
                worker = _Worker()
                self._all.append(worker)
                self._idle.put(worker)

    def trace_many(self, requests: Sequence[TraceRequest]) -> Iterator[tuple[int, Pattern | AutopeftError]]:
        """Yield the index of each request with its pattern, or with why there is none, as they are done."""
        if not requests:
            return
        self.warm_up(len(requests))
        threads = ThreadPoolExecutor(len(self._all), thread_name_prefix="tracing")
        futures: dict[Future[Pattern | AutopeftError], int] = {}
        try:
            alone = len(requests) == 1 < self.workers
            futures = {
                threads.submit(self._trace, request, alone=alone): at for at, request in enumerate(requests)
            }
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            # After an interrupt the processes are ended too, so that no thread waits for an answer.
            if any(not future.done() for future in futures):
                threads.shutdown(wait=False, cancel_futures=True)
                self.close()
            threads.shutdown()

    def close(self) -> None:
        """End all processes."""
        with self._lock:
            for worker in self._all:
                worker.end()
            self._all.clear()
            # Drained, not replaced: another thread may be waiting for a worker of this very queue.
            while not self._idle.empty():
                self._idle.get_nowait()

    def _trace(self, request: TraceRequest, *, alone: bool) -> Pattern | AutopeftError:
        worker = self._idle.get()
        with self._lock:
            self._tracing += 1
            alone = alone and self._tracing == 1
        try:
            return worker.trace(request, self.seconds, alone=alone)
        except AutopeftError as error:
            return error
        finally:
            with self._lock:
                self._tracing -= 1
            self._idle.put(worker)


class _Worker:
    """One tracing process; a dead one is replaced at the next trace."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._complaints: IO[bytes] | None = None
        self._answered = False
        self._ended = False
        self._start()

    def trace(self, request: TraceRequest, seconds: float, *, alone: bool) -> Pattern:
        """Have one request traced, with two cores where it is `alone`.

        Raises:
            InputError: the candidate does not suit the model.
            UnsupportedError: it cannot be traced, takes too long, or ends the process.
        """
        if self._process is None or self._process.poll() is not None:
            self._start()
        what = f"tracing {request.candidate.method} on {request.base.name}"
        process = self._process
        if process is None or process.stdin is None:
            raise UnsupportedError(f"{what} was cut short: the tracing processes were closed.")
        limit = seconds if self._answered else seconds + _STARTING_SECONDS
        try:
            body = (ALONE if alone else AMONG_OTHERS) + request.model_dump_json().encode()
            write_frame(process.stdin, body)  # type: ignore[arg-type]
            answer = self._answer(process, limit)
        except BrokenPipeError:
            answer = None
        except TimeoutError:
            self.end(for_good=False)
            raise UnsupportedError(f"{what} took more than {seconds:.0f} s, so it was stopped.") from None
        if answer is None:
            reason = self._last_words()
            self.end(for_good=False)
            raise UnsupportedError(f"{what} ended the tracing process: {reason}")
        self._answered = True
        if answer[:1] == PATTERN:
            return Pattern.from_bytes(answer[1:])
        raise (InputError if answer[:1] == INPUT else UnsupportedError)(answer[1:].decode())

    def end(self, *, for_good: bool = True) -> None:
        """End the process; `for_good` means that no other takes its place."""
        self._ended |= for_good
        process, self._process, self._answered = self._process, None, False
        if process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # it leads a session: what it forked goes with it
        with suppress(
            subprocess.TimeoutExpired
        ):  # a killed process may take its time to give back its memory
            process.wait(_ENDING_SECONDS)
        for stream in (process.stdin, process.stdout, self._complaints):
            if stream is not None:
                _close(stream)

    def _start(self) -> None:
        self.end(for_good=False)
        if self._ended:
            return
        root = str(Path(__file__).parents[3])
        paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "autopeft.cost.tracing.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            env={**os.environ, **_QUIET, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,  # an interrupt from the terminal is the caller's to handle
        )

    def _answer(self, process: subprocess.Popen[bytes], seconds: float) -> bytes | None:
        """Read one frame within a time; None where the process ended."""
        if process.stdout is None:
            return None
        deadline = time.monotonic() + seconds
        handle = process.stdout.fileno()
        data = b""
        length = _HEAD_BYTES
        while len(data) < length:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([handle], [], [], left)[0]:
                raise TimeoutError
            piece = os.read(handle, 1 << 20)
            if not piece:
                return None
            data += piece
            if len(data) >= _HEAD_BYTES:
                length = _HEAD_BYTES + int.from_bytes(data[:_HEAD_BYTES], "big")
        return data[_HEAD_BYTES:]

    def _last_words(self) -> str:
        code: int | str | None = None
        if self._process is not None:
            try:
                code = self._process.wait(_ENDING_SECONDS)
            except subprocess.TimeoutExpired:
                code = "unknown"
        text = b""
        if self._complaints is not None:
            self._complaints.seek(0)
            text = self._complaints.read()
        lines = text.decode(errors="replace").strip().splitlines()
        return f"exit status {code}" + (f", {lines[-1]}" if lines else "")


def _close(stream: IO[bytes]) -> None:
    try:
        stream.close()
    except BrokenPipeError:
        return  # what was still to be written has nobody to read it
