from __future__ import annotations

import functools
import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from autopeft.plan.plan import Plan
from autopeft.report.facts import Compared, DataFacts, StudyFacts, TestScore
from autopeft.search.study import Study
from autopeft.tracking.mlflow import SPOOL, MlflowObserver
from autopeft.tracking.mlflow_store import default_tracking_uri
from autopeft.workload.dataset import ACCURACY

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

Play = Callable[..., Study]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return default_tracking_uri(tmp_path_factory.mktemp("workspace"))


@pytest.fixture
def client(uri: str) -> MlflowClient:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


@pytest.fixture
def observer(uri: str, request: pytest.FixtureRequest) -> Iterator[MlflowObserver]:
    made = MlflowObserver(uri, request.node.name, tags={"team": "reviews"})
    yield made
    made.close()


def children(client: MlflowClient, observer: MlflowObserver) -> dict[int, Run]:
    assert observer.parent_run_id
    parent = client.get_run(observer.parent_run_id)
    runs = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{observer.parent_run_id}'"
    )
    return {int(run.data.tags["autopeft.trial"]): run for run in runs}


def facts_of(study: Study, plan: Plan) -> StudyFacts:
    return StudyFacts(
        study=study,
        plan=plan,
        data=DataFacts(
            name="reviews",
            task="classification",
            metric=ACCURACY,
            rows={"test": 100},
            labels=("no", "yes"),
            columns={},
            source="a file",
            fingerprint="abc",
            notes=(),
        ),
        decision="Use lora.",
        reasons=("It won.",),
        scores=(TestScore(contender="winner", label="lora", test_score=0.84, low=0.81, high=0.87),),
        comparisons=(Compared(quantity="peak memory", unit="bytes", predicted=1500, measured=1490),),
        seconds={"search": 12.0},
        places={},
        next_steps=(),
        environment={},
    )


