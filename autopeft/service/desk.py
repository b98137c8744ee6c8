"""Desk: has questions answered in threads of their own, and remembers the answers as they were sent."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from autopeft import pipeline
from autopeft.errors import AutopeftError
from autopeft.plan.question import Question
from autopeft.service.problems import RefusedError
from autopeft.units import MIB

if TYPE_CHECKING:
    from autopeft.journey.consulting import Consultant
    from autopeft.service.telemetry import Metrics

_KEPT_BYTES = 64 * MIB
_MOST_WAITING = 400


class Desk:
    """Answers of one service process.

    What takes a consultant runs in `threads` at most, and estimates without a search for batches, which are
    quick, in as many of their own; the same question asked twice at once is computed once.
    """

    def __init__(self, workspace: str, metrics: Metrics, threads: int = 2) -> None:
        self._workspace, self._metrics = workspace, metrics
        self._consultant = pipeline.consult(workspace)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="desk")
        self._quick = ThreadPoolExecutor(threads, thread_name_prefix="desk quick")
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0
        self._generation = 0
        self._coming: dict[str, asyncio.Future[bytes]] = {}

    async def ask(self, key: str, compute: Callable[[Consultant], Any]) -> bytes:
        """Return an answer as JSON: remembered, or computed.

        Args:
            key: what is asked, all of it.
            compute: answers it.

        Raises:
            AutopeftError: what `compute` raises.
            RefusedError: too many wait already.
        """
        name = hashlib.sha256(key.encode()).hexdigest()
        if (known := self._remembered(name)) is not None:
            return known
        if (coming := self._coming.get(name)) is not None:
            return await asyncio.shield(coming)
        (mine,) = self._expect([name])
        await self._compute([name], lambda consultant: [compute(consultant)])
        return await mine

    async def answers(self, rows: Sequence[Question | AutopeftError], *, batches: bool) -> list[bytes]:
        """Return the answers to questions as JSON; those that nobody knows are computed together."""
        names = [_name(row, batches=batches) for row in rows]
        known = {name: kept for name in names if (kept := self._remembered(name)) is not None}
        missing = {
            name: row
            for name, row in zip(names, rows, strict=True)
            if name not in known and name not in self._coming
        }
        waiting = {name: self._coming[name] for name in names if name in self._coming}
        if missing:
            waiting |= dict(zip(missing, self._expect(list(missing)), strict=True))
            asked = list(missing.values())
            await self._compute(
                list(missing),
                lambda consultant: list(consultant.answer_many(asked, batches=batches)),
                quick=not batches,
            )
        found = {name: await asyncio.shield(each) for name, each in waiting.items()} | known
        return [found[name] for name in names]

    def renew(self) -> None:
        """Forget all answers, because what they were made from has changed."""
        old, self._consultant = self._consultant, pipeline.consult(self._workspace)
        self._generation += 1
        self._kept.clear()
        self._coming.clear()  # who waits gets the old answer, who asks from now on a new one
        self._bytes = 0
        self._threads.submit(old.close)

    def close(self) -> None:
        """End what is being computed."""
        self._consultant.close()
        for threads in (self._threads, self._quick):
            threads.shutdown(wait=False, cancel_futures=True)

    def _expect(self, names: Sequence[str]) -> list[asyncio.Future[bytes]]:
        if len(self._coming) + len(names) > _MOST_WAITING:
            raise RefusedError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "busy",
                "too many questions wait already: try again in 5 s.",
                Retry_After="5",
            )
        loop = asyncio.get_running_loop()
        made = [loop.create_future() for _ in names]
        self._coming |= dict(zip(names, made, strict=True))
        return made

    async def _compute(
        self,
        names: Sequence[str],
        compute: Callable[[Consultant], Sequence[Any]],
        *,
        quick: bool = False,
    ) -> None:
        """Compute what is expected; its failure is everybody's who waits for it."""
        consultant, generation = self._consultant, self._generation
        expected = [self._coming[name] for name in names]

        def work() -> list[bytes]:
            return [to_json(each, inf_nan_mode="null") for each in compute(consultant)]

        job = asyncio.get_running_loop().run_in_executor(self._quick if quick else self._threads, work)
        job.add_done_callback(lambda done: self._settle(names, expected, done, generation))
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


def _name(row: Question | AutopeftError, *, batches: bool) -> str:
    asked = str(row) if isinstance(row, AutopeftError) else row.model_dump_json()
    return hashlib.sha256(f"answer {batches} {type(row).__name__} {asked}".encode()).hexdigest()
