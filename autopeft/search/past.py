"""The trainings of earlier studies, as a search that begins can use them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from autopeft.errors import StorageError
from autopeft.message import Message
from autopeft.search.evidence import tell
from autopeft.search.halving import Rungs
from autopeft.search.store import StudyStore
from autopeft.search.study import Study, Trial
from autopeft.space.candidate import Candidate
from autopeft.train.result import Report
from autopeft.workload.tasks import Task

MOST = 10


class PastTraining(Message):
    """One training of an earlier study.

    Attributes:
        curve: share of the training in (0, 1] and what its evaluation says there, see `evidence`; ascending.
        lead: final validation score minus that of the study's baseline, turned so that more is better; None
            where the training did not end or the baseline was not scored.
    """

    candidate: Candidate
    curve: tuple[tuple[float, float], ...]
    lead: float | None = None


class PastStudy(Message):
    """An earlier study of one model on one dataset."""

    name: str
    model: str
    trainings: tuple[PastTraining, ...]


class Lead(NamedTuple):
    """What a candidate did in an earlier study, over that study's baseline."""

    candidate: Candidate
    lead: float
    study: PastStudy


def past_studies(
    workspace: Path, task: Task, *, but: str | None = None, most: int = MOST
) -> tuple[PastStudy, ...]:
    """Return a workspace's earlier studies of one task that trained something to its end, oldest first.

    Args:
        but: name of a study to leave out, the one that begins or goes on.
        most: so many of the latest are remembered.

    One that cannot be read is left out.
    """
    files = sorted(Path(workspace).glob("studies/*/study.db"), key=lambda file: file.stat().st_mtime)
    found: list[PastStudy] = []
    for file in reversed(files):
        if len(found) == most:
            break
        try:
            store = StudyStore(file)
            try:
                study, plan = store.load(), store.plan()
            finally:
                store.close()
        except StorageError:
            continue
        if plan.workload.task == task and study.name != but and (trainings := _trainings(study)):
            found.append(PastStudy(name=study.name, model=plan.model, trainings=trainings))
    return tuple(reversed(found))


def leads(studies: Sequence[PastStudy]) -> list[Lead]:
    """Return all candidates that were trained to their ends beside a baseline."""
    return [
        Lead(training.candidate, training.lead, study)
        for study in studies
        for training in study.trainings
        if training.lead is not None
    ]


def _trainings(study: Study) -> tuple[PastTraining, ...]:
    whole = [trial for trial in study.trials if trial.state == "complete" and trial.result]
    longest = max(whole, key=lambda trial: _reports(trial)[-1].samples, default=None)
    if longest is None:
        return ()
    rungs = Rungs(samples=(_reports(longest)[-1].samples,), epochs=longest.candidate.training.epochs)
    sign = 1.0 if study.metric.direction == "maximize" else -1.0
    baseline = study.baseline
    known = {} if baseline is None else {each.samples: each.score for each in _reports(baseline)}
    found = []
    for trial in study.trials:
        reports = [report for report in _reports(trial) if math.isfinite(report.score)]
        if not reports or trial.repetition:
            continue
        length = reports[-1].samples if trial.state == "complete" else rungs.length(trial.candidate)
        curve = [
            (share, tell(share, sign * report.score, report.extra))
            for report in reports
            if (share := report.samples / length) <= 1
        ]
        last = reports[-1]
        beside = trial.role != "baseline" and trial.state == "complete" and last.samples in known
        lead = sign * (last.score - known[last.samples]) if beside else math.nan
        found.append(
            PastTraining(
                candidate=trial.candidate,
                curve=tuple(curve),
                lead=lead if math.isfinite(lead) else None,
            )
        )
    return tuple(found)


def _reports(trial: Trial) -> tuple[Report, ...]:
    return trial.result.reports if trial.result else ()
