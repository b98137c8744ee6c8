"""Stages: how long each part of the journey took, kept over resumptions."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autopeft.files import write_atomically
from autopeft.plan.plan import Plan
from autopeft.search.study import Study, Trial
from autopeft.train.result import Report
from autopeft.workload.dataset import Dataset

WORKERS_START = "workers' start"
"""The stage in which the processes that train are started and load the model, until one of them trains."""


class Stages:
    """Wall time by stage, in a file of the study."""

    def __init__(self, file: Path) -> None:
        """Go on with what `file` holds."""
        self.file = file
        self.seconds: dict[str, float] = json.loads(file.read_text()) if file.exists() else {}

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time spent inside to a stage."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.add(stage, time.monotonic() - began)

    def add(self, stage: str, seconds: float) -> None:
        """Add a time to a stage."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        write_atomically(self.file, json.dumps(self.seconds))

    def move(self, stage: str, to: str, seconds: float) -> None:
        """Count so many seconds of a stage to another one."""
        seconds = min(seconds, self.seconds.get(stage, 0.0))
        if seconds > 0:
            self.add(stage, -seconds)
            self.add(to, seconds)

    @property
    def total(self) -> float:
        """Seconds of all stages."""
        return sum(self.seconds.values())


class FirstReport:
    """Observer that measures how long a search waited until the first of its trials trained.

    Attributes:
        waited: seconds from the search's start to the first report, without what led to that; 0 before.
    """

    def __init__(self) -> None:
        self.waited = 0.0
        self._began: float | None = None
        self._before: dict[int, float] = {}

    def data_read(self, dataset: Dataset) -> None:
        """Do nothing."""

    def study_started(self, study: Study, plan: Plan, expected_trials: int, expected_seconds: float) -> None:
        """Begin to wait; what trials took in earlier sessions is not of this one."""
        del plan, expected_trials, expected_seconds
        self._began = time.monotonic()
        reported = {trial.number: trial.result.reports for trial in study.trials if trial.result}
        self._before = {number: made[-1].seconds for number, made in reported.items() if made}

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
