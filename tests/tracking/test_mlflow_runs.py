"""Which runs are a study's, and that nothing in them is there twice, whatever failed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from autopeft.plan.plan import Plan
from autopeft.search.study import Study, Trial
from autopeft.tracking import mlflow as tracking
from autopeft.tracking.mlflow import MlflowObserver
from autopeft.tracking.mlflow_lookup import run_of
from autopeft.tracking.mlflow_runs import MlflowRuns
from autopeft.tracking.mlflow_store import default_tracking_uri, open_client
from autopeft.train.result import TrialResult
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
    return open_client(uri)


@pytest.fixture
def observe(uri: str, request: pytest.FixtureRequest) -> Iterator[Callable[[], MlflowObserver]]:
    """Make observers of one experiment."""
    made: list[MlflowObserver] = []

    def another() -> MlflowObserver:
        made.append(MlflowObserver(uri, request.node.name))
        return made[-1]

    yield another
    for each in made:
        each.close()
        assert each.problem is None


def children(client: MlflowClient, parent: str | None) -> dict[int, Run]:
    assert parent
    experiment = client.get_run(parent).info.experiment_id
    runs = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'")
    return {int(run.data.tags["autopeft.trial"]): run for run in runs if "autopeft.trial" in run.data.tags}


def everything(client: MlflowClient, parent: str | None) -> dict[int, object]:
    """Return all that the store has of a study, by trial: every point of every metric; -1 is the study's."""
    assert parent
    runs = {-1: client.get_run(parent)} | children(client, parent)
    return {
        number: (
            run.info.status,
            run.data.params,
            {name: value for name, value in run.data.tags.items() if name.startswith("autopeft.st")},
            {
                name: [
                    (point.step, str(point.value))
                    for point in client.get_metric_history(run.info.run_id, name)
                ]
                for name in run.data.metrics
            },
        )
        for number, run in runs.items()
    }


def test_a_study_of_the_same_name_has_runs_of_its_own(
    observe: Callable[[], MlflowObserver],
    client: MlflowClient,
    play: Play,
    uri: str,
    request: pytest.FixtureRequest,
) -> None:
    one, other, one_again = observe(), observe(), observe()
    play(one, own_id="a", stop=3)
    one.close()
    study = play(other, own_id="b")
    play(one_again, own_id="a", known=3)
    parents = [each.parent_run_id for each in (one, other, one_again)]
    assert parents[0] == parents[2] != parents[1]
    for parent in parents[:2]:
        runs = children(client, parent)
        assert sorted(runs) == [0, 2, 3]
        assert len(client.get_metric_history(runs[3].info.run_id, "accuracy")) == 3
    best = children(client, other.parent_run_id)[3].info.run_id
    assert client.get_run(parents[1] or "").data.tags["autopeft.best_run"] == best
    assert run_of(uri, request.node.name, study, 3) == best
    assert run_of(uri, request.node.name, study.model_copy(update={"id": "c"}), 3) is None


def test_a_study_without_an_id_goes_on_with_the_run_that_has_none(
    observe: Callable[[], MlflowObserver], play: Play
) -> None:
    new, old, old_again = observe(), observe(), observe()
    play(new, own_id="a")
    play(old, stop=2)
    old.close()
    play(old_again, known=2)
    assert new.parent_run_id != old.parent_run_id == old_again.parent_run_id


def test_a_run_that_somebody_nested_is_let_be(
    observe: Callable[[], MlflowObserver], client: MlflowClient, play: Play
) -> None:
    before, later = observe(), observe()
    play(before, stop=1)
    before.close()
    assert before.parent_run_id
    experiment = client.get_run(before.parent_run_id).info.experiment_id
    for tags in ({}, {"autopeft.trial": "mine"}):
        client.create_run(experiment, tags={"mlflow.parentRunId": before.parent_run_id, **tags})
    play(later, known=1)
    later.close()
    assert later.problem is None
    assert later.parent_run_id == before.parent_run_id


