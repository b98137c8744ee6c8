"""TracedCostModel: candidates in, cost estimates out, by tracing each distinct one once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from autopeft.cost.estimate import CostEstimate
from autopeft.cost.memory import estimate_memory
from autopeft.cost.step_time import estimate_time, run_seconds
from autopeft.cost.tape import Tape, Target
from autopeft.cost.tape_cache import TapeCache
from autopeft.cost.tracing.request import TraceRequest
from autopeft.cost.tracing.workers import TracePool
from autopeft.errors import AutopeftError, InputError, UnsupportedError
from autopeft.hardware.profile import HardwareProfile
from autopeft.methods.registry import complete, require_support
from autopeft.space.candidate import Candidate
from autopeft.workload.base_model import BaseModel
from autopeft.workload.batching import mean_padded_length, truncate
from autopeft.workload.dataset import Workload


class TracedCostModel:
    """A `CostModel` (see plan/cost_model.py) that runs the training code on fake tensors.

    Tapes are kept on disk; what is there is answered without torch and without another process.
    """

    def __init__(
        self, *, workers: int | None = None, seconds: float = 120.0, cache: TapeCache | None = None
    ) -> None:
        """Prepare; nothing is started yet.

        Args:
            workers: tracing processes at most; None takes 2, or 1 on a single core.
            seconds: limit of one trace.
            cache: where tapes are kept.
        """
        self._pool = TracePool(workers, seconds)
        self._cache = cache or TapeCache()

    def __enter__(self) -> Self:
        """Return the cost model."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the tracing processes."""
        self.close()

    def close(self) -> None:
        """End the tracing processes; the next estimate that needs one starts it again."""
        self._pool.close()

    def warm_up(self) -> None:
        """Start the tracing processes, which import their libraries in the meantime."""
        self._pool.warm_up()

    def estimate(
        self, base: BaseModel, candidate: Candidate, workload: Workload, profile: HardwareProfile
    ) -> CostEstimate:
        """Cost one candidate.

        Raises:
            InputError: the candidate does not suit the model.
            UnsupportedError: it cannot be costed, and why.
        """
        (answer,) = self.estimate_many(base, [candidate], workload, profile)
        if isinstance(answer, AutopeftError):
            raise answer
        return answer

    def estimate_many(
        self,
        base: BaseModel,
        candidates: Sequence[Candidate],
        workload: Workload,
        profile: HardwareProfile,
        on_done: Callable[[int], None] | None = None,
    ) -> list[CostEstimate | AutopeftError]:
        """Cost many candidates, in their order; each distinct footprint is traced once.

        Args:
            base: what is adapted.
            candidates: what to cost.
            workload: what they are trained on.
            profile: what they are trained with.
            on_done: told how many candidates are done, whenever there are more.
        """
        answers: list[CostEstimate | AutopeftError | None] = [None] * len(candidates)
        waiting: dict[str, tuple[TraceRequest, list[int]]] = {}

        def answer(places: Sequence[int], tape: Tape | AutopeftError) -> None:
            for place in places:
                answers[place] = _cost(tape, candidates[place], workload, profile)
            if on_done is not None:
                on_done(sum(each is not None for each in answers))

        for place, candidate in enumerate(candidates):
            request = request_for(base, candidate, workload, profile)
            if isinstance(request, AutopeftError):
                answer([place], request)
            elif request.key in waiting:
                waiting[request.key][1].append(place)
            else:
                waiting[request.key] = request, [place]
        missing: list[tuple[TraceRequest, list[int]]] = []
        for request, places in waiting.values():
            tape = self._cache.get(request)
            if tape is None:
                missing.append((request, places))
            else:
                answer(places, tape)
        for index, traced in self._pool.trace_many([request for request, _ in missing]):
            request, places = missing[index]
            if isinstance(traced, Tape):
                self._cache.put(request, traced)
            answer(places, traced)
        return [each for each in answers if each is not None]


def request_for(
    base: BaseModel, candidate: Candidate, workload: Workload, profile: HardwareProfile
) -> TraceRequest | AutopeftError:
    """Say what to trace for a candidate, or why it cannot be.

    The first step has the mean padded length, which decides the time; the second the longest row's,
    which decides the memory. A batch of equal rows has no padding.
    """
    training = candidate.training
    try:
        full = complete(candidate)
        require_support(full, base, workload.task)
    except (InputError, UnsupportedError) as error:
        return error
    lengths = truncate(workload.lengths, training.max_length)
    mean = math.ceil(mean_padded_length(lengths, training.batch_size, workload.rows))
    return TraceRequest(
        base=base,
        candidate=full,
        task=workload.task,
        labels=workload.labels,
        rows=training.batch_size,
        lengths=(mean, lengths.longest),
        target=_target(profile),
        padded=training.batch_size > 1 and lengths.percentiles[0] != lengths.longest,
    )


def _target(profile: HardwareProfile) -> Target:
    return "cpu" if profile.device == "cpu" else "cuda"


def _cost(
    tape: Tape | AutopeftError, candidate: Candidate, workload: Workload, profile: HardwareProfile
) -> CostEstimate | AutopeftError:
    if isinstance(tape, AutopeftError):
        return tape
    training = candidate.training
    try:
        time = estimate_time(tape, profile, training.grad_accum)
    except UnsupportedError as error:
        return error
    whole_run = None
    if workload.rows:
        whole_run = run_seconds(
            time,
            rows=workload.rows,
            validation_rows=workload.validation_rows,
            epochs=training.epochs,
            rows_per_step=training.batch_size * training.grad_accum,
        )
    guesses = tape.guesses
    if profile.device not in ("cpu", "cuda"):
        guesses += (f"kernels and allocator of {profile.device} taken to be those of cuda",)
    libraries = ", ".join(f"{name} {number}" for name, number in tape.versions.items())
    return CostEstimate(
        memory=estimate_memory(tape, profile, guesses=len(guesses)),
        time=time,
        trainable_params=tape.trainable_params,
        total_params=tape.total_params,
        adapter_file_bytes=tape.adapter_bytes,
        run_seconds=whole_run,
        guesses=guesses,
        provenance=f"traced at full depth as {tape.target} with {libraries}; "
        f"speeds of {profile.name} ({profile.provenance.kind})",
    )
