"""What a session took and was allowed is kept in the study's folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from autopeft.errors import UnknownNameError
from autopeft.hardware.catalog import load_profile
from autopeft.journey.first_report import FirstReport
from autopeft.journey.sessions import BETWEEN, SessionClock
from autopeft.journey.stages import Stages
from autopeft.journey.workspace import StudyFolder, study_folder
from autopeft.methods.registry import DEFAULT
from autopeft.plan.budget import Budget
from autopeft.plan.plan import Plan
from autopeft.report.facts import Session
from autopeft.request import Request
from autopeft.search.store import StudyStore
from autopeft.search.study import Trial
from autopeft.train.result import Report
from autopeft.workload.dataset import ACCURACY, Lengths, Workload


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    """A study with a limit of 300 s, of which the search has taken 200."""
    folder = study_folder(str(tmp_path), "s")
    store = StudyStore(folder.store)
    plan = Plan(
        model="m",
        space="quick",
        workload=Workload(task="classification", lengths=Lengths.constant(8)),
        budget=Budget(time=300),
        profile=load_profile("l4"),
        fits=(),
        rejected=(),
    )
    store.create(name="s", metric=ACCURACY, seed=0, request="{}", plan=plan)
    store.add_seconds(200)
    store.close()
    return folder


def test_the_first_session_is_allowed_all_of_the_limit(folder: StudyFolder, tmp_path: Path) -> None:
    seconds = iter((1000.0, 1280.0))
    clock = SessionClock(Request(workspace=str(tmp_path)), now=lambda: next(seconds))
    store = StudyStore(folder.store)
    clock.keep(store.load(), concluded=True)
    store.close()
    assert Session.read(folder.session) == Session(
        seconds=280, allowed_seconds=300, search_seconds=200, study_seconds=200, concluded=True
    )


def test_a_resumed_session_is_allowed_what_was_given_anew(folder: StudyFolder, tmp_path: Path) -> None:
    seconds = iter((5000.0, 5595.0))
    clock = SessionClock(Request(workspace=str(tmp_path), study="s", resume=True), now=lambda: next(seconds))
    store = StudyStore(folder.store)
    longer = Budget(time=200 + 600)  # as the search does of --time 10min
    store.replan(store.plan().model_copy(update={"budget": longer}))
    store.add_seconds(590)
    clock.keep(store.load(), concluded=False)
    store.close()
    assert Session.read(folder.session) == Session(
        seconds=595, allowed_seconds=600, search_seconds=590, study_seconds=790, concluded=False
    )


@pytest.mark.parametrize(("before", "between"), [(None, 280 - 230), (30.0, 280 - 230)])
def test_what_of_a_session_is_in_no_stage_is_a_stage(
    folder: StudyFolder, tmp_path: Path, before: float | None, between: float
) -> None:
    stages = Stages(folder.stages)
    if before is not None:
        stages.add("search", before)
    seconds = iter((1000.0, 1280.0))
    request = Request(workspace=str(tmp_path), study="s", resume=before is not None)
    clock = SessionClock(request, now=lambda: next(seconds))
    stages.add("data", 30)
    stages.add("search", 200)
    store = StudyStore(folder.store)
    clock.keep(store.load(), concluded=True)
    store.close()
    assert Stages(folder.stages).seconds[BETWEEN] == between
    assert Stages(folder.stages).total == 280 + (before or 0.0)


def test_a_session_begins_when_it_was_asked_for(folder: StudyFolder, tmp_path: Path) -> None:
    seconds = iter((1280.0,))
    clock = SessionClock(Request(workspace=str(tmp_path)), began=990.0, now=lambda: next(seconds))
    store = StudyStore(folder.store)
    clock.keep(store.load(), concluded=True)
    store.close()
    assert Session.read(folder.session).seconds == 290


def test_seconds_that_are_counted_to_another_stage_are_counted_once(tmp_path: Path) -> None:
    stages = Stages(tmp_path / "stages.json")
    stages.add("search", 50)
    stages.move("search", "start", 20)
    stages.move("search", "start", 0)
    assert Stages(stages.file).seconds == {"search": 30, "start": 20}
    stages.move("search", "start", 100)
    assert stages.seconds == {"search": 0, "start": 50}


@pytest.mark.parametrize("before", [0.0, 30.0])
def test_what_a_search_waits_for_its_first_training_is_no_training(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch, before: float
) -> None:
    def report(samples: int, seconds: float) -> Report:
        return Report(
            samples=samples, step=1, score=0.5, loss=0.7, seconds=seconds, step_seconds=0.1, peak_bytes=1
        )

    now = [100.0]
    monkeypatch.setattr("autopeft.journey.first_report.time.monotonic", lambda: now[0])
    store = StudyStore(folder.store)
    store.add_trial(Trial(number=0, role="candidate", candidate=DEFAULT, state="running"))
    if before:
        store.report(0, report(10, before))
    waiting = FirstReport({one: done[-1].seconds for one, done in store.all_reports().items()})
    study, plan = store.load(), store.plan()
    store.close()
    (trial,) = study.trials
    waiting.study_started(study, plan, 1, 1.0)
    now[0] += 20 + 15
    assert waiting.waited == 0
    waiting.trial_reported(trial, report(20, before + 15))
    now[0] += 1000
    waiting.trial_reported(trial, report(40, before + 30))
    assert waiting.waited == 20


def test_a_study_that_is_not_there_cannot_go_on(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError):
        SessionClock(Request(workspace=str(tmp_path), study="none", resume=True))


def test_what_a_session_takes_beside_its_search_is_told_apart(folder: StudyFolder, tmp_path: Path) -> None:
    seconds = iter((5000.0, 5070.0))
    clock = SessionClock(Request(workspace=str(tmp_path), study="s", resume=True), now=lambda: next(seconds))
    store = StudyStore(folder.store)
    store.add_seconds(40)
    assert clock.beside_search(store.load()) == 30
    store.close()
