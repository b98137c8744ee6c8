"""Studies as jobs leave them in the workspace of a service, without the training."""

from __future__ import annotations

from pathlib import Path

from fastapi.testclient import TestClient

from autopeft.export.bundle import Evaluated
from autopeft.files import write_atomically
from autopeft.hardware.catalog import load_profile
from autopeft.journey.conclusion import data_facts
from autopeft.journey.contest import Scores
from autopeft.journey.workspace import StudyFolder, open_store, study_folder
from autopeft.plan.budget import Budget
from autopeft.plan.plan import Plan
from autopeft.report.intervals import wilson
from autopeft.request import Request
from autopeft.search.study import Trial
from autopeft.space.candidate import Candidate, Training
from autopeft.train.result import Report
from autopeft.workload.dataset import Lengths, Workload
from autopeft.workload.readers import read_dataset
from autopeft.workload.tasks import ACCURACY, Metric

ROWS = b"text,label\n" + b"".join(b"a good film %d,good\na bad film %d,bad\n" % (n, n) for n in range(40))
SHORT = Training(max_length=24)
CANDIDATES = tuple(Candidate(method="lora", rank=rank, training=SHORT) for rank in (4, 32, 64))


def keep_study(
    service: TestClient,
    who: dict[str, str],
    model: str,
    right: range | None = None,
    metric: Metric = ACCURACY,
) -> str:
    """Make a study of a user, of three trials of which the second wins and the third still trains.

    Args:
        right: which of 200 test rows the winner had right; None where it was not scored.
    """
    workspace = str(service.office.settings.workspace.resolve())
    place = f"{workspace}/uploads/hers/rows.csv"
    write_atomically(Path(place), ROWS)
    name = service.post("/api/v1/jobs", json={"demo": "classification"}, headers=who).json()["id"]
    folder = study_folder(workspace, name)
    plan = Plan(
        model=Path(model).name,
        space="quick",
        workload=Workload(task="classification", lengths=Lengths.constant(8)),
        budget=Budget(),
        profile=load_profile("l4"),
        fits=(),
        rejected=(),
    )
    store = open_store(folder)
    asked = Request(model=model, data=place, workspace=workspace, study=name)
    store.create(name=name, metric=metric, seed=0, request=asked.model_dump_json(), plan=plan)
    for number, candidate in enumerate(CANDIDATES):
        trial = Trial.build(number=number, role="candidate", candidate=candidate, state="running")
        store.add_trial(trial)
        if number < 2:
            store.finish(number, "complete", last=a_report(0.5 + 0.1 * number))
    store.close()
    data_facts(read_dataset(place)).keep(folder.data)
    if right is not None:
        keep_scores(folder, right, metric)
    return str(name)


def a_report(score: float) -> Report:
    return Report(
        samples=10, step=1, loss=0.5, score=score, seconds=7, step_seconds=1, peak_bytes=10, extra={}
    )


def keep_scores(folder: StudyFolder, right: range, metric: Metric) -> None:
    """Keep that the winner, trial 1, had those of 200 test rows right."""
    facts = tuple((float(at in right), 0.1) for at in range(200))
    low, high = wilson(len(right), 200)
    earned = Evaluated(
        trial=1, metric=metric, score=len(right) / 200, low=low, high=high, rows="same", facts=facts
    )
    Scores(trial=1, scores=(), evaluated=(earned,)).keep(folder.scores)
