"""MlflowObserver: the search in MLflow, written by a thread of its own so that no trial waits for it."""

from __future__ import annotations

import functools
import json
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autopeft.message import Message
from autopeft.plan.plan import Plan
from autopeft.report.facts import StudyFacts
from autopeft.search.study import Study, Trial
from autopeft.tracking.mlflow_runs import MlflowRuns
from autopeft.train.result import Report
from autopeft.workload.dataset import Dataset

if TYPE_CHECKING:
    Job = functools.partial[None]

SPOOL = "mlflow-spool.jsonl"
RETRY_SECONDS = 10.0
"""How long a store that failed is left alone."""


class MlflowObserver:
    """Logs a search as one MLflow run with a nested run for each trial.

    A study of the same name in the same experiment continues its run. A tracking store that fails
    never stops the search: `problem` says what is wrong, and what it misses goes to a file in the
    study's folder and is tried again with a later event, and at the end.

    Args:
        tracking_uri: a database or server as MLflow names them.
        experiment: name of the experiment, made if need be.
        tags: further tags of the study's run.
        flush_seconds: the longest that the end of the search, or a summary, waits for the store.
    """

    def __init__(
        self,
        tracking_uri: str,
        experiment: str,
        *,
        tags: Mapping[str, str] | None = None,
        flush_seconds: float = 60.0,
    ) -> None:
        self._uri, self._experiment, self._tags = tracking_uri, experiment, dict(tags or {})
        self._flush_seconds = flush_seconds
        self._queue: queue.Queue[Job | threading.Event | None] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._runs: MlflowRuns | None = None
        self._begin: Job | None = None
        self._missed: list[Job] = []
        self._next_try = 0.0
        self._spool: Path | None = None
        self._spooling = threading.Lock()
        self._problem: str | None = None

    @property
    def problem(self) -> str | None:
        """What keeps events from MLflow, and where they are; None while all is well."""
        return self._problem

    @property
    def parent_run_id(self) -> str | None:
        """Id of the study's run; None until the store has it (see `flush`)."""
        return (self._runs.parent_run_id or None) if self._runs else None

    @property
    def run_url(self) -> str | None:
        """Page of the study's run; None unless the store is a server."""
        if not self._uri.startswith("http") or self._runs is None or not self._runs.parent_run_id:
            return None
        place = f"experiments/{self._runs.experiment_id}/runs/{self._runs.parent_run_id}"
        return f"{self._uri.rstrip('/')}/#/{place}"

    def data_read(self, dataset: Dataset) -> None:
        """Leave the rows out: `log_facts` logs what is known of them."""

    def study_started(self, study: Study, plan: Plan, expected_trials: int, expected_seconds: float) -> None:
        """Begin or continue the study's run."""
        self._spool = Path(study.folder) / SPOOL
        self._begin = functools.partial(
            MlflowRuns.study_started,
            study=study,
            plan=plan,
            expected_trials=expected_trials,
            expected_seconds=expected_seconds,
        )
        self._put(self._begin)

    def trial_started(self, trial: Trial) -> None:
        """Begin or continue the trial's run."""
        self._put(functools.partial(MlflowRuns.trial_started, trial=trial))

    def trial_reported(self, trial: Trial, report: Report) -> None:
        """Log an evaluation."""
        self._put(functools.partial(MlflowRuns.trial_reported, trial=trial, report=report))

    def trial_paused(self, trial: Trial) -> None:
        """Leave the trial's run as it is: it may go on."""

    def trial_finished(self, trial: Trial) -> None:
        """End the trial's run."""
        self._put(functools.partial(MlflowRuns.trial_finished, trial=trial))

    def study_finished(self, study: Study) -> None:
        """End the study's run, and wait for the store within bounds."""
        self._put(functools.partial(MlflowRuns.study_finished, study=study))
        self.flush()

    def log_artifacts(self, paths: Sequence[Path]) -> None:
        """Attach files and folders to the study's run."""
        self._put(functools.partial(MlflowRuns.add_artifacts, paths=tuple(paths)))
        self.flush()

    def log_model(self, place: Path, name: str) -> None:
        """Log a bundle as a model of the study's run, and register it."""
        self._put(functools.partial(MlflowRuns.add_model, place=place, name=name))
        self.flush()

    def log_summary(self, facts: StudyFacts) -> None:
        """Attach the decision, the test scores and the facts to the study's run."""
        self._spool = self._spool or Path(facts.study.folder) / SPOOL
        self._put(functools.partial(MlflowRuns.add_summary, facts=facts))
        self.flush()

    def flush(self) -> bool:
        """Wait until the store has taken every event; False if it took too long, and `problem` says so."""
        if self._thread is None:
            return True
        done = threading.Event()
        self._queue.put(done)
        if done.wait(self._flush_seconds):
            return self._problem is None
        late: list[Job] = []
        while True:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                break
            if isinstance(item, functools.partial):
                late.append(item)
        self._set_aside(late, f"it did not answer within {self._flush_seconds:g} s")
        return False

    def close(self) -> None:
        """Flush, then end the thread."""
        self.flush()
        thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            thread.join(self._flush_seconds)

    def _put(self, job: Job) -> None:
        self._queue.put(job)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="autopeft-mlflow", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            if isinstance(item, threading.Event):
                item.set()
            else:
                self._do(item)

    def _do(self, job: Job) -> None:
        if self._problem is not None and not self._due(job):
            self._set_aside([job])
            return
        recovers = self._problem is not None
        jobs = self._all_missed(job) if recovers else [job]
        try:
            if self._runs is None:
                self._runs = MlflowRuns(self._uri, self._experiment, self._tags)
            for each in jobs:
                each(self._runs)
                self._take_off(each)
        # The thread's border: nothing a store raises may end the search; `problem` tells of it.
        except Exception as error:  # noqa: BLE001
            self._set_aside([job], " ".join(str(error).split()) or type(error).__name__)
            return
        if recovers:
            with self._spooling:
                # What was set aside meanwhile stays so.
                if not self._missed:
                    self._problem = None
                    if self._spool is not None:
                        self._spool.unlink(missing_ok=True)

    def _due(self, job: Job) -> bool:
        """Say whether a store that failed is worth another try; at the end of a stage it always is."""
        last = (
            *(MlflowRuns.study_finished, MlflowRuns.add_summary),
            *(MlflowRuns.add_artifacts, MlflowRuns.add_model),
        )
        return job.func in last or time.monotonic() >= self._next_try

    def _all_missed(self, job: Job) -> list[Job]:
        """Return what brings a store up to date after it failed: the study's begin, and all since."""
        with self._spooling:
            missed = [each for each in self._missed if each is not self._begin]
        return [*([self._begin] if self._begin is not None else []), *missed, job]

    def _take_off(self, job: Job) -> None:
        """Take an event that the store has from those that it missed, so that it is not told again."""
        with self._spooling:
            self._missed = [each for each in self._missed if each is not job]

    def _set_aside(self, jobs: Sequence[Job], why: str = "") -> None:
        """Write events to the spool, and say why the first of them could not be logged."""
        lines = [json.dumps({"event": job.func.__name__, "at": time.time(), **_plain(job)}) for job in jobs]
        place = "lost"
        with self._spooling:
            self._missed += jobs
            self._next_try = time.monotonic() + RETRY_SECONDS if why else self._next_try
            if self._spool is not None:
                try:
                    self._spool.parent.mkdir(parents=True, exist_ok=True)
                    with self._spool.open("a", encoding="utf-8") as stream:
                        stream.writelines(f"{line}\n" for line in lines)
                    place = f"in {self._spool}"
                except OSError as error:
                    place = f"lost ({error.strerror})"
            if why:
                failed = f"MLflow at {self._uri} could not be written: {why}"
                said = f"{failed.rstrip('.')}. Events not logged are {place}"
                self._problem = f"{said}; `autopeft sync` writes what is missing."


def _plain(job: Job) -> dict[str, object]:
    """Return a job's arguments as JSON values."""
    return {name: _value(value) for name, value in job.keywords.items()}


def _value(value: object) -> object:
    if isinstance(value, Message):
        return value.model_dump(mode="json")
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [str(part) for part in value]
    return value
