"""What the charts of a report show, as plain values: curves, trade-offs and memory points."""

from __future__ import annotations

import math
from typing import NamedTuple

from autopeft.report.facts import StudyFacts
from autopeft.report.intervals import wilson
from autopeft.search.study import Role, Study, Trial, TrialState

PARTS = {
    "weights": "frozen weights",
    "quantization": "scales of quantised weights",
    "adapter": "adapter",
    "gradients": "gradients",
    "optimizer": "optimizer state",
    "activations": "saved activations",
    "logits": "logits and loss",
    "temporary": "working tensors",
    "kept": "outputs of the step before",
    "other": "batch and other",
}
CACHE, PROCESS = "allocator cache", "process and libraries"
PARTS_AND_REST = (*PARTS.values(), CACHE, PROCESS)


class Curve(NamedTuple):
    """The validation score of one trial over the rows it has seen."""

    number: int
    label: str
    state: TrialState
    role: Role
    samples: tuple[int, ...]
    scores: tuple[float, ...]


class TradeOff(NamedTuple):
    """What one trial costs and what it scores; `front` if no fully trained trial beats it in both.

    Attributes:
        cost: in the units of the study's `Objective`.
    """

    number: int
    label: str
    state: TrialState
    role: Role
    cost: float
    score: float
    front: bool


class MemoryPoint(NamedTuple):
    """Predicted peak with its band beside the measured one, in bytes.

    Attributes:
        whole: trained to its end; the peak of a part says nothing of a prediction for the whole, which may
            have longer rows.
    """

    number: int
    label: str
    low: int
    predicted: int
    high: int
    measured: int
    whole: bool

    @property
    def inside(self) -> bool:
        """Whether the measured peak lies in the band."""
        return self.low <= self.measured <= self.high


def curves(study: Study) -> tuple[Curve, ...]:
    """Return the learning curve of every trial that reported a score that is a number."""
    return tuple(
        Curve(
            trial.number,
            trial.label,
            trial.state,
            trial.role,
            tuple(report.samples for report in reports),
            tuple(report.score for report in reports),
        )
        for trial in study.trials
        if trial.result
        if (reports := [each for each in trial.result.reports if math.isfinite(each.score)])
    )


def trade_offs(study: Study) -> tuple[TradeOff, ...]:
    """Return score against cost, trained parameters unless another was searched, of every trial with both."""
    objective = study.front_of or "params"
    front = {trial.number for trial in study.front(objective)}
    return tuple(
        TradeOff(trial.number, trial.label, trial.state, trial.role, cost, trial.result.score,
                 trial.number in front)
        for trial in study.trials
        if trial.predicted and trial.result and not math.isnan(trial.result.score)
        if (cost := trial.predicted.amount(objective)) is not None
    )  # fmt: skip


def memory_points(facts: StudyFacts) -> tuple[MemoryPoint, ...]:
    """Return predicted and measured peak memory of every trial that has both."""
    device = facts.plan.profile.device
    return tuple(
        MemoryPoint(
            trial.number,
            trial.label,
            *trial.predicted.memory.reported(device),
            trial.result.peak_bytes,
            trial.state == "complete",
        )
        for trial in facts.study.trials
        if trial.predicted and trial.result and trial.result.peak_bytes
    )


def memory_parts(trial: Trial) -> dict[str, int]:
    """Return the predicted device peak of a trial by part, in words; the parts sum to it."""
    if trial.predicted is None:
        return {}
    memory = trial.predicted.memory
    parts = {word: int(getattr(memory.parts, name)) for name, word in PARTS.items()}
    parts[CACHE] = memory.reserved_peak_bytes - memory.parts.total
    parts[PROCESS] = memory.device_peak_bytes - memory.reserved_peak_bytes
    return {word: size for word, size in parts.items() if size > 0}


def noise(facts: StudyFacts) -> tuple[float, float] | None:
    """Return the interval of the best validation score; None where its rows or its spread are unknown."""
    best, rows = facts.study.best, facts.data.rows.get("validation", 0)
    if best is None or best.result is None or not rows or facts.data.metric.interval != "proportion":
        return None
    return wilson(round(best.result.score * rows), rows)
