"""Limits: how often somebody may ask."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

_MOST_CALLERS = 10_000


class Buckets:
    """A bucket of tokens for each caller: `burst` at once, and `rate` a second after that.

    The callers that were heard of longest ago are forgotten; they find a full bucket.
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, caller: str, cost: float = 1.0) -> float:
        """Take from a caller's bucket; return 0, or for how many seconds it has to wait and nothing taken."""
        if self._rate <= 0:
            return 0.0
        now = self._clock()
        level = self._level(caller, now)
        if level < cost:
            return (cost - level) / self._rate
        self._levels[caller] = level - cost, now
        self._levels.move_to_end(caller)
        while len(self._levels) > _MOST_CALLERS:
            self._levels.popitem(last=False)
        return 0.0

    def empty(self, caller: str) -> bool:
        """Say whether a caller would have to wait."""
        return self._rate > 0 and self._level(caller, self._clock()) < 1

    def _level(self, caller: str, now: float) -> float:
        level, then = self._levels.get(caller, (float(self._burst), now))
        return min(float(self._burst), level + (now - then) * self._rate)
