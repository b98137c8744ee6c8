"""Bring MLflow up to date with a study, after a tracking server was away."""

from __future__ import annotations

from pathlib import Path

from autopeft.journey.concluding import Finished
from autopeft.message import Message
from autopeft.report.facts import StudyFacts
from autopeft.request import Request
from autopeft.tracking.mlflow import SPOOL
from autopeft.tracking.mlflow_runs import MlflowRuns


class Synced(Message):
    """What a synchronisation found and wrote.

    Attributes:
        trials: of the study that have a run now.   written: of these, how many were missing or unfinished.
        mlflow: the store.
    """

    study: str
    trials: int
    written: int
    mlflow: str

    def __str__(self) -> str:
        """Say it on one line."""
        return f"{self.study}: {self.trials} runs in {self.mlflow}, {self.written} of them written now"


def sync_study(request: Request, mlflow: str, experiment: str) -> Synced:
    """Write what is missing from a study to MLflow; a second time writes nothing.

    Raises:
        StorageError: the study is being run (its search catches up by itself), or no server answers.
        UnknownNameError: there is no such study.
    """
    done = Finished(request)
    with done.store.claimed():
        study, plan = done.store.load(), done.store.plan()
        reports = {trial.number: done.store.reports(trial.number) for trial in study.trials}
        runs = MlflowRuns(mlflow, experiment, {})
        written = runs.catch_up(study, plan, reports)
        if done.folder.facts.exists():
            runs.add_summary(StudyFacts.read(done.folder.facts))
            runs.add_artifacts([path for path in (done.folder.report, done.folder.bundle) if path.exists()])
        if done.folder.bundle.exists():
            runs.add_model(done.folder.bundle, study.name)
    Path(done.folder.path / SPOOL).unlink(missing_ok=True)
    started = sum(trial.state != "rejected" for trial in study.trials)
    return Synced(study=study.name, trials=started, written=written, mlflow=mlflow)
