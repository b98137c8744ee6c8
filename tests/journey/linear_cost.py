"""A cost model whose answers can be worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Self

from autopeft.cost.estimate import UNCOUNTED, CostEstimate, MemoryEstimate, MemoryParts, RunTime, TimeEstimate
from autopeft.cost.loops import LOOPS, Loop
from autopeft.errors import AutopeftError, UnsupportedError
from autopeft.hardware.profile import HardwareProfile
from autopeft.methods.registry import METHODS
from autopeft.space.candidate import Candidate, Training
from autopeft.units import GIB, MIB
from autopeft.workload.base_model import BaseModel
from autopeft.workload.dataset import Workload


def _run(workload: Workload, training: Training, load_seconds: float) -> RunTime:
    """Return the time of a run, each step of which takes a second."""
    steps = math.ceil(workload.rows * training.epochs / (training.batch_size * training.grad_accum))
    return RunTime(
        load_seconds=load_seconds,
        training_seconds=steps,
        data_seconds=0,
        evaluation_seconds=0,
        steps=steps,
    )


class LinearCost:
    """A cost model of a GiB of weights and 100 MiB a row of 512 tokens, that notes how it is asked."""

    def __init__(
        self, load_seconds: float = 0.0, *, brief: bool = False, calibrations: object = None
    ) -> None:
        del brief, calibrations
        self.asked: list[tuple[str, int]] = []
        self.load_seconds = load_seconds

    def trace_ahead(self, asked, progress) -> None: ...

    def estimate(self, base, candidate, workload, profile) -> CostEstimate:
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
        loop: Loop = LOOPS["autopeft"],
    ) -> list[CostEstimate | AutopeftError]:
        self.asked.append((base.name, len(candidates)))
        if any(candidate.knobs.get("alpha_ratio") == 666 for candidate in candidates):
            raise ZeroDivisionError("a bug of a library")
        return [self._cost(candidate, workload, profile, loop) for candidate in candidates]

    def _cost(
        self, candidate: Candidate, workload: Workload, profile: HardwareProfile, loop: Loop
    ) -> CostEstimate | AutopeftError:
        training = candidate.training
        preparation = METHODS[candidate.method].preparation
        if candidate.quantization == "int8":
            return UnsupportedError("int8 is not for this test")
        length = min(workload.lengths.longest, training.max_length)
        share = 0.2 if training.gradient_checkpointing else 1
        parts = MemoryParts(
            weights=GIB // (4 if candidate.quantization.startswith("nf4") else 1),
            activations=int(100 * MIB * training.batch_size * length / 512 * share),
            optimizer=8 * (candidate.rank or 0),
            other=50 * MIB if loop.converts_outputs else 0,
        )
        run = _run(workload, training, self.load_seconds) if workload.rows else None
        device = parts.total + MIB + profile.context_bytes
        return CostEstimate(
            memory=MemoryEstimate(
                parts=parts,
                allocated_peak_bytes=parts.total,
                reserved_peak_bytes=parts.total + MIB,
                device_peak_bytes=device,
                low_bytes=device - 10 * MIB,
                high_bytes=device + 10 * MIB,
                peak_phase="backward",
            ),
            time=TimeEstimate(
                step_seconds=1,
                tokens_per_second=length * training.batch_size,
                forward_seconds=1,
                backward_seconds=0,
                optimizer_seconds=0,
                lower_seconds=1,
                upper_seconds=1,
                low_seconds=0.5,
                high_seconds=2,
                evaluation_row_seconds=0,
                bound="compute",
            ),
            trainable_params=candidate.rank or 1,
            total_params=1000,
            adapter_file_bytes=1,
            run_seconds=run.computed_seconds if run else None,
            run=run,
            provenance="traced for a test",
            guesses=(f"{UNCOUNTED}: {preparation}",) if preparation else (),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass
