"""Costing: one run of a traced pattern -> its CostEstimate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from autopeft.cost.correction import Calibration
from autopeft.cost.estimate import CostEstimate, TimeEstimate
from autopeft.cost.expand import Expansion
from autopeft.cost.memory import estimate_memory
from autopeft.cost.padding import padding_bytes
from autopeft.cost.reshape import Reshaper
from autopeft.cost.run_time import mean_over_lengths, representative_lengths, run_time
from autopeft.cost.step_time import estimate_time, shortened, weight_bytes
from autopeft.cost.tracing.request import TraceRequest
from autopeft.errors import AutopeftError, UnsupportedError
from autopeft.hardware.profile import HardwareProfile
from autopeft.methods.quantization.schemes import find_quantization
from autopeft.space.candidate import Candidate
from autopeft.space.optimizers import find_optimizer
from autopeft.units import format_bytes
from autopeft.workload.batching import packed, truncate
from autopeft.workload.dataset import Workload

Placed = tuple[int, CostEstimate | AutopeftError]
"""An estimate and its place among the candidates."""


class Run(NamedTuple):
    """What to cost for a candidate: the pattern it needs, and the steps of its run."""

    request: TraceRequest
    lengths: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, tuple[int, ...], int, int]:
        """What tells runs of one pattern apart."""
        training = self.request.candidate.training
        return self.request.rows, self.lengths, self.request.candidate.rank or 1, training.grad_accum


def cost_run(
    made: Reshaper, run: Run, candidate: Candidate, workload: Workload, profile: HardwareProfile
) -> CostEstimate | AutopeftError:
    """Return what a run takes, or why that cannot be told: the profile lacks the speed of a dtype."""
    training = candidate.training
    rank = run.request.candidate.rank or 1
    tape = made.tape(run.request.rows, run.lengths, rank)
    quantized = find_quantization(candidate.quantization).modelled and candidate.quantization != "none"

    general = made.expansion.pattern.general

    def time_at(length: int) -> TimeEstimate:
        if general:
            shaped = tape if length == run.lengths[1] else made.at(tape, run.request.rows, length, rank)
        else:
            # This pattern serves the longest row only.
            shaped = shortened(tape, length / run.request.length)
        return estimate_time(
            shaped,
            profile,
            training.grad_accum,
            recomputes=training.gradient_checkpointing,
            unpacked=float(run.request.base.parameters or 0) if quantized else 0.0,
            forwards=find_optimizer(training.optimizer).forwards,
        )

    evaluations = workload.evaluations(training.epochs)
    lengths, evaluated_share = [run.lengths[1]], 1.0
    if training.packing:
        alone = truncate(workload.lengths, training.max_length).mean
        evaluated_share = alone / packed(workload, training.max_length).lengths.mean
        workload = packed(workload, training.max_length)
    truncated = workload.model_copy(update={"lengths": truncate(workload.lengths, training.max_length)})
    if not training.packing:
        lengths = representative_lengths(truncated, training.batch_size)
    try:
        time = mean_over_lengths(time_at, lengths)
    except UnsupportedError as error:
        return error
    whole_run = None
    if workload.rows:
        whole_run = run_time(
            time,
            truncated,
            profile,
            epochs=training.epochs,
            batch_size=training.batch_size,
            grad_accum=training.grad_accum,
            weight_bytes=weight_bytes(tape),
            evaluations=evaluations,
            evaluated_share=evaluated_share,
        )
    guesses = tape.guesses
    if profile.device not in ("cpu", "cuda"):
        guesses += (f"kernels and allocator of {profile.device} taken to be those of cuda",)
    scaled: tuple[str, ...] = ()
    if not general and lengths != [run.request.length]:
        scaled = ("time of shorter rows than the longest taken to be in proportion",)
    if profile.doubt:
        scaled += ("speeds measured beside other work; the band is wider for it",)
    targets = workload.targets
    if targets is not None and targets.percentiles[0] != targets.longest:
        scaled += (f"every batch taken to write {run.request.target_length} tokens, as the longest row",)
    loop = run.request.loop
    padding = padding_bytes(run.request, max(run.lengths))
    memory = estimate_memory(tape, profile, loop, guesses=len(guesses), padding_bytes=padding)
    if padding:
        scaled += (f"rows of a batch equally long; padding would take up to {format_bytes(padding)} more",)
    libraries = ", ".join(f"{name} {number}" for name, number in tape.versions.items())
    return CostEstimate(
        memory=memory,
        time=time,
        trainable_params=tape.trainable_params,
        total_params=tape.total_params,
        adapter_file_bytes=tape.adapter_bytes,
        run_seconds=whole_run.computed_seconds if whole_run else None,
        run=whole_run,
        guesses=guesses + scaled,
        provenance=f"{_made(made.expansion)} as {tape.target} with {libraries}; loop {loop.name}; "
        f"speeds of {profile.name} ({profile.provenance.kind})",
    )


def calibrated(
    found: Sequence[Placed], calibration: Calibration | None, profile: HardwareProfile
) -> list[Placed]:
    """Correct the times of estimates by measured runs of the same profile, where there are any."""
    if calibration is None:
        return list(found)
    correct = _corrected if calibration.profile == profile.digest else _uncorrected
    return [
        (place, each if isinstance(each, AutopeftError) else correct(each, calibration))
        for place, each in found
    ]


def _uncorrected(estimate: CostEstimate, calibration: Calibration) -> CostEstimate:
    """Say that a calibration is of another profile."""
    words = (
        f"time not corrected: the calibration by {calibration.runs} runs ({calibration.source}) was made for "
        "another profile of this name; calibrate again"
    )
    return estimate.model_copy(update={"guesses": (*estimate.guesses, words)})


def _corrected(estimate: CostEstimate, calibration: Calibration) -> CostEstimate:
    time = calibration.corrected(estimate.time)
    factor = time.step_seconds / estimate.time.step_seconds if estimate.time.step_seconds else 1.0
    run = estimate.run
    if run is not None:
        both = {name: getattr(run, name) * factor for name in ("training_seconds", "evaluation_seconds")}
        run = run.model_copy(update=both)
    words = f"; time calibrated by {calibration.runs} measured runs ({calibration.source})"
    return estimate.model_copy(
        update={
            "time": time,
            "run": run,
            "run_seconds": run.computed_seconds if run else None,
            "provenance": estimate.provenance + words,
        }
    )


def _made(expansion: Expansion) -> str:
    traced = sum(run.units for run in expansion.pattern.runs)
    if any(expansion.copies):
        return f"expanded from {traced} units of layers to {expansion.depth} layers"
    return f"expanded from {expansion.depth} layers" if expansion.pattern.general else "traced at full depth"
