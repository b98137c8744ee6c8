"""Beside: work done in a copy of this process, on another core."""

from __future__ import annotations

import ctypes
import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import TypeVar

T = TypeVar("T")
_PARENT_DEATH_SIGNAL = 1  # of prctl(2)


@contextmanager
def beside(work: Callable[[], T], *, alone: bool) -> Iterator[Callable[[], T]]:
    """Start work in a forked process, which ends with the block; give what waits for its result.

    Where processes cannot be forked safely, where the other cores are taken (not `alone`), or where the
    process comes to nothing, the work is done here when its result is asked for.
    """
    if not alone or sys.platform != "linux":
        yield work
        return
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(work, sender, receiver), daemon=True)
    process.start()
    sender.close()

    def wait() -> T:
        try:
            found: T = receiver.recv()
        except (EOFError, OSError):
            return work()  # raises here what ended it there
        return found

    try:
        yield wait
    finally:
        receiver.close()
        process.kill()
        process.join()


def _send(work: Callable[[], object], sender: Connection, receiver: Connection) -> None:
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    receiver.close()  # or a parent that died would still be listened for
    try:
        sender.send(work())
    except Exception:  # noqa: BLE001, S110 - the caller does the work again and raises it
        pass
    finally:
        sender.close()
