"""Turns: threads that callers share so that none of them keeps the others waiting."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any


class Turns:
    """Threads of one event loop; a free one goes to who has the fewest, then to who had none for longest.

    Args:
        threads: how many.   each: of them, that one caller may have.   name: of the threads.
    """

    def __init__(self, threads: int, each: int, name: str) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._free, self._each = threads, each
        self._at_work: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[tuple[Callable[[], Any], asyncio.Future[Any]]]] = OrderedDict()

    def take(self, caller: str, work: Callable[[], Any]) -> asyncio.Future[Any]:
        """Have work done in a thread when it is its caller's turn; return what becomes its result."""
        made = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append((work, made))
        self._go_on()
        return made

    def aside(self, work: Callable[[], object]) -> None:
        """Have work done in a thread, in nobody's turn."""
        self._threads.submit(work)

    def close(self) -> None:
        """Begin nothing any more; who waits for a turn is told so. To be called in the event loop."""
        for _, made in (each for rest in self._waiting.values() for each in rest):
            made.cancel()
        self._waiting.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _go_on(self) -> None:
        while self._free and (ready := [each for each in self._waiting if self._at_work[each] < self._each]):
            caller = min(ready, key=self._at_work.__getitem__)
            rest = self._waiting.pop(caller)
            work, made = rest.popleft()
            if rest:
                self._waiting[caller] = rest  # behind the others
            if made.cancelled():
                continue
            self._free -= 1
            self._at_work[caller] += 1
            job = asyncio.get_running_loop().run_in_executor(self._threads, work)
            job.add_done_callback(partial(self._ended, caller, made))

    def _ended(self, caller: str, made: asyncio.Future[Any], job: asyncio.Future[Any]) -> None:
        self._free += 1
        self._at_work[caller] -= 1
        self._at_work += Counter()  # forget who has none
        if caller in self._waiting:
            self._waiting.move_to_end(caller)
        if not made.done():
            if job.cancelled():
                made.cancel()
            elif (error := job.exception()) is not None:
                made.set_exception(error)
            else:
                made.set_result(job.result())
        self._go_on()
