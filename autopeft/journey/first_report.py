"""First report: how long a search waited until the first of its trials trained."""

from __future__ import annotations

import time
from collections.abc import Mapping

from autopeft.plan.plan import Plan
from autopeft.search.study import Study, Trial
from autopeft.train.result import Report
from autopeft.workload.dataset import Dataset

WORKERS_START = "workers' start"
"""The stage in which the processes that train are started and load the model, until one of them trains."""


class FirstReport:
    """Observer that measures how long a search waited until the first of its trials trained.

    Args:
        before: seconds that each trial has trained in earlier sessions.

    Attributes:
        waited: seconds from the search's start to the first report, without what led to that; 0 before.
    """

    def __init__(self, before: Mapping[int, float]) -> None:
        self.waited = 0.0
        self._began: float | None = None
        self._before = before

    def data_read(self, dataset: Dataset) -> None:
        """Do nothing."""

    def study_started(self, study: Study, plan: Plan, expected_trials: int, expected_seconds: float) -> None:
        """Begin to wait."""
        del study, plan, expected_trials, expected_seconds
        self._began = time.monotonic()

    def trial_started(self, trial: Trial) -> None:
        """Do nothing."""

    def trial_reported(self, trial: Trial, report: Report) -> None:
        """End the waiting at the first report."""
        if self._began is not None:
            own = report.seconds - self._before.get(trial.number, 0.0)
            self.waited = max(0.0, time.monotonic() - self._began - own)
            self._began = None

    def trial_paused(self, trial: Trial) -> None:
        """Do nothing."""

    def trial_finished(self, trial: Trial) -> None:
        """Do nothing."""

    def study_finished(self, study: Study) -> None:
        """Do nothing."""
