"""Observer: who wants to know what the search does. Terminal and MLflow are observers."""

from __future__ import annotations

from typing import Protocol

from autopeft.plan.plan import Plan
from autopeft.search.study import Study, Trial
from autopeft.train.result import Report
from autopeft.workload.dataset import Dataset


class Observer(Protocol):
    """Told of every event in order, in the driver process; must not raise and must return soon."""

    def data_read(self, dataset: Dataset) -> None:
        """Take note of the rows, before the search starts or goes on."""

    def study_started(self, study: Study, plan: Plan, expected_trials: int, expected_seconds: float) -> None:
        """Take note that the search starts or goes on (then `study` has trials already)."""

    def trial_started(self, trial: Trial) -> None:
        """Take note that a trial begins, or continues after a resumption."""

    def trial_reported(self, trial: Trial, report: Report) -> None:
        """Take note of an evaluation of a running trial."""

    def trial_paused(self, trial: Trial) -> None:
        """Take note that a trial is set aside after its last report; it may start again."""

    def trial_finished(self, trial: Trial) -> None:
        """Take note of a trial's end: complete, stopped, failed, or rejected without starting."""

    def study_finished(self, study: Study) -> None:
        """Take note that the search is over."""
