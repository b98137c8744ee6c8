"""Desk: has questions answered in threads of their own, and remembers the answers as they were sent."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from autopeft import pipeline
from autopeft.errors import AutopeftError
from autopeft.journey.consulting import Consultant
from autopeft.message import json_of
from autopeft.plan.question import Question
from autopeft.service import apart
from autopeft.service.limits import Places
from autopeft.service.problems import RefusedError
from autopeft.service.turns import Turns
from autopeft.units import MIB

if TYPE_CHECKING:
    from autopeft.service.telemetry import Metrics
    from autopeft.service.tokens import Caller

_KEPT_BYTES = 64 * MIB
_MOST_WAITING, _MOST_OF_ONE = 4000, 400
"""Questions that wait, of all callers together and of one."""
_THREADS, _THREADS_OF_ONE = 3, 2
_REQUESTS_OF_ONE = 200
"""Requests of one caller that wait: the server takes no more than so many together, see `serving`."""


class Desk:
    """Answers of one service process.

    What takes a consultant runs in some threads that callers take in turns, and estimates without a search
    for batches, which are quick, in as many of their own; a question asked twice at once is computed once.
    """

    def __init__(self, workspace: str, metrics: Metrics) -> None:
        self._workspace, self._metrics = workspace, metrics
        self._consultant = self._new_consultant()
        self._using: Counter[Consultant] = Counter()
        self._lock = threading.Lock()
        self._threads = Turns(_THREADS, _THREADS_OF_ONE, "desk")
        self._quick = Turns(_THREADS, _THREADS_OF_ONE, "desk quick")
        self._asking = Places(_REQUESTS_OF_ONE, _MOST_WAITING)
        self._asked: Counter[str] = Counter()
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0
        self._generation = 0
        self._coming: dict[str, asyncio.Future[bytes]] = {}

    async def ask(self, who: Caller, key: str, compute: Callable[[Consultant], Any]) -> bytes:
        """Return an answer as JSON: remembered, or computed.

        Args:
            who: asks.   key: what is asked, all of it.
            compute: answers it.

        Raises:
            AutopeftError: what `compute` raises.
            RefusedError: too many wait already.
        """
        name = hashlib.sha256(key.encode()).hexdigest()
        if (known := self._remembered(name)) is not None:
            return known
        with self._place(who):
            if (coming := self._coming.get(name)) is not None:
                return await asyncio.shield(coming)
            (mine,) = self._expect(who, [name])
            await self._compute(who, [name], lambda consultant: [compute(consultant)])
            return await mine

    async def answers(
        self, who: Caller, rows: Sequence[Question | AutopeftError], *, batches: bool
    ) -> list[bytes]:
        """Return the answers to questions as JSON; those that nobody knows are computed together."""
        names = [_name(row, batches=batches) for row in rows]
        known = {name: kept for name in names if (kept := self._remembered(name)) is not None}
        missing = {
            name: row
            for name, row in zip(names, rows, strict=True)
            if name not in known and name not in self._coming
        }
        waiting = {name: self._coming[name] for name in names if name in self._coming}
        if not missing and not waiting:
            return [known[name] for name in names]
        with self._place(who):
            if missing:
                waiting |= dict(zip(missing, self._expect(who, list(missing)), strict=True))
                asked = list(missing.values())
                await self._compute(
                    who,
                    list(missing),
                    lambda consultant: list(consultant.answer_many(asked, batches=batches)),
                    quick=not batches,
                )
            found = {name: await asyncio.shield(each) for name, each in waiting.items()} | known
        return [found[name] for name in names]

    def renew(self) -> None:
        """Forget all answers, because what they were made from has changed."""
        made = self._new_consultant()
        with self._lock:
            old, self._consultant = self._consultant, made
            is_idle = old not in self._using
        self._generation += 1
        self._kept.clear()
        self._coming.clear()  # who waits gets the old answer, who asks from now on a new one
        self._bytes = 0
        if is_idle:
            self._threads.aside(old.close)

    def close(self) -> None:
        """End what is being computed."""
        with self._lock:
            known = {self._consultant, *self._using}
        for each in known:
            each.close()
        for threads in (self._threads, self._quick):
            threads.close()

    def _new_consultant(self) -> Consultant:
        return Consultant(self._workspace, pipeline.known_profile, apart.grounds)

    @contextmanager
    def _at_work(self) -> Iterator[Consultant]:
        """Have the consultant; one that was renewed meanwhile is closed by who has it last."""
        with self._lock:
            mine = self._consultant
            self._using[mine] += 1
        try:
            yield mine
        finally:
            with self._lock:
                self._using[mine] -= 1
                self._using += Counter()
                is_over = mine is not self._consultant and mine not in self._using
            if is_over:
                mine.close()

    @contextmanager
    def _place(self, who: Caller) -> Iterator[None]:
        """Hold one of the places that a caller's requests may wait in."""
        with self._asking.one(who.user) as there_is_one:
            if not there_is_one:
                raise _busy()
            yield

    def _expect(self, who: Caller, names: Sequence[str]) -> list[asyncio.Future[bytes]]:
        mine, all_of_them = self._asked[who.user] + len(names), len(self._coming) + len(names)
        if mine > _MOST_OF_ONE or all_of_them > _MOST_WAITING:
            raise _busy()
        self._asked[who.user] = mine
        loop = asyncio.get_running_loop()
        made = [loop.create_future() for _ in names]
        self._coming |= dict(zip(names, made, strict=True))
        return made

    async def _compute(
        self,
        who: Caller,
        names: Sequence[str],
        compute: Callable[[Consultant], Sequence[Any]],
        *,
        quick: bool = False,
    ) -> None:
        """Compute what is expected; its failure is everybody's who waits for it."""
        generation = self._generation
        expected = [self._coming[name] for name in names]

        def work() -> list[bytes]:
            with self._at_work() as consultant:
                return [json_of(each) for each in compute(consultant)]

        def settle(done: asyncio.Future[list[bytes]]) -> None:
            self._asked[who.user] -= len(names)
            self._asked += Counter()  # forget who asks for nothing
            self._settle(names, expected, done, generation)

        job = (self._quick if quick else self._threads).take(who.user, work)
        job.add_done_callback(settle)
        self._metrics.answers.labels("computed").inc(len(names))
        await asyncio.wait([job])

    def _settle(
        self,
        names: Sequence[str],
        expected: Sequence[asyncio.Future[bytes]],
        done: asyncio.Future[list[bytes]],
        generation: int,
    ) -> None:
        """Give an answer to who waits; it is remembered unless all was forgotten meanwhile."""
        error = asyncio.CancelledError() if done.cancelled() else done.exception()
        found: Sequence[bytes | None] = [None] * len(names) if error else done.result()
        for name, waiting, answer in zip(names, expected, found, strict=True):
            if generation == self._generation:
                del self._coming[name]
            if answer is not None and generation == self._generation:
                self._remember(name, answer)
            if waiting.done():
                continue
            if answer is None:
                waiting.set_exception(error or RuntimeError("no answer"))
                waiting.exception()  # seen, should nobody wait any more
            else:
                waiting.set_result(answer)

    def _remembered(self, name: str) -> bytes | None:
        known = self._kept.get(name)
        if known is not None:
            self._kept.move_to_end(name)
            self._metrics.answers.labels("memory").inc()
        return known

    def _remember(self, name: str, answer: bytes) -> None:
        self._bytes += len(answer) - len(self._kept.get(name, b""))
        self._kept[name] = answer
        while self._bytes > _KEPT_BYTES and self._kept:
            self._bytes -= len(self._kept.popitem(last=False)[1])


def _busy() -> RefusedError:
    return RefusedError(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "busy",
        "too many questions wait already: try again in 5 s.",
        Retry_After="5",
    )


def _name(row: Question | AutopeftError, *, batches: bool) -> str:
    asked = str(row) if isinstance(row, AutopeftError) else row.model_dump_json()
    return hashlib.sha256(f"answer {batches} {type(row).__name__} {asked}".encode()).hexdigest()