def test_a_study_is_a_parent_run_with_a_child_for_every_trial_that_started(
    observer: MlflowObserver, client: MlflowClient, play: Play
) -> None:
    play(observer)
    assert observer.problem is None
    assert observer.parent_run_id
    parent = client.get_run(observer.parent_run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["autopeft.study"] == "demo"
    assert parent.data.tags["team"] == "reviews"
    assert parent.data.params["model"] == "minilm"
    assert parent.data.metrics["best_accuracy"] == 0.85
    states = {number: run.data.tags["autopeft.state"] for number, run in children(client, observer).items()}
    assert states == {0: "complete", 2: "failed", 3: "complete"}


def test_a_child_shows_parameters_and_predicted_beside_measured(
    observer: MlflowObserver, client: MlflowClient, play: Play
) -> None:
    play(observer)
    run = children(client, observer)[3]
    assert run.data.params["method"] == "lora"
    assert run.data.params["rank"] == "8"
    assert run.data.params["knob.alpha"] == "16"
    assert run.data.params["learning_rate"] == "0.001"
    metrics = run.data.metrics
    assert (metrics["predicted_peak_bytes"], metrics["measured_peak_bytes"]) == (1500, 2990)
    assert (metrics["predicted_low_bytes"], metrics["predicted_high_bytes"]) == (1400, 1700)
    assert (metrics["predicted_step_seconds"], metrics["measured_step_seconds"]) == (0.3, 0.29)
    assert metrics["predicted_trainable_params"] == 147_456


def test_the_step_of_a_metric_is_the_number_of_rows_seen(
    observer: MlflowObserver, client: MlflowClient, play: Play
) -> None:
    play(observer)
    history = client.get_metric_history(children(client, observer)[3].info.run_id, "accuracy")
    assert [(point.step, point.value) for point in history] == [(500, 0.6), (1000, 0.75), (1500, 0.85)]


def test_a_failed_trial_is_a_failed_run_with_its_reason(
    observer: MlflowObserver, client: MlflowClient, play: Play
) -> None:
    play(observer)
    run = children(client, observer)[2]
    assert run.info.status == "FAILED"
    assert run.data.tags["autopeft.reason"] == "diverged"


def test_what_never_started_is_one_table_on_the_parent(
    observer: MlflowObserver, client: MlflowClient, play: Play
) -> None:
    play(observer)
    assert observer.parent_run_id
    path = client.download_artifacts(observer.parent_run_id, "rejected.json")
    table = json.loads(Path(path).read_text())
    assert table["columns"] == ["configuration", "reason", "way_out"]
    assert [row[1] for row in table["data"]] == ["too large", "it does not fit: 5 GB > 4 GB"]


def test_a_resumed_study_goes_on_with_its_runs_and_doubles_nothing(
    observer: MlflowObserver, client: MlflowClient, play: Play, uri: str, request: pytest.FixtureRequest
) -> None:
    play(observer, stop=3)
    observer.close()
    later = MlflowObserver(uri, request.node.name)
    play(later, known=3)
    later.close()
    assert later.parent_run_id == observer.parent_run_id
    runs = children(client, later)
    assert sorted(runs) == [0, 2, 3]
    history = client.get_metric_history(runs[0].info.run_id, "accuracy")
    assert [point.step for point in history] == [500, 1000, 1500]


def test_a_run_cut_off_before_it_was_described_is_described_when_the_study_goes_on(
    observer: MlflowObserver, client: MlflowClient, play: Play, uri: str, request: pytest.FixtureRequest
) -> None:
    play(observer, stop=1)
    observer.close()
    experiment = client.get_experiment_by_name(request.node.name).experiment_id
    tags = {"mlflow.parentRunId": observer.parent_run_id, "autopeft.trial": "2"}
    client.create_run(experiment, tags=tags)
    later = MlflowObserver(uri, request.node.name)
    study = play(later, known=1)
    later.close()
    run = children(client, later)[2]
    predicted = study.trials[2].predicted
    assert predicted is not None
    assert run.data.metrics["predicted_peak_bytes"] == predicted.memory.reported("cpu")[1]
    assert run.data.params["method"] == study.trials[2].candidate.method


def test_a_report_told_twice_after_a_crash_is_logged_once(
    observer: MlflowObserver, client: MlflowClient, play: Play, uri: str, request: pytest.FixtureRequest
) -> None:
    play(observer, stop=1)
    observer.close()
    later = MlflowObserver(uri, request.node.name)
    play(later, known=0)
    later.close()
    history = client.get_metric_history(children(client, later)[0].info.run_id, "accuracy")
    assert [point.step for point in history] == [500, 1000, 1500]


def test_a_study_is_caught_up_with_trials_that_mlflow_never_heard_of(
    observer: MlflowObserver, client: MlflowClient, play: Play
) -> None:
    play(observer, known=4)
    runs = children(client, observer)
    assert sorted(runs) == [0, 2, 3]
    assert runs[3].data.metrics["accuracy"] == 0.85


def test_the_summary_carries_decision_scores_and_facts(
    observer: MlflowObserver, client: MlflowClient, play: Play, plan: Plan, tmp_path: Path
) -> None:
    facts = facts_of(play(observer), plan)
    observer.log_summary(facts)
    page = tmp_path / "report.html"
    page.write_text("<p>report</p>")
    observer.log_artifacts([page])
    assert observer.problem is None
    assert observer.parent_run_id
    parent = client.get_run(observer.parent_run_id)
    assert parent.data.tags["mlflow.note.content"] == "Use lora.\n\n- It won."
    assert parent.data.metrics["test_accuracy/winner"] == 0.84
    assert parent.data.metrics["predicted/peak memory bytes"] == 1500
    assert parent.data.metrics["measured/peak memory bytes"] == 1490
    names = {artifact.path for artifact in client.list_artifacts(observer.parent_run_id)}
    assert names == {"facts.json", "rejected.json", "report.html"}
    path = client.download_artifacts(observer.parent_run_id, "facts.json")
    assert StudyFacts.read(Path(path)).decision == "Use lora."


def test_artifacts_of_a_local_store_lie_beside_its_database(
    observer: MlflowObserver, client: MlflowClient, play: Play, uri: str
) -> None:
    play(observer)
    assert observer.parent_run_id
    place = client.get_run(observer.parent_run_id).info.artifact_uri
    assert place is not None
    assert place.startswith(Path(uri.removeprefix("sqlite:///")).parent.as_uri())


def test_without_a_server_the_events_are_spooled_and_the_problem_is_told(play: Play, tmp_path: Path) -> None:
    observer = MlflowObserver("http://127.0.0.1:9", "demo")
    play(observer)
    observer.close()
    spool = tmp_path / "demo" / SPOOL
    events = [json.loads(line) for line in spool.read_text().splitlines()]
    assert [event["event"] for event in events[:3]] == ["study_started", "trial_started", "trial_reported"]
    assert events[-1]["event"] == "study_finished"
    assert len(events) == 17
    assert events[2]["report"]["score"] == 0.5
    assert observer.parent_run_id is None
    assert observer.problem is not None
    assert "no MLflow server answers at 127.0.0.1:9" in observer.problem
    assert str(spool) in observer.problem


def test_a_store_that_comes_back_gets_everything_at_the_end(
    client: MlflowClient, play: Play, tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    observer = MlflowObserver("http://127.0.0.1:9", "comes back")
    study = play(observer, stop=3)
    assert not observer.flush()
    assert (tmp_path / "demo" / SPOOL).exists()
    observer._uri = uri
    observer.study_finished(study)
    assert observer.problem is None
    assert not (tmp_path / "demo" / SPOOL).exists()
    assert sorted(children(client, observer)) == [0, 2]
    observer.close()


def test_a_store_that_never_answers_is_waited_for_within_bounds(play: Play, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        observer = MlflowObserver(f"http://127.0.0.1:{deaf.getsockname()[1]}", "deaf", flush_seconds=0.5)
        play(observer)
        assert observer.problem is not None
        assert "did not answer within 0.5 s" in observer.problem
        assert (tmp_path / "demo" / SPOOL).exists()


def test_what_waited_behind_a_slow_event_is_not_lost_when_that_one_gets_through(
    client: MlflowClient, play: Play, tmp_path: Path, uri: str
) -> None:
    gate = threading.Event()
    observer = MlflowObserver(uri, "slow", flush_seconds=0.5)
    observer._put(functools.partial(lambda _: gate.wait()))
    study = play(observer)
    assert not observer.flush()
    gate.set()
    observer._flush_seconds = 60
    assert not observer.flush()
    assert (tmp_path / "demo" / SPOOL).exists()
    observer.study_finished(study)
    assert observer.problem is None
    assert not (tmp_path / "demo" / SPOOL).exists()
    assert children(client, observer)
    observer.close()


def test_nothing_of_mlflow_is_logged_to_the_terminal(
    play: Play, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    observer = MlflowObserver(default_tracking_uri(tmp_path / "fresh"), "quiet")
    play(observer)
    observer.close()
    assert observer.problem is None
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("alembic").level == logging.ERROR
