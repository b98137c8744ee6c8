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
from autopeft.search.latest import searched_at
from autopeft.search.store import StudyStore
from autopeft.search.study import Study, Trial
from autopeft.space.candidate import Candidate
from autopeft.train.result import Report
from autopeft.workload.base_model import Family
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
    workspace: Path, task: Task, family: Family, *, but: str | None = None, most: int = MOST
) -> tuple[PastStudy, ...]:
    """Return earlier studies of a task and a family that trained something to its end, oldest first.

    Studies in a database that is shared are not looked for.

    Args:
        but: name of a study to leave out, the one that begins or goes on.
        most: so many of the latest are remembered.

    One that cannot be read is left out.
    """
    files = sorted(Path(workspace).glob("studies/*/study.db"), key=lambda file: searched_at(file.parent))
    found: list[PastStudy] = []
    for file in reversed(files):
        if len(found) == most:
            break
        try:
            store = StudyStore(file)
            try:
                plan = store.plan()
                if (plan.workload.task, plan.family) != (task, family):
                    continue
                study = store.load()
            finally:
                store.close()
        except StorageError:
            continue
        if study.name != but and (trainings := _trainings(study)):
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
    found: list[PastTraining] = []
    lost: list[Candidate] = []
    for trial in study.trials:
        reports = [report for report in _reports(trial) if report.is_finite]
        if trial.repetition:
            continue
        if trial.state == "failed" or len(reports) < len(_reports(trial)):
            lost.append(trial.candidate)
            continue
        if not reports:
            continue
        length = reports[-1].samples if trial.state == "complete" else rungs.length(trial.candidate)
        curve = [
            (share, tell(share, sign * report.score, report.extra))
            for report in reports
            if (share := report.samples / length) <= 1
        ]
        if not curve:
            continue
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
    return (*found, *_worst(found, lost))


def _worst(found: Sequence[PastTraining], lost: Sequence[Candidate]) -> list[PastTraining]:
    """Let what diverged or failed count as the worst at the first evaluation, as a search has it."""
    first = min((each.curve[0][0] for each in found), default=1.0)
    worst = min((value for each in found for share, value in each.curve if share == first), default=0.0)
    return [PastTraining(candidate=each, curve=((first, worst),)) for each in lost]


def _reports(trial: Trial) -> tuple[Report, ...]:
    return trial.result.reports if trial.result else ()
