"""Planner: which candidates fit a budget, and the nearest way out for those that do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from autopeft.cost.estimate import CostEstimate
from autopeft.cost.spread import Spread
from autopeft.errors import AutopeftError, DoesNotFitError
from autopeft.hardware.prices import Price
from autopeft.hardware.profile import HardwareProfile
from autopeft.plan.budget import Budget
from autopeft.plan.cost_model import CostModel
from autopeft.plan.misses import nearest, with_ways_out
from autopeft.plan.pareto import front
from autopeft.plan.plan import Fits, Plan, Prior, Rejected, Verdict
from autopeft.plan.prior import prior_of
from autopeft.space.candidate import Candidate
from autopeft.units import SECONDS_AN_HOUR, format_bound, format_bytes, format_seconds, format_usd
from autopeft.workload.base_model import BaseModel
from autopeft.workload.dataset import Workload


@dataclass(frozen=True, kw_only=True)
class Planner:
    """Judges candidates for one model, workload, device and budget.

    `spread` says how devices share a training, which the cost model knows too; `price` is that of one of
    them, None where none is known.
    """

    base: BaseModel
    workload: Workload
    profile: HardwareProfile
    budget: Budget
    cost_model: CostModel
    spread: Spread = field(default_factory=Spread)
    price: Price | None = None

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
        self,
        space: str,
        candidates: Sequence[Candidate],
        on_done: Callable[[int], None] | None = None,
        *,
        misses: int = 0,
    ) -> Plan:
        """Judge all candidates of a space.

        Args:
            space: its name.
            candidates: what to judge.
            on_done: told how many are costed.
            misses: for how many of the nearest misses to look for changes that make them fit.
        """
        hopeless = self._hopeless()
        estimates: Sequence[CostEstimate | AutopeftError]
        estimates = [hopeless] * len(candidates) if hopeless else self._costs(candidates, on_done)
        verdicts = [
            Rejected(candidate=candidate, reason=str(estimate))
            if isinstance(estimate, AutopeftError)
            else self._hold(candidate, estimate)
            for candidate, estimate in zip(candidates, estimates, strict=True)
        ]
        rejected = [verdict for verdict in verdicts if isinstance(verdict, Rejected)]
        rejected.sort(key=_excess)
        if misses:
            known = {
                candidate.footprint: estimate
                for candidate, estimate in zip(candidates, estimates, strict=True)
                if isinstance(estimate, CostEstimate)
            }
            places = nearest(rejected, misses)
            rejected = with_ways_out(rejected, places, known, self._costs, self._spare)
        return Plan(
            model=self.base.name,
            space=space,
            workload=self.workload,
            budget=self.budget,
            profile=self.profile,
            fits=tuple(self._ranked([verdict for verdict in verdicts if isinstance(verdict, Fits)])),
            rejected=tuple(rejected),
            spread=self.spread,
            price=self.price,
            family=self.base.family,
        )

    def _hopeless(self) -> DoesNotFitError | None:
        """Return why nothing can fit, where that is known before anything is costed."""
        holds, limit = self.profile.context_bytes, self.memory_limit
        if holds < limit:
            return None
        return DoesNotFitError(
            f"a training process holds {format_bytes(holds)} before its first tensor, "
            f"the limit is {format_bound(limit)}"
        )

    def _costs(
        self, candidates: Sequence[Candidate], on_done: Callable[[int], None] | None = None
    ) -> list[CostEstimate | AutopeftError]:
        return self.cost_model.estimate_many(self.base, candidates, self.workload, self.profile, on_done)

    def _ranked(self, fits: Sequence[Fits]) -> list[Fits]:
        """Order what fits by its prior, then by its time a row, and mark the Pareto front."""
        known: dict[tuple[object, ...], Prior | None] = {}
        priors = []
        for each in fits:
            one = each.candidate
            key = one.method, one.rank, one.targets, one.layers, one.quantization
            if key not in known:
                known[key] = prior_of(one, self.base.family)
            priors.append(known[key])
        unknown = -1.0 if any(priors) else 0.0
        points = [
            (
                prior.score if prior else unknown,
                each.estimate.memory.device_peak_bytes,
                each.estimate.trainable_params,
            )
            for each, prior in zip(fits, priors, strict=True)
        ]
        # What is not known cannot be better than what is, unless nothing is known.
        on_front = [
            best and (prior is not None or unknown == 0)
            for best, prior in zip(front(points), priors, strict=True)
        ]
        ranked = [
            each.model_copy(update={"prior": prior, "on_front": best})
            for each, prior, best in zip(fits, priors, on_front, strict=True)
        ]
        return sorted(ranked, key=_rank)

    def _spare(self, estimate: CostEstimate) -> int | None:
        """Return what an estimate leaves of the memory limit; None where some limit is exceeded."""
        left = self.memory_limit - estimate.memory.high_bytes
        return left if left >= 0 and self._other_limit(estimate) is None else None

    def _hold(self, candidate: Candidate, estimate: CostEstimate) -> Verdict:
        """Compare an estimate with each limit; the upper end of the memory band must fit."""
        memory, limit = estimate.memory, self.memory_limit
        if memory.high_bytes > limit:
            return Rejected(
                candidate=candidate,
                estimate=estimate,
                reason=f"peak memory {format_bytes(memory.device_peak_bytes)} "
                f"(up to {format_bytes(memory.high_bytes)}) is above the limit of {format_bound(limit)}",
                way_out=_less_memory(candidate, estimate, limit),
            )
        other = self._other_limit(estimate)
        if other is not None:
            reason, way_out = other
            return Rejected(candidate=candidate, estimate=estimate, reason=reason, way_out=way_out)
        usd_per_hour, run = self._usd_per_hour, estimate.wall_seconds
        usd = None if usd_per_hour is None or run is None else run / SECONDS_AN_HOUR * usd_per_hour
        return Fits(candidate=candidate, estimate=estimate, usd=usd)

    @property
    def _usd_per_hour(self) -> float | None:
        """What all devices of one training cost."""
        return None if self.price is None else self.price.usd_per_hour * self.spread.gpus

    def _other_limit(self, estimate: CostEstimate) -> tuple[str, str] | None:
        """Return which limit other than memory an estimate exceeds, and a way out."""
        share = estimate.trainable_params / estimate.total_params
        if self.budget.params is not None and share > self.budget.params:
            return (
                f"it trains {share:.2%} of the parameters, the limit is {self.budget.params:.2%}",
                "a smaller rank or fewer targets train less",
            )
        run, time = estimate.wall_seconds, self.budget.time
        if time is not None and run is not None and run > time:
            others = (self.profile.sharers or 1) - 1
            beside = f" beside {others} other{'s' * (others > 1)}" if others else ""
            return (
                f"one training takes {format_seconds(run)}{beside}, the limit is {format_seconds(time)}",
                f"at most {time / run:.2g} times the epochs or rows fit",
            )
        return self._size_limit(estimate) or self._cost_limit(run)

    def _size_limit(self, estimate: CostEstimate) -> tuple[str, str] | None:
        size, most = estimate.adapter_file_bytes, self.budget.adapter_size
        if most is None or size <= most:
            return None
        return (
            f"its adapter takes {format_bytes(size)}, the limit is {format_bound(most)}",
            "a smaller rank or fewer targets make a smaller file",
        )

    def _cost_limit(self, run: float | None) -> tuple[str, str] | None:
        most, usd_per_hour = self.budget.cost, self._usd_per_hour
        if most is None or run is None or usd_per_hour is None:
            return None
        usd = run / SECONDS_AN_HOUR * usd_per_hour
        if usd <= most:
            return None
        return (
            f"one training costs {format_usd(usd)} at {format_usd(usd_per_hour)} an hour, "
            f"the limit is {format_usd(most)}",
            f"at most {most / usd:.2g} times the epochs or rows fit",
        )


def _less_memory(candidate: Candidate, estimate: CostEstimate, limit: int) -> str:
    """Name the smallest change that may fit: what passes through the model shrinks with the batch."""
    memory, parts = estimate.memory, estimate.memory.parts
    passing = parts.activations + parts.logits + parts.temporary + parts.kept
    room = limit * memory.device_peak_bytes / memory.high_bytes - (memory.device_peak_bytes - passing)
    batch = int(candidate.training.batch_size * room / max(1, passing))
    if batch >= 1:
        return f"a batch of about {batch} {'row' if batch == 1 else 'rows'} may fit"
    lasting = parts.weights + parts.quantization + parts.adapter + parts.gradients + parts.optimizer
    if lasting + memory.device_peak_bytes - memory.reserved_peak_bytes > limit:
        return (
            "its weights and optimizer state alone are too much: a smaller model or trainable share may fit"
        )
    if candidate.training.gradient_checkpointing:
        return "even one row is too much at this length: a shorter limit or a smaller model may fit"
    return "even one row is too much at this length: a shorter limit or gradient checkpointing may fit"


def _excess(verdict: Rejected) -> float:
    return verdict.estimate.memory.high_bytes if verdict.estimate else float("inf")


def _rank(fit: Fits) -> tuple[bool, float, float, float, str]:
    """Best expected quality first, the unknown last; of equals the fastest a row, then the smallest."""
    training, time = fit.candidate.training, fit.estimate.time
    row_seconds = time.step_seconds / (training.batch_size * training.grad_accum)
    score = fit.prior.score if fit.prior else 0.0
    trained = fit.estimate.trainable_params
    return fit.prior is None, -score, row_seconds if fit.prior else -trained, trained, fit.candidate.label
