"""Limits: how often somebody may ask, and how much of anything at once."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_MOST_CALLERS = 10_000


def neighbourhood(address: str) -> str:
    """Return what one client may have all addresses of: an IPv4 address, or a /64 of IPv6."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if found.version == 4:
        return str(found)
    return str(found.ipv4_mapped or ipaddress.ip_network((found, 64), strict=False))


class Buckets:
    """A bucket of tokens for each caller: `burst` at once, and `rate` a second after that.

    The callers that were heard of longest ago are forgotten; they find a full bucket.
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def wait(self, caller: str, cost: float = 1.0) -> float:
        """Take from a caller's bucket; return 0, or for how many seconds it has to wait and nothing taken."""
        if self._rate <= 0:
            return 0.0
        with self._lock:
            now = self._clock()
            level = self._level(caller, now)
            if level < cost:
                return (cost - level) / self._rate
            self._levels[caller] = level - cost, now
            self._levels.move_to_end(caller)
            while len(self._levels) > _MOST_CALLERS:
                self._levels.popitem(last=False)
            return 0.0

    def _level(self, caller: str, now: float) -> float:
        level, then = self._levels.get(caller, (float(self._burst), now))
        return min(float(self._burst), level + (now - then) * self._rate)


class Places:
    """So many places at once: for each caller, and for all of them."""

    def __init__(self, each: int, all_of_them: int) -> None:
        self._each, self._all = each, all_of_them
        self._taken: Counter[str] = Counter()
        self._lock = threading.Lock()

    def free(self, caller: str) -> bool:
        """Say whether a caller may have one more."""
        return self._taken[caller] < self._each and self._taken.total() < self._all

    @contextmanager
    def one(self, caller: str) -> Iterator[bool]:
        """Hold a place; yields whether there was one."""
        with self._lock:
            had = self.free(caller)
            if had:
                self._taken[caller] += 1
        try:
            yield had
        finally:
            if had:
                with self._lock:
                    self._taken[caller] -= 1
                    self._taken += Counter()  # forget who holds none
