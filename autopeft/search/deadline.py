"""Deadline: whether a piece of training would end within the time budget."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

from autopeft.search.halving import Rungs
from autopeft.search.study import Trial
from autopeft.train.result import Report

GRACE_SECONDS = 30.0
"""A refit may end so long after the time; a piece of a trial that took longer than was predicted is cut off
twice as late."""


class Deadline:
    """The end of a search's time, held against what trials took so far.

    Args:
        at: `clock()` at which the time is spent; None where there is no limit.
        clock: seconds that only grow.
        rungs: how long trainings are.
    """

    def __init__(self, at: float | None, clock: Callable[[], float], rungs: Rungs) -> None:
        self._at = math.inf if at is None else at
        self._clock = clock
        self._rungs = rungs
        self._paces: dict[int, float] = {}

    @property
    def passed(self) -> bool:
        """Whether the time is spent."""
        return self._clock() >= self._at

    @property
    def overrun(self) -> bool:
        """Whether the time is spent for so long that what still runs has to be cut off."""
        return self._clock() >= self._at + 2 * GRACE_SECONDS

    def learn(self, trial: Trial, reports: Sequence[Report]) -> None:
        """Take note of how long a trial took, to correct what is predicted of others."""
        predicted = trial.predicted.run_seconds if trial.predicted else None
        for report in reports[-1:]:
            if predicted and report.samples and math.isfinite(report.seconds):
                whole = self._rungs.length(trial.candidate)
                self._paces[trial.number] = report.seconds / predicted * whole / report.samples

    def too_near(self, trial: Trial, reports: Sequence[Report], until: int) -> bool:
        """Say whether a trial could not be trained until so many rows in the time that is left.

        What a trial took until its last report says how long it takes; before its first report, what was
        predicted does, corrected by the others (the median of measured over predicted). Once there are
        others, what has no report yet has to end as a whole: a part of it would tell nothing.
        """
        if self.passed:
            return True
        whole = self._rungs.length(trial.candidate)
        until = min(until, whole)
        last = reports[-1] if reports else None
        predicted = trial.predicted.run_seconds if trial.predicted else None
        if last is not None and last.samples:
            seconds = last.seconds * (until - last.samples) / last.samples
        elif predicted is not None:
            pace = statistics.median(self._paces.values()) if self._paces else 1.0
            seconds = pace * predicted * (1.0 if self._paces else until / whole)
        else:
            return False
        return self._clock() + seconds > self._at
