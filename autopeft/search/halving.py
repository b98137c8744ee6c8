"""Asynchronous successive halving: whom to stop early, as pure functions.

Li et al., "A System for Massively Parallel Hyperparameter Tuning" (ASHA), MLSys 2020, in the form
that stops instead of pausing: a trial that reaches a rung goes on if it is among the best
1/reduction of all that have reached that rung so far, itself included.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import Field, model_validator

from autopeft.message import Message
from autopeft.space.candidate import Candidate
from autopeft.workload.dataset import Metric


class Rungs(Message):
    """When trials are evaluated, and how hard they are culled.

    Attributes:
        samples: training rows seen at each evaluation, ascending; the last is the whole training.
        reduction: one in so many goes on from each rung but the last.
        epochs: of the longest training, which the last rung ends; None where all are as long.
    """

    samples: tuple[int, ...] = Field(min_length=1)
    reduction: int = Field(default=3, ge=2)
    epochs: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _ascending(self) -> Rungs:
        if any(later <= earlier for earlier, later in zip((0, *self.samples), self.samples, strict=False)):
            raise ValueError(f"`samples` must ascend from above 0, but got {list(self.samples)}")
        return self

    def length(self, candidate: Candidate) -> int:
        """Return the training rows that a candidate sees in all."""
        share = 1.0 if self.epochs is None else candidate.training.epochs / self.epochs
        # What floating point adds to a whole number of rows is no row.
        return max(1, math.ceil(round(min(1.0, share) * self.samples[-1], 6)))

    def left(self, seen: int) -> tuple[int, ...]:
        """Return the evaluations that are left after `seen` training rows."""
        return tuple(samples for samples in self.samples if samples > seen)


def plan_rungs(
    total_samples: int, *, reduction: int = 3, first_share: float = 1 / 5, epochs: float | None = None
) -> Rungs:
    """Place rungs at `first_share` of the training and at `reduction` times as much each.

    A rung beyond 80 % of the training is left out: it would save next to nothing.
    """
    samples: list[int] = []
    share = first_share
    while share < 0.8:
        rung = max(1, round(total_samples * share))
        if rung < total_samples and (not samples or rung > samples[-1]):
            samples.append(rung)
        share *= reduction
    return Rungs(samples=(*samples, total_samples), reduction=reduction, epochs=epochs)


def should_stop(score: float, others: Sequence[float], reduction: int, metric: Metric) -> bool:
    """Say whether a trial that has just reached a rung is not worth more.

    Args:
        score: its score there; one that is no number, the sign of divergence, is always stopped.
        others: scores of all others that have reached the rung so far.
        reduction: one in so many goes on, and at least the best one.
        metric: which way a score improves.
    """
    if not math.isfinite(score):
        return True
    going_on = max(1, (len(others) + 1) // reduction)
    ahead = sum(metric.better(other, score) for other in others)
    return ahead >= going_on
