"""From Questions to Answers: many at once, so that what is alike is costed together."""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, Any

from autopeft.cost.estimate import UNCOUNTED, CostEstimate, MemoryEstimate
from autopeft.cost.money import Cost, cost_of
from autopeft.cost.sharding import spread_over
from autopeft.errors import AutopeftError, InputError, MissingExtraError, UnsupportedError
from autopeft.hardware.prices import price_of, why_no_price
from autopeft.journey.posing import Posed, Poser
from autopeft.plan.answer import Answer, Memory, Origin
from autopeft.plan.largest_batch import Search, largest_batch
from autopeft.plan.question import Question, shorten
from autopeft.units import format_bound, format_bytes

if TYPE_CHECKING:
    from autopeft.cost.model import TracedCostModel

_log = logging.getLogger(__name__)
WINDOW = 64
"""Questions that are answered together at most."""

Row = Question | AutopeftError
"""A question, or why what was asked is none."""
Estimated = CostEstimate | AutopeftError


# What foreign code may raise about one strange row: it is that row's answer, and the others go on.
_TROUBLE = (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)


def _ignore(_what: str, _done: int, _total: int) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Answering:
    """Answers questions with one cost model.

    `batches` says whether the largest batch is looked for, which takes a few more estimates each;
    `progress` is told what is being done, how much of it is done, and of how much.
    """

    poser: Poser
    cost_model: TracedCostModel
    batches: bool = True
    progress: Callable[[str, int, int], None] = _ignore

    def stream(self, rows: Iterable[Row], on_done: Callable[[int], None] | None = None) -> Iterator[Answer]:
        """Answer rows in their order, as soon as they are ready, together with what else has come by then."""
        done = 0
        for window in _windows(rows):
            for answer in self.answers(window):
                yield answer
                done += 1
            if on_done is not None:
                on_done(done)

    def answers(self, rows: Sequence[Row]) -> list[Answer]:
        """Answer some rows; a bad one gets an answer that says so, and never stops the others."""
        posed = [self._pose(row) for row in rows]
        estimates = self._estimates(posed)
        largest = self._largest(posed, estimates)
        return [
            _answer(one, estimate, batch).model_copy(update={"question": _asked(row)})
            for row, one, estimate, batch in zip(rows, posed, estimates, largest, strict=True)
        ]

    def _pose(self, row: Row) -> Posed | AutopeftError:
        if isinstance(row, AutopeftError):
            return row
        try:
            return self.poser.pose(row)
        except AutopeftError as error:
            return error
        except _TROUBLE as error:
            return _strange(error)

    def _estimates(self, rows: Sequence[Posed | AutopeftError]) -> list[Estimated]:
        """Cost rows, those together that share model, workload, loop and device."""
        found: list[Estimated | None] = [row if isinstance(row, AutopeftError) else None for row in rows]
        groups: dict[str, list[tuple[int, Posed]]] = {}
        for place, row in enumerate(rows):
            if isinstance(row, Posed):
                groups.setdefault(_group_key(row), []).append((place, row))
        # A row that is strange fails here too; then each is traced when its turn comes.
        with contextlib.suppress(AutopeftError, *_TROUBLE):
            self.cost_model.trace_ahead(
                [
                    (row.base, row.candidate, row.workload, row.profile, row.loop)
                    for _, row in chain(*groups.values())
                ],
                lambda done, total: self.progress("tracing", done, total),
            )
        for members in groups.values():
            for (place, row), estimate in zip(members, self._cost([row for _, row in members]), strict=True):
                found[place] = _spread(row, estimate)
        return [each for each in found if each is not None]

    def _cost(self, rows: Sequence[Posed]) -> Sequence[Estimated]:
        """Ask the cost model; the only place that does. The rows differ in the candidate only."""
        first = rows[0]
        candidates = [row.candidate for row in rows]
        try:
            return self.cost_model.estimate_many(
                first.base, candidates, first.workload, first.profile, loop=first.loop
            )
        except AutopeftError as error:
            trouble = error
        except _TROUBLE as error:
            trouble = _strange(error)
        return [trouble] if len(rows) == 1 else [self._cost([row])[0] for row in rows]

    def _largest(
        self, rows: Sequence[Posed | AutopeftError], estimates: Sequence[Estimated]
    ) -> list[int | None]:
        """Find the largest batch of each row that has a limit, all searches side by side."""
        found: list[int | None] = [None] * len(rows)
        searches: dict[int, tuple[Posed, Search, int]] = {}
        for place, (row, estimate) in enumerate(zip(rows, estimates, strict=True)):
            if not (self.batches and isinstance(row, Posed) and isinstance(estimate, CostEstimate)):
                continue
            if row.limit_bytes is not None:
                now = row.candidate.training.batch_size
                search = largest_batch(now, needed_bytes(estimate.memory), row.limit_bytes)
                _advance(searches, found, place, (row, search), None)
        while searches:
            waiting = list(searches.items())
            probes = [_with_batch(row, size) for _, (row, _, size) in waiting]
            for (place, (row, search, _)), estimate in zip(waiting, self._estimates(probes), strict=True):
                needed = None if isinstance(estimate, AutopeftError) else needed_bytes(estimate.memory)
                _advance(searches, found, place, (row, search), (needed,))
        return found