def test_a_trial_that_was_set_aside_ends_and_goes_on_without_its_search(
    uri: str, client: MlflowClient, plan: Plan, trials: tuple[Trial, ...], tmp_path: Path
) -> None:
    """The end that its search told was missed; what is in the study is written later, as `sync` does."""
    late = trials[3]
    assert late.result is not None
    reports = late.result.reports
    running = late.model_copy(update={"state": "running", "result": None})

    def caught_up(*known: Trial) -> tuple[int, Run]:
        study = Study(name="aside", id="x", folder=str(tmp_path), metric=ACCURACY, seed=0, trials=known)
        runs = MlflowRuns(uri, "aside", {})
        written = runs.catch_up(study, plan, {late.number: reports})
        return written, children(client, runs.parent_run_id)[late.number]

    def aside(rows: int) -> Trial:
        seen = TrialResult(state="paused", reports=reports[:rows], reason=f"set aside after {rows}")
        return late.model_copy(update={"state": "paused", "reason": seen.reason, "result": seen})

    _, run = caught_up(running)
    assert run.info.status == "RUNNING"
    for rows in (1, 2):
        written, run = caught_up(aside(rows))
        assert (written, run.info.status) == (1, "KILLED")
        assert run.data.tags["autopeft.state"] == "paused"
        assert run.data.tags["autopeft.reason"] == f"set aside after {rows}"
        assert run.data.metrics["measured_peak_bytes"] == max(each.peak_bytes for each in reports[:rows])
        again, same = caught_up(aside(rows))
        assert (again, same.info.end_time) == (0, run.info.end_time)
    written, run = caught_up(late)
    assert (written, run.info.status, run.data.tags["autopeft.reason"]) == (1, "FINISHED", "")
    assert caught_up(late)[0] == 0


class Failing:
    """A client whose calls fail now and then, before they reach the store or after."""

    def __init__(self, client: MlflowClient, luck: random.Random) -> None:
        self._client, self._luck = client, luck
        self.failures = 0
        self.works = False

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._client, name)

        def called(*args: Any, **named: Any) -> Any:
            draw = 1.0 if self.works else self._luck.random()
            if draw < 0.1:
                self.failures += 1
                raise ConnectionError("no answer")
            answer = call(*args, **named)
            if draw < 0.2:
                self.failures += 1
                raise ConnectionError("the answer was lost")
            return answer

        return called


@pytest.mark.parametrize("seed", range(4))
def test_whatever_fails_everything_is_in_the_store_once(
    seed: int, uri: str, client: MlflowClient, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = MlflowObserver(uri, f"undisturbed {seed}")
    study = play(undisturbed, own_id="a")
    undisturbed.close()
    failing = Failing(client, random.Random(seed))
    monkeypatch.setattr(tracking, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr("autopeft.tracking.mlflow_runs.open_client", lambda uri: failing)
    observer = MlflowObserver(uri, f"disturbed {seed}")
    play(observer, own_id="a")
    failing.works = True
    observer.study_finished(study)
    observer.close()
    assert failing.failures > 3
    assert observer.problem is None
    assert everything(client, observer.parent_run_id) == everything(client, undisturbed.parent_run_id)


def test_a_study_that_is_over_stays_so_when_what_follows_fails(
    uri: str, client: MlflowClient, play: Play, tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    observer = MlflowObserver(uri, "over")
    play(observer)
    observer.log_artifacts([page])
    assert observer.problem is not None
    page.write_text("<p>report</p>")
    observer.log_artifacts([page])
    observer.close()
    assert observer.problem is None
    assert observer.parent_run_id
    assert client.get_run(observer.parent_run_id).info.status == "FINISHED"


def test_what_got_through_is_not_told_again(uri: str, play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store comes back, but has no place for trial 3: what was told before that one is done for good."""
    ended: list[int] = []
    away = [True]
    real = MlflowRuns.trial_finished

    def finished(runs: MlflowRuns, trial: Trial) -> None:
        if away[0] or trial.number == 3:
            raise ConnectionError("no answer")
        ended.append(trial.number)
        real(runs, trial)

    monkeypatch.setattr(tracking, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(MlflowRuns, "trial_finished", finished)
    observer = MlflowObserver(uri, "told once")
    study = play(observer)
    assert ended == []
    away[0] = False
    for _ in range(3):
        observer.study_finished(study)
    observer.close()
    assert observer.problem is not None
    assert ended == [0, 1, 2]
