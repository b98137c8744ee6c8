from __future__ import annotations

import math
import os
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy
from toy_training import ACCURACY, ToyRun, estimate_of, toy_plan

from autopeft.errors import StorageError
from autopeft.search.store import StudyStore
from autopeft.search.study import Trial
from autopeft.space.candidate import Candidate
from autopeft.train.result import Report

CANDIDATE = Candidate(method="lora", rank=4, knobs={"alpha_ratio": 2.0})
RUNNING = Trial(
    number=0, role="candidate", candidate=CANDIDATE, state="running", predicted=estimate_of(CANDIDATE)
)


def report(samples: int, score: float = 0.5) -> Report:
    fresh = ToyRun(CANDIDATE, seed=0, pause=0).advance(samples)
    return fresh.model_copy(update={"score": score})


def one_line(error: pytest.ExceptionInfo[StorageError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_what_was_written_is_read_back_by_another_process_opening_the_file(
    store: StudyStore, tmp_path: Path
) -> None:
    store.add_trial(RUNNING)
    store.report(0, report(10))
    store.finish(0, "stopped", "too slow", report(20, 0.25))
    store.add_trial(RUNNING.model_copy(update={"number": 1, "role": "baseline"}))
    store.report(1, report(10))
    store.add_seconds(1.5)
    store.add_seconds(2.0)
    study = StudyStore(tmp_path / "study.sqlite").load()
    stopped, running = study.trials
    assert (study.name, study.metric, study.seed, study.seconds) == ("toy", ACCURACY, 1, 3.5)
    assert study.folder == str(tmp_path)
    assert stopped.candidate == CANDIDATE
    assert stopped.predicted == estimate_of(CANDIDATE)
    assert stopped.result is not None
    assert stopped.result.reports == (report(10), report(20, 0.25))
    assert (stopped.state, stopped.reason, stopped.result.reason) == ("stopped", "too slow", "too slow")
    assert (running.state, running.role, running.result) == ("running", "baseline", None)
    assert store.reports(1) == (report(10),)
    assert store.plan() == toy_plan()
    assert store.request() == "{}"


def test_a_score_that_is_no_number_survives(store: StudyStore) -> None:
    store.add_trial(RUNNING)
    store.report(0, report(10, math.nan))
    assert math.isnan(store.reports(0)[0].score)


def test_a_second_study_in_the_same_file_is_refused(store: StudyStore) -> None:
    with pytest.raises(StorageError, match="holds a study already") as error:
        store.create(name="other", metric=ACCURACY, seed=1, request="{}", plan=toy_plan())
    one_line(error)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.sqlite"
    path.write_text("these are notes about a study, not a study\n" * 100, encoding="utf-8")
    with pytest.raises(StorageError, match=r"study\.sqlite: the file is no study's database") as error:
        StudyStore(path).load()
    one_line(error)


def test_a_damaged_database_is_refused(store: StudyStore, tmp_path: Path) -> None:
    for number in range(40):
        store.add_trial(RUNNING.model_copy(update={"number": number}))
    store.close()
    path = tmp_path / "study.sqlite"
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(StorageError, match="damaged") as error:
        StudyStore(path).load()
    one_line(error)


def test_a_missing_study_is_no_study_and_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "study.sqlite"
    missing = StudyStore(path)
    assert not missing.exists()
    with pytest.raises(StorageError, match="does not exist") as error:
        missing.load()
    one_line(error)
    assert not path.parent.exists()


def test_another_format_is_refused(store: StudyStore, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "study.sqlite") as connection:
        connection.execute("UPDATE study SET schema_version = 99")
    with pytest.raises(StorageError, match="written in format 99") as error:
        store.load()
    one_line(error)


def test_a_record_that_cannot_be_read_is_refused(store: StudyStore, tmp_path: Path) -> None:
    store.add_trial(RUNNING)
    with sqlite3.connect(tmp_path / "study.sqlite") as connection:
        connection.execute("UPDATE trials SET trial = '{\"number\": 0}'")
    with pytest.raises(StorageError, match="a Trial that this autopeft cannot read") as error:
        store.load()
    one_line(error)


def test_a_full_disk_is_said_and_loses_nothing(store: StudyStore) -> None:
    store.add_trial(RUNNING)

    @sqlalchemy.event.listens_for(store._engine, "checkout")
    def leave_no_room(connection: sqlite3.Connection, *_: object) -> None:
        connection.execute("PRAGMA max_page_count = 1")

    long = RUNNING.model_copy(update={"number": 1, "reason": "x" * 10**5})
    with pytest.raises(StorageError, match="the disk is full; free some space") as error:
        store.add_trial(long)
    one_line(error)
    assert [trial.number for trial in store.load().trials] == [0]


def test_a_locked_database_is_said(store: StudyStore, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "study.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    impatient = StudyStore(tmp_path / "study.sqlite", lock_wait_seconds=0.1)
    with pytest.raises(StorageError, match="another program keeps the database locked") as error:
        impatient.add_trial(RUNNING)
    one_line(error)
    other.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may write everywhere")
def test_a_folder_that_may_not_be_written_is_said(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StorageError, match="permissions") as error:
            StudyStore(tmp_path / "study.sqlite").create(
                name="toy", metric=ACCURACY, seed=1, request="{}", plan=toy_plan()
            )
        one_line(error)
    finally:
        tmp_path.chmod(0o700)


def test_a_path_below_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(StorageError, match="cannot be made") as error:
        StudyStore(tmp_path / "file" / "study.sqlite").create(
            name="toy", metric=ACCURACY, seed=1, request="{}", plan=toy_plan()
        )
    one_line(error)


def test_an_unknown_database_url_is_said() -> None:
    with pytest.raises(StorageError, match="cannot be used") as error:
        StudyStore("nosuch://server/study")
    one_line(error)


def test_only_one_driver_at_a_time_runs_a_study(store: StudyStore, tmp_path: Path) -> None:
    with (
        store.claimed(),
        pytest.raises(StorageError, match="being run by another process"),
        StudyStore(tmp_path / "study.sqlite").claimed(),
    ):
        pass
    with store.claimed():
        pass
