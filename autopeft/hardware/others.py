"""Others: how much of the cores that something is measured on other work has meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from autopeft.hardware.limits import CoreQuota, core_quota

# What a core does that serves nobody, or is counted twice: guests are among the users.
_NOT_WORK = ("idle", "iowait", "guest", "guest_nice")


class Others:
    """What other processes, and other tenants of a rented core, took.

    Attributes:
        share: of the threads' cores, from 0 to 1.
    """

    share: float = 0.0


@contextmanager
def others_beside(threads: int, quota: CoreQuota | None = None) -> Iterator[Others]:
    """Weigh what others take while the block runs, which computes with so many threads.

    They count as far as they do not find room on the other cores; the second thread of a core that computes
    already is no room. Under a quota the others are those that share it.

    Args:
        quota: of the cores; that of this process where it is left out.
    """
    found, quota = Others(), quota or core_quota()
    work, room = _of_machine, _room(threads)
    if quota is not None and quota.used_seconds is not None and quota.cores < (psutil.cpu_count() or threads):
        work, room = lambda: quota.used_seconds or 0.0, max(0.0, quota.cores - threads)
    began, own, all_work = time.perf_counter(), time.process_time(), work()
    yield found
    passed = max(time.perf_counter() - began, 1e-9)
    theirs = (work() - all_work - (time.process_time() - own)) / passed
    found.share = min(1.0, max(0.0, theirs - room) / threads)


def _room(threads: int) -> float:
    """Return how many threads of the processor's are on cores that do not compute."""
    logical = psutil.cpu_count() or threads
    siblings = max(1, logical // (psutil.cpu_count(logical=False) or logical))
    return max(0.0, logical - threads * siblings)


def _of_machine() -> float:
    """Return the seconds that all cores of this machine have worked, stolen ones among them."""
    return float(sum(value for name, value in psutil.cpu_times()._asdict().items() if name not in _NOT_WORK))
