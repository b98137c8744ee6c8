"""Trace: a request in, its pattern out, by recording a few layers at a few shapes on fake tensors."""

from __future__ import annotations

from typing import Any, Self

from torch._subclasses import FakeTensorMode

from autopeft.cost.expand import NotAlikeError
from autopeft.cost.pattern import Pattern
from autopeft.cost.tracing.beside import beside
from autopeft.cost.tracing.depth import FEWEST, Run, shorten
from autopeft.cost.tracing.fit import Takes, fit
from autopeft.cost.tracing.initialisers import initialised_on_fakes
from autopeft.cost.tracing.record import record
from autopeft.cost.tracing.request import TraceRequest, added_tokens, has_odd_prefix
from autopeft.cost.tracing.shims import traced_as
from autopeft.cost.tracing.take import Job, Take
from autopeft.errors import UnsupportedError
from autopeft.methods.registry import require_support
from autopeft.space.candidate import Candidate
from autopeft.workload.base_model import BaseModel

# What the model's own code raises where it cannot run on fake tensors, or not at all.
_UNTRACEABLE = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError)
_FAILURES = (*_UNTRACEABLE, NotImplementedError, RuntimeError, TypeError, ValueError)
# Rows and lengths that tell every formula from every other: the lengths leave different remainders of 8,
# 32, 64 and 128, so that no rounding is a constant more. They are counted from the interval's lower end,
# multiples of 8 where the length is one and that matters.
_ROWS = (2, 3, 2, 5)
_UNALIGNED = (67, 133, 202, 143)
_ALIGNED = (72, 144, 216, 160)
_OTHER_RANK = 3


def trace(request: TraceRequest, *, alone: bool = False) -> Pattern:
    """Trace one request; `alone` on the machine, it may take two cores.

    Where shapes differ in more than sizes, the pattern is not general: it serves this very shape.

    Raises:
        InputError: the candidate does not suit the model.
        UnsupportedError: the model's or method's code cannot run on fake tensors, or not at all.
    """
    require_support(request.candidate, request.base, request.task)
    shapes = _shapes(request)
    if shapes is None:
        return trace(request.exact, alone=alone)
    short = shorten(request.base, request.candidate)
    if short is not None:
        try:
            return _fit(request, shapes, *short, alone=alone)
        except NotAlikeError:
            pass
    try:
        return _fit(request, shapes, request.base, request.candidate, None, alone=alone)
    except NotAlikeError as reason:
        if request.general:
            return trace(request.exact, alone=alone)
        raise UnsupportedError(
            f"{request.candidate.method} on {request.base.name} cannot be traced: {reason}."
        ) from None


def _fit(
    request: TraceRequest,
    shapes: tuple[tuple[int, int], ...],
    base: BaseModel,
    candidate: Candidate,
    runs: tuple[tuple[Run, ...], ...] | None,
    *,
    alone: bool = False,
) -> Pattern:
    few = (shapes[0], shapes[0])
    others: list[tuple[BaseModel, Candidate]] = []
    if runs is not None:
        longer = shorten(request.base, request.candidate, FEWEST + 1)
        if longer is None:
            raise NotAlikeError("there is no other depth to compare with")
        others.append(longer[:2])
    if request.ranks:
        rank = (candidate.rank or 1) + _OTHER_RANK
        others.append((base, candidate.model_copy(update={"rank": rank})))
    with beside(
        lambda: [_take(request, *each, few) for each in others], alone=alone and bool(others)
    ) as wait:
        shallow = _take(request, base, candidate, shapes)
        taken = wait()
    deeper = taken[0] if runs is not None else None
    ranked = taken[-1] if request.ranks else None
    return fit(Takes(shallow, deeper, ranked, runs), general=request.general)


def _shapes(request: TraceRequest) -> tuple[tuple[int, int], ...] | None:
    """Return the rows and lengths of the steps to record; None where too few are possible."""
    if not request.general:
        return ((request.rows, request.length),) * 3
    if has_odd_prefix(request.candidate):
        return None
    below, longest = request.interval
    if request.candidate.training.packing and request.rows > 1:
        return None  # masks of all rows in one: squares of rows, of which no formula is known
    chosen = _ALIGNED if request.aligned else _UNALIGNED
    # With what the method adds, lengths leave the remainders of 8 that were chosen.
    shift = below // 8 * 8 + -added_tokens(request.candidate) % 8
    lengths = [shift + length for length in chosen]
    if max(lengths) > longest:
        return None
    rows = (1,) * len(_ROWS) if request.rows == 1 else _ROWS
    first, *others = zip(rows, lengths, strict=True)
    return (first, first, *others)


def _take(
    request: TraceRequest, base: BaseModel, candidate: Candidate, shapes: tuple[tuple[int, int], ...]
) -> Take:
    longest = max(length for _, length in shapes)
    training = candidate.training.model_copy(update={"max_length": longest})
    job = Job(
        base=base,
        candidate=candidate.model_copy(update={"training": training}),
        task=request.task,
        labels=request.labels,
        target=request.target,
        padded=request.padded,
        loop=request.loop,
        shapes=shapes,
        target_length=request.target_length,
    )
    shims = traced_as(
        request.target,
        padded=request.padded,
        packed=job.packed,
        causal_padded=request.padded and job.kind not in ("encoder-decoder", "speech"),
        reads_values=job.reads_values,
    )
    with _FakeMode(allow_non_fake_inputs=True), shims, initialised_on_fakes():
        try:
            return record(job)
        except _FAILURES as error:
            reason = str(error).strip().partition("\n")[0] or "no message"
            raise UnsupportedError(
                f"{candidate.method} on {base.name} cannot be traced: {type(error).__name__}: {reason}"
            ) from error


class _FakeMode(FakeTensorMode):  # type: ignore[no-untyped-call]
    """A mode that stays one when a fake tensor is deep-copied, as peft does with heads it trains.

    torch 2.13 copies the mode with the tensor, and in it counted references to storages without
    counting them again: each is given back twice, which corrupts the heap.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return the mode itself."""
        del memo
        return self
