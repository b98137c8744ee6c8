"""A study that MLflow never heard of is written to it, once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from autopeft import pipeline
from autopeft.errors import StorageError, UnknownNameError
from autopeft.export.bundle import Bundle
from autopeft.export.opening import checksums
from autopeft.hardware.catalog import load_profile
from autopeft.journey.workspace import open_store, study_folder
from autopeft.plan.budget import Budget
from autopeft.plan.plan import Plan
from autopeft.request import Request
from autopeft.search.study import Trial
from autopeft.space.candidate import Candidate
from autopeft.tracking.mlflow_lookup import run_of
from autopeft.tracking.mlflow_model import weights_of
from autopeft.train.result import Report, TrialResult
from autopeft.workload.dataset import ACCURACY, Lengths, Workload


def a_report(samples: int) -> Report:
    extra = {"system/cpu_utilization_percentage": 50.0}
    return Report(
        samples=samples, step=1, loss=0.5, score=0.7, seconds=1, step_seconds=1, peak_bytes=1, extra=extra
    )


@pytest.fixture
def request_of(tmp_path: Path) -> Request:
    """A study of one complete, one running and one rejected trial."""
    request = Request(workspace=str(tmp_path), study="away")
    begin(request)
    return request


def begin(request: Request, last: Report | None = None) -> None:
    """Write the study of `request_of`, whose complete trial ends with the last report."""
    store = open_store(study_folder(request.workspace, "away"))
    plan = Plan(
        model="m",
        space="quick",
        workload=Workload(task="classification", lengths=Lengths.constant(8)),
        budget=Budget(),
        profile=load_profile("l4"),
        fits=(),
        rejected=(),
    )
    store.create(name="away", metric=ACCURACY, seed=0, request=request.model_dump_json(), plan=plan)
    for number, state in enumerate(("running", "running", "rejected")):
        candidate = Candidate(method="lora", rank=number + 1)
        store.add_trial(Trial.build(number=number, role="candidate", candidate=candidate, state=state))
        if state == "running":
            store.report(number, a_report(10))
    store.finish(0, "complete", last=last or a_report(20))
    store.close()


def points(request: Request) -> dict[str, list[tuple[str, int, float]]]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=pipeline.tracking_uri(request))
    experiment = client.get_experiment_by_name(pipeline.EXPERIMENT)
    assert experiment is not None
    return {
        run.data.tags["mlflow.runName"]: sorted(
            (name, point.step, point.value)
            for name in run.data.metrics
            for point in client.get_metric_history(run.info.run_id, name)
        )
        for run in client.search_runs([experiment.experiment_id])
    }


def test_what_is_missing_is_written_once_however_often_it_is_asked_for(request_of: Request) -> None:
    first = pipeline.sync(request_of)
    assert (first.study, first.trials, first.written) == ("away", 2, 1)
    written = points(request_of)
    assert len(written) == 3
    complete = next(found for name, found in written.items() if name.startswith("000"))
    assert [point[1:] for point in complete if point[0] == "accuracy"] == [(10, 0.7), (20, 0.7)]
    assert ("system/cpu_utilization_percentage", 20, 50.0) in complete
    running = next(found for name, found in written.items() if name.startswith("001"))
    assert [point[1:] for point in running if point[0] == "accuracy"] == [(10, 0.7)]
    again = pipeline.sync(request_of)
    assert again.written == 0
    assert points(request_of) == written


def test_a_study_deleted_and_begun_anew_has_its_own_runs_and_numbers(request_of: Request) -> None:
    from mlflow import MlflowClient

    pipeline.sync(request_of)
    place = study_folder(request_of.workspace, "away")
    before = open_store(place).load()
    shutil.rmtree(place.path)
    begin(request_of, a_report(20).model_copy(update={"score": 0.9}))
    assert pipeline.sync(request_of).written == 1
    again = open_store(place).load()
    uri = pipeline.tracking_uri(request_of)
    for study, score in ((before, 0.7), (again, 0.9)):
        run = run_of(uri, pipeline.EXPERIMENT, study, 0)
        assert run is not None
        assert MlflowClient(tracking_uri=uri).get_run(run).data.metrics["accuracy"] == score


def test_a_study_that_is_being_run_is_left_to_its_search(request_of: Request) -> None:
    store = open_store(study_folder(request_of.workspace, "away"))
    with store.claimed(), pytest.raises(StorageError, match="is being searched or exported"):
        pipeline.sync(request_of)


def test_a_study_nobody_knows_is_refused(request_of: Request) -> None:
    with pytest.raises(UnknownNameError, match="unknown study 'awry': did you mean away"):
        pipeline.sync(request_of.model_copy(update={"study": "awry"}))


def a_bundle(place: Path, weights: bytes) -> None:
    """Write a bundle that is logged without being loaded."""
    place.mkdir(exist_ok=True)
    (place / "adapter_model.safetensors").write_bytes(weights)
    Bundle(
        path=str(place),
        format="peft",
        model="m",
        task="classification",
        head="AutoModelForImageClassification",
        labels=("bad", "good"),
        candidate=Candidate(method="lora"),
        budget=Budget(),
        predicted=None,
        measured=TrialResult(state="complete", reports=(a_report(20),)),
        metric=ACCURACY,
        test_score=0.5,
        low=0.4,
        high=0.6,
        data="rows",
        data_fingerprint="0",
        seed=0,
        study="away",
        trial=0,
        versions={},
        files=checksums(place),
    ).keep(place / "autopeft.json")


def test_a_missing_model_becomes_a_version_once(request_of: Request) -> None:
    from mlflow import MlflowClient

    place = study_folder(request_of.workspace, "away").bundle
    a_bundle(place, b"one")
    for _ in range(2):
        pipeline.sync(request_of)
    uri = pipeline.tracking_uri(request_of)
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    assert [int(each.version) for each in client.search_model_versions("name='away'")] == [1]


def test_a_bundle_of_other_weights_is_another_model(tmp_path: Path) -> None:
    a_bundle(tmp_path / "one", b"one")
    a_bundle(tmp_path / "same", b"one")
    a_bundle(tmp_path / "other", b"other")
    one, same, other = (weights_of(tmp_path / name) for name in ("one", "same", "other"))
    assert one == same != other
