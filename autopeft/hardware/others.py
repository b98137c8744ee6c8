"""Others: how much of the cores that something is measured on other work has meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

# What a core does that serves nobody, or is counted twice: guests are among the users.
_NOT_WORK = ("idle", "iowait", "guest", "guest_nice")


class Others:
    """What other processes, and other tenants of a rented core, took.

    Attributes:
        share: of the threads' cores, from 0 to 1.
    """

    share: float = 0.0


@contextmanager
def others_beside(threads: int) -> Iterator[Others]:
    """Weigh what others take while the block runs, which computes with so many threads.

    They count as far as they do not find room on the other cores; the second thread of a core that computes
    already is no room.
    """
    found, room = Others(), _room(threads)
    began, own, all_work = time.perf_counter(), time.process_time(), _work()
    yield found
    passed = max(time.perf_counter() - began, 1e-9)
    theirs = (_work() - all_work - (time.process_time() - own)) / passed
    found.share = min(1.0, max(0.0, theirs - room) / threads)


def _room(threads: int) -> int:
    """Return how many threads of the processor's are on cores that do not compute."""
    logical = psutil.cpu_count() or threads
    siblings = max(1, logical // (psutil.cpu_count(logical=False) or logical))
    return max(0, logical - threads * siblings)


def _work() -> float:
    """Return the seconds that all cores of this machine have worked, stolen ones among them."""
    return float(sum(value for name, value in psutil.cpu_times()._asdict().items() if name not in _NOT_WORK))