_A_GUESS = 0.02
"""Share of the allocated peak by which a library of another version widens the band."""


def needed_bytes(memory: MemoryEstimate) -> int:
    """Return what must be within the limit: the upper end of the band, context included."""
    return memory.high_bytes


def _spread(row: Posed, estimate: Estimated) -> Estimated:
    """Turn an estimate for one device into that for each of those that share the training.

    What the question left to be assumed widens the band.
    """
    if isinstance(estimate, AutopeftError):
        return estimate
    try:
        shared = spread_over(estimate, row.spread, row.base, row.candidate, row.profile)
    except UnsupportedError as error:
        return error
    memory = shared.memory.widened(_A_GUESS * len(row.guesses))
    return shared.model_copy(update={"memory": memory})


def bill(row: Posed, estimate: CostEstimate) -> tuple[Cost | None, str | None]:
    """Return what a training costs, or why that cannot be said."""
    if row.profile.provenance.kind == "assumed":
        return None, "a cost needs a device whose speed is known: give --gpu NAME (`autopeft gpus`)"
    try:
        price = price_of(
            row.profile.name,
            provider=row.tariff.provider,
            given=row.tariff.price,
            devices=row.spread.gpus,
        )
    except InputError as error:
        return None, str(error)
    if price is None:
        return None, why_no_price(row.profile.name, row.tariff.provider)
    cost = cost_of(
        price,
        row.profile,
        gpus=row.spread.gpus,
        step_seconds=estimate.time.step_seconds,
        run_seconds=estimate.wall_seconds,
        epochs=row.candidate.training.epochs,
        grid_factor=row.tariff.grid_factor,
    )
    return cost, None


def _advance(
    searches: dict[int, tuple[Posed, Search, int]],
    found: list[int | None],
    place: int,
    what: tuple[Posed, Search],
    sent: tuple[int | None] | None,
) -> None:
    """Let a search go on with what it was sent, None to begin; note its next probe or its result."""
    row, search = what
    try:
        size = next(search) if sent is None else search.send(*sent)
        searches[place] = row, search, size
    except StopIteration as end:
        found[place] = end.value
        searches.pop(place, None)


def _with_batch(row: Posed, size: int) -> Posed:
    training = row.candidate.training.model_copy(update={"batch_size": size})
    return replace(row, candidate=row.candidate.model_copy(update={"training": training}))


def _group_key(row: Posed) -> str:
    parts = (row.profile, row.workload, row.loop)
    return json.dumps([row.base.name, row.base.source, *(each.model_dump(mode="json") for each in parts)])


def _asked(row: Row) -> dict[str, Any] | None:
    return row.model_dump(mode="json", exclude_unset=True) if isinstance(row, Question) else None


