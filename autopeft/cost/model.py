"""TracedCostModel: predicts memory and time from the tape of what will be run. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from autopeft.cost.allocator import Peak, held_at, peak_on_cpu, peak_on_cuda, phase_at
from autopeft.cost.estimate import CostEstimate, MemoryEstimate, MemoryParts, TimeEstimate
from autopeft.cost.step_time import step_time
from autopeft.cost.tape import Category, Phase, Tape, Target
from autopeft.cost.tracing.request import TraceRequest
from autopeft.cost.tracing.workers import TracingWorkers
from autopeft.errors import AutopeftError, InputError
from autopeft.files import cache_folder, write_atomically
from autopeft.hardware.profile import HardwareProfile
from autopeft.methods.registry import complete, require_support
from autopeft.space.candidate import Candidate
from autopeft.workload.base_model import BaseModel
from autopeft.workload.batching import mean_padded_length, truncate
from autopeft.workload.dataset import Workload

# 90 % band of the reserved peak on a GPU, from what the prototype of this method reached on published
# runs with known lengths; on a CPU of the process beside its context.
_BELOW: dict[Target, float] = {"cuda": 0.04, "cpu": 0.15}
_ABOVE: dict[Target, float] = {"cuda": 0.06, "cpu": 0.15}
_PER_GUESS = 0.03
_PHASES = {Phase.BUILD: "build", Phase.FORWARD: "forward", Phase.BACKWARD: "backward", Phase.OPTIMIZER: "optimizer"}
_GROUPS = {
    "weights": (Category.WEIGHTS,),
    "adapter": (Category.ADAPTER,),
    "gradients": (Category.GRADIENTS,),
    "optimizer": (Category.OPTIMIZER,),
    "activations": (Category.SAVED, Category.TEMPORARY, Category.LOGITS),
    "other": (Category.OTHER,),
}


class TracedCostModel:
    """Traces what is not in the cache, in worker processes, and reads the costs off the tapes.

    Use as a context manager, or call `close`.

    Args:
        cache: folder of tapes; None is the user's cache.
    """

    def __init__(self, cache: Path | None = None, *, workers: int | None = None) -> None:
        self._cache = cache or cache_folder("tapes")
        self._workers = TracingWorkers(workers)

    def __enter__(self) -> Self:
        """Return the model itself; workers start when first needed."""
        return self

    def __exit__(self, *exception: object) -> None:
        """End the workers."""
        self.close()

    def close(self) -> None:
        """End the workers."""
        self._workers.close()

    def estimate(
        self, base: BaseModel, candidate: Candidate, workload: Workload, profile: HardwareProfile
    ) -> CostEstimate:
        """Cost one candidate.

        Raises:
            InputError: the candidate does not suit the model.
            UnsupportedError: it cannot be traced, and why.
        """
        answer = self.estimate_many(base, [candidate], workload, profile)[0]
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
        """Cost many candidates, in their order; those of equal cost are traced once."""
        report = on_done or _ignore
        requests: dict[str, TraceRequest] = {}
        tapes: dict[str, Tape | AutopeftError] = {}
        keys: list[str | AutopeftError] = []
        for candidate in candidates:
            try:
                request = _request(base, complete(candidate), workload, profile)
            except AutopeftError as error:
                keys.append(error)
                continue
            keys.append(request.key)
            if request.key not in tapes and request.key not in requests:
                kept = self._kept(request.key)
                if kept is None:
                    requests[request.key] = request
                else:
                    tapes[request.key] = kept
        done = sum(key not in requests for key in keys if isinstance(key, str))
        report(done)
        missing = list(requests.values())

        def note(index: int) -> None:
            nonlocal done
            done += keys.count(missing[index].key)
            report(done)

        for request, tape in zip(missing, self._workers.trace_all(missing, note), strict=True):
            tapes[request.key] = tape
            if isinstance(tape, Tape):
                write_atomically(self._file(request.key), tape.to_bytes())
        return [
            key if isinstance(key, AutopeftError) else _cost(tapes[key], candidate, workload, profile)
            for key, candidate in zip(keys, candidates, strict=True)
        ]

    def _kept(self, key: str) -> Tape | None:
        """Return a tape from the cache; a damaged one counts as none."""
        try:
            return Tape.from_bytes(self._file(key).read_bytes())
        except (OSError, ValueError):
            return None

    def _file(self, key: str) -> Path:
        return self._cache / f"{key}.npz"


def _request(
    base: BaseModel, candidate: Candidate, workload: Workload, profile: HardwareProfile
) -> TraceRequest:
    """Say what to trace: a step at the mean padded length, then one at the longest."""
    require_support(candidate, base, workload.task)
    training = candidate.training
    if base.max_length is not None and training.max_length > base.max_length:
        raise InputError(
            f"seq_len must be at most {base.max_length} for {base.name}, but got {training.max_length}."
        )
    lengths = truncate(workload.lengths, training.max_length)
    rows = min(training.batch_size, workload.rows) if workload.rows else training.batch_size
    mean = max(1, round(mean_padded_length(lengths, training.batch_size, workload.rows)))
    return TraceRequest(
        base=base,
        candidate=candidate,
        task=workload.task,
        labels=workload.labels,
        rows=rows,
        lengths=(mean, lengths.longest),
        target="cpu" if profile.device == "cpu" else "cuda",
        padded=lengths.percentiles[0] != lengths.longest,
    )


def _cost(
    tape: Tape | AutopeftError, candidate: Candidate, workload: Workload, profile: HardwareProfile
) -> CostEstimate | AutopeftError:
    if isinstance(tape, AutopeftError):
        return tape
    training = candidate.training
    time = step_time(tape, profile, training.grad_accum)
    return CostEstimate(
        memory=_memory(tape, profile),
        time=time,
        trainable_params=tape.trainable_params,
        total_params=tape.total_params,
        adapter_file_bytes=tape.adapter_bytes,
        run_seconds=_run_seconds(time, candidate, workload) if workload.rows else None,
        guesses=tape.guesses,
        provenance="traced at full depth with "
        + ", ".join(f"{name} {version}" for name, version in sorted(tape.versions.items())),
    )


def _memory(tape: Tape, profile: HardwareProfile) -> MemoryEstimate:
    peak: Peak = peak_on_cpu(tape) if tape.target == "cpu" else peak_on_cuda(tape)
    held = held_at(tape, peak.event)
    parts = {name: int(sum(held[each] for each in group)) for name, group in _GROUPS.items()}
    # Blocks are rounded up to the allocator's unit; what that adds belongs to no category.
    parts["other"] += peak.allocated - sum(parts.values())
    device = peak.reserved + profile.context_bytes
    wider = _PER_GUESS * len(tape.guesses)
    return MemoryEstimate(
        parts=MemoryParts(**parts),
        allocated_peak_bytes=peak.allocated,
        reserved_peak_bytes=peak.reserved,
        device_peak_bytes=device,
        low_bytes=round(device * (1 - _BELOW[tape.target] - wider)),
        high_bytes=round(device * (1 + _ABOVE[tape.target] + wider)),
        peak_phase=_PHASES[phase_at(tape, peak.event)],
    )


def _run_seconds(time: TimeEstimate, candidate: Candidate, workload: Workload) -> float:
    """Add up a whole training: its steps, and an evaluation an epoch."""
    training = candidate.training
    steps = math.ceil(workload.rows * training.epochs / (training.batch_size * training.grad_accum))
    evaluations = math.ceil(training.epochs) * workload.validation_rows
    return steps * time.step_seconds + evaluations * time.evaluation_row_seconds


def _ignore(done: int) -> None:
    del done
