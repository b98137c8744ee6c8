"""Watching: an Observer that writes what a search does as lines of JSON, for those who look on."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from autopeft.plan.plan import Plan
from autopeft.search.study import Study, Trial
from autopeft.train.result import Report
from autopeft.workload.dataset import Dataset

PROGRESS_SECONDS = 1.0


class EventObserver:
    """Appends a line for each event: `event` says which, the rest is of it, numbers that are none are null.

    What it cannot write it leaves unwritten: the search goes on.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._said = ("", 0.0)

    def progress(self, what: str, done: int, total: int) -> None:
        """Write what is being done, when it changes or after a while."""
        now = time.monotonic()
        if what != self._said[0] or now - self._said[1] >= PROGRESS_SECONDS:
            self._said = what, now
            self._write("progress", what=what, done=done, total=total)

    def data_read(self, dataset: Dataset) -> None:
        """Write what was read."""
        rows = {split: len(getattr(dataset, split)) for split in ("train", "validation", "test")}
        metric = dataset.metric
        self._write(
            "data",
            name=dataset.name,
            task=dataset.task,
            rows=rows,
            metric={"name": metric.name, "direction": metric.direction},
            notes=dataset.notes,
        )

    def study_started(self, study: Study, plan: Plan, expected_trials: int, expected_seconds: float) -> None:
        """Write what is to come, and the trials that a resumed study has already."""
        self._write(
            "study",
            name=study.name,
            trials=expected_trials,
            seconds=expected_seconds,
            time=plan.budget.time,
            memory=plan.budget.gpu_mem,
            fits=len(plan.fits),
            rejected=len(plan.rejected),
            metric={"name": study.metric.name, "direction": study.metric.direction},
        )
        for trial in study.trials:
            self.trial_started(trial)
            for report in trial.result.reports if trial.result else ():
                self.trial_reported(trial, report)
            if trial.finished:
                self.trial_finished(trial)

    def trial_started(self, trial: Trial) -> None:
        """Write which configuration begins, and what is predicted of it."""
        predicted = trial.predicted
        self._write(
            "trial-started",
            number=trial.number,
            label=trial.label,
            method=trial.candidate.method,
            role=trial.role,
            trainable=predicted.trainable_params if predicted else None,
            predicted_bytes=predicted.memory.device_peak_bytes if predicted else None,
        )

    def trial_reported(self, trial: Trial, report: Report) -> None:
        """Write an evaluation."""
        self._write(
            "trial-reported",
            number=trial.number,
            rows=report.samples,
            score=report.score,
            loss=report.loss,
            seconds=report.seconds,
            peak_bytes=report.peak_bytes,
        )

    def trial_paused(self, trial: Trial) -> None:
        """Write that it is set aside."""
        self._write("trial-paused", number=trial.number)

    def trial_finished(self, trial: Trial) -> None:
        """Write how it ended."""
        result = trial.result
        self._write(
            "trial-finished",
            number=trial.number,
            label=trial.label,
            state=trial.state,
            score=result.score if result else None,
            peak_bytes=result.peak_bytes if result else None,
            trainable=trial.predicted.trainable_params if trial.predicted else None,
            reason=trial.reason or (result.reason if result else ""),
        )

    def study_finished(self, study: Study) -> None:
        """Write what was best."""
        best = study.best
        self._write(
            "study-finished",
            seconds=study.seconds,
            best=best.number if best else None,
            score=best.result.score if best and best.result else None,
            label=best.label if best else None,
        )

    def _write(self, event: str, **fields: Any) -> None:
        line = {"event": event, "at": round(time.time(), 3)} | {
            name: _plain(value) for name, value in fields.items()
        }
        try:
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line, ensure_ascii=True, allow_nan=False) + "\n")
        except (OSError, ValueError):
            return


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