def _answer(row: Posed | AutopeftError, estimate: Estimated, largest: int | None) -> Answer:
    if isinstance(row, AutopeftError) or isinstance(estimate, AutopeftError):
        error = row if isinstance(row, AutopeftError) else estimate
        unsupported = isinstance(error, UnsupportedError | MissingExtraError)
        return Answer(status="unsupported" if unsupported else "error", reason=shorten(str(error)))
    memory, limit = estimate.memory, row.limit_bytes
    cost, cost_reason = bill(row, estimate)
    fits = None if limit is None else needed_bytes(memory) <= limit
    uncounted = next((guess for guess in estimate.guesses if guess.startswith(UNCOUNTED)), None)
    return Answer(
        status="ok",
        reason=_too_much(memory, limit) if limit is not None and not fits else uncounted,
        fits=None if fits and uncounted else fits,
        memory=_memory(memory),
        trainable_params=estimate.trainable_params,
        adapter_file_bytes=estimate.adapter_file_bytes,
        max_batch_size=largest,
        spread=estimate.spread,
        cost=cost,
        cost_reason=cost_reason,
        provenance=Origin(
            kind="expanded" if estimate.provenance.startswith("expanded") else "traced",
            versions=_versions(),
            guesses=(*estimate.guesses, *row.guesses, *row.needs),
            words=estimate.provenance,
        ),
        limit_bytes=limit,
        stack=_stack(row),
        total_params=estimate.total_params,
        # The speed of a device of which only the memory is known is no prediction.
        time=None if row.profile.provenance.kind == "assumed" else estimate.time,
        tokens=round(row.workload.lengths.mean),
        longest=_longest(row),
        run=None if row.profile.provenance.kind == "assumed" else estimate.run,
    )


def _longest(row: Posed) -> int | None:
    """Return the most tokens of a row; None where rows are of the size that the model takes."""
    if row.base.family in ("vision", "speech"):
        return None
    return min(row.workload.lengths.longest, row.candidate.training.max_length)


def _stack(row: Posed) -> str:
    """Say what trains: what was left out of the question is decided here."""
    training = row.candidate.training
    known = "" if row.loop.name == "autopeft" else f" ({row.loop.stack})"
    parts = [f"loop {row.loop.name}{known}", training.precision, training.optimizer]
    parts.append(f"{training.attention} attention")
    parts.append("gradient checkpointing" if training.gradient_checkpointing else "no gradient checkpointing")
    if training.loss != "standard":
        parts.append(f"{training.loss} loss")
    if row.loop.upcasts_kbit and row.candidate.quantization != "none":
        parts.append("norms, embeddings and head cast to fp32 (upcasts_kbit)")
    return ", ".join(parts)


def _memory(memory: MemoryEstimate) -> Memory:
    """Take the context off the band, which in the estimate is that of the device's peak."""
    context = memory.device_peak_bytes - memory.reserved_peak_bytes
    return Memory(
        allocated_peak_bytes=memory.allocated_peak_bytes,
        reserved_peak_bytes=memory.reserved_peak_bytes,
        device_peak_bytes=memory.device_peak_bytes,
        low_bytes=max(0, memory.low_bytes - context),
        high_bytes=memory.high_bytes - context,
        parts=dict(memory.parts),
        peak_phase=memory.peak_phase,
    )


def _too_much(memory: MemoryEstimate, limit: int) -> str:
    expected, high = format_bytes(memory.device_peak_bytes), format_bytes(needed_bytes(memory))
    if memory.device_peak_bytes > limit:
        return f"peak memory {expected} (up to {high}) is above the limit of {format_bound(limit)}"
    return f"peak memory {expected} may reach {high}, which is above the limit of {format_bound(limit)}"


def _strange(error: Exception) -> InputError:
    _log.debug("a question failed", exc_info=error)
    return InputError(f"it cannot be costed: {type(error).__name__}: {error}")


@cache
def _versions() -> dict[str, str]:
    from autopeft.cost.tracing.request import versions

    return versions()


def _windows(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Gather rows as they come, so that a slow source is answered row by row, a fast one in windows."""
    waiting: queue.Queue[Row | None] = queue.Queue(WINDOW)
    failed: list[BaseException] = []

    def read() -> None:
        try:
            for row in rows:
                waiting.put(row)
        except BaseException as error:  # noqa: BLE001 - raised again where the rows are taken
            failed.append(error)
        waiting.put(None)

    threading.Thread(target=read, daemon=True, name="questions").start()
    more = True
    while more:
        window = [waiting.get()]
        while window[-1] is not None and len(window) < WINDOW:
            try:
                window.append(waiting.get_nowait())
            except queue.Empty:
                break
        more = window[-1] is not None
        if questions := [row for row in window if row is not None]:
            yield questions
    if failed:
        raise failed[0]
