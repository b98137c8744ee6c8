"""Planner: which candidates fit a budget, and the nearest way out for those that do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autopeft.cost.estimate import CostEstimate
from autopeft.errors import AutopeftError
from autopeft.hardware.profile import HardwareProfile
from autopeft.plan.budget import Budget
from autopeft.plan.cost_model import CostModel
from autopeft.plan.plan import Fits, Plan, Rejected, Verdict
from autopeft.space.candidate import Candidate
from autopeft.units import format_bytes, format_seconds
from autopeft.workload.base_model import BaseModel
from autopeft.workload.dataset import Workload


@dataclass(frozen=True, kw_only=True)
class Planner:
    """Judges candidates for one model, workload, device and budget."""

    base: BaseModel
    workload: Workload
    profile: HardwareProfile
    budget: Budget
    cost_model: CostModel

    @property
    def memory_limit(self) -> int:
        """Bytes that training may take on the device."""
        return min(self.budget.gpu_mem or self.profile.usable_bytes, self.profile.usable_bytes)

    def judge(self, candidate: Candidate) -> Verdict:
        """Cost one candidate and hold it against the budget."""
        try:
            estimate = self.cost_model.estimate(self.base, candidate, self.workload, self.profile)
        except AutopeftError as error:
            return Rejected(candidate=candidate, reason=str(error))
        return self._hold(candidate, estimate)

    def plan(
        self, space: str, candidates: Sequence[Candidate], on_done: Callable[[int], None] | None = None
    ) -> Plan:
        """Judge all candidates of a space."""
        estimates = self.cost_model.estimate_many(self.base, candidates, self.workload, self.profile, on_done)
        verdicts = [
            Rejected(candidate=candidate, reason=str(estimate))
            if isinstance(estimate, AutopeftError)
            else self._hold(candidate, estimate)
            for candidate, estimate in zip(candidates, estimates, strict=True)
        ]
        fits = [verdict for verdict in verdicts if isinstance(verdict, Fits)]
        fits.sort(key=lambda verdict: (-verdict.estimate.trainable_params, verdict.candidate.label))
        rejected = [verdict for verdict in verdicts if isinstance(verdict, Rejected)]
        rejected.sort(key=_excess)
        return Plan(
            model=self.base.name,
            space=space,
            workload=self.workload,
            budget=self.budget,
            profile=self.profile,
            fits=tuple(fits),
            rejected=tuple(rejected),
        )

    def _hold(self, candidate: Candidate, estimate: CostEstimate) -> Verdict:
        """Compare an estimate with each limit; the upper end of the memory band must fit."""
        memory, limit = estimate.memory, self.memory_limit
        if memory.high_bytes > limit:
            return Rejected(
                candidate=candidate,
                estimate=estimate,
                reason=f"peak memory {format_bytes(memory.device_peak_bytes)} "
                f"(up to {format_bytes(memory.high_bytes)}) is above the limit of {format_bytes(limit)}",
                way_out=_less_memory(candidate, estimate, limit),
            )
        share = estimate.trainable_params / estimate.total_params
        if self.budget.params is not None and share > self.budget.params:
            return Rejected(
                candidate=candidate,
                estimate=estimate,
                reason=f"it trains {share:.2%} of the parameters, the limit is {self.budget.params:.2%}",
                way_out="a smaller rank or fewer targets train less",
            )
        run, time = estimate.run_seconds, self.budget.time
        if time is not None and run is not None and run > time:
            epochs = candidate.training.epochs * time / run
            return Rejected(
                candidate=candidate,
                estimate=estimate,
                reason=f"one training takes {format_seconds(run)}, the limit is {format_seconds(time)}",
                way_out=f"at most {epochs:.2g} epochs or as many times fewer rows fit",
            )
        return Fits(candidate=candidate, estimate=estimate)


def _less_memory(candidate: Candidate, estimate: CostEstimate, limit: int) -> str:
    """Name the smallest change that would fit: activations shrink with the batch, weights do not."""
    memory = estimate.memory
    margin = memory.high_bytes / memory.device_peak_bytes
    context = memory.device_peak_bytes - memory.reserved_peak_bytes
    room = limit / margin - context - (memory.allocated_peak_bytes - memory.parts.activations)
    batch = int(candidate.training.batch_size * room / max(1, memory.parts.activations))
    if 1 <= batch < candidate.training.batch_size:
        return f"a batch of about {batch} rows fits"
    if room > 0:
        return "even one row is too much at this length: a shorter limit or gradient checkpointing may fit"
    return "its weights and optimizer state alone are too much: a smaller model or trainable share may fit"


def _excess(verdict: Rejected) -> float:
    return verdict.estimate.memory.high_bytes if verdict.estimate else float("inf")
