from __future__ import annotations

import math
import os
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy.dialects import mysql
from sqlalchemy.dialects.mysql import mariadb
from sqlalchemy.schema import CreateTable
from toy_training import ACCURACY, ToyRun, estimate_of, toy_plan

from autopeft.errors import StorageError
from autopeft.search.store import StudyStore
from autopeft.search.store_schema import IDS, REPORTS, STUDY, TRIALS
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
        connection.execute("UPDATE autopeft_study SET schema_version = 99")
    with pytest.raises(StorageError, match="written in format 99") as error:
        store.load()
    one_line(error)


def test_a_record_that_cannot_be_read_is_refused(store: StudyStore, tmp_path: Path) -> None:
    store.add_trial(RUNNING)
    with sqlite3.connect(tmp_path / "study.sqlite") as connection:
        connection.execute("UPDATE autopeft_trials SET trial = '{\"number\": 0}'")
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
        pytest.raises(StorageError, match="being searched or exported by another process"),
        StudyStore(tmp_path / "study.sqlite").claimed(),
    ):
        pass
    with store.claimed():
        pass


OLD_TABLES = """
CREATE TABLE study (schema_version INTEGER NOT NULL, name TEXT NOT NULL, metric TEXT NOT NULL,
    seed INTEGER NOT NULL, seconds FLOAT NOT NULL, request TEXT NOT NULL, plan TEXT NOT NULL);
CREATE TABLE trials (number INTEGER NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL, trial TEXT NOT NULL,
    PRIMARY KEY (number));
CREATE TABLE reports (trial INTEGER NOT NULL, samples INTEGER NOT NULL, report TEXT NOT NULL,
    PRIMARY KEY (trial, samples), FOREIGN KEY(trial) REFERENCES trials (number));
"""


def write_old(path: Path, version: int) -> None:
    """Write a study as format 1 had it."""
    with sqlite3.connect(path) as connection:
        connection.executescript(OLD_TABLES)
        head = (version, "old", ACCURACY.model_dump_json(), 3, 7.5, "{}", toy_plan().model_dump_json())
        connection.execute("INSERT INTO study VALUES (?, ?, ?, ?, ?, ?, ?)", head)
        row = (0, "running", "", RUNNING.model_dump_json(exclude={"result"}))
        connection.execute("INSERT INTO trials VALUES (?, ?, ?, ?)", row)
        connection.execute("INSERT INTO reports VALUES (?, ?, ?)", (0, 10, report(10).model_dump_json()))


def test_a_study_of_the_first_format_is_read_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    write_old(path, 1)
    store = StudyStore(path)
    assert store.exists()
    study = store.load()
    assert (study.name, study.seed, study.seconds) == ("old", 3, 7.5)
    assert study.trials[0].candidate == CANDIDATE
    assert store.reports(0) == (report(10),)
    store.finish(0, "complete", last=report(20))
    again = StudyStore(path).load()
    assert again.trials[0].result is not None
    assert again.trials[0].result.reports == (report(10), report(20))
    assert again.id == ""


def test_a_study_has_an_id_of_its_own_for_good(tmp_path: Path) -> None:
    ids = []
    for place in ("first", "again"):
        store = StudyStore(tmp_path / place / "study.db")
        store.create(name="mine", metric=ACCURACY, seed=1, request="{}", plan=toy_plan())
        ids.append(store.load().id)
        store.add_trial(RUNNING)
        assert StudyStore(tmp_path / place / "study.db").load().id == ids[-1]
    assert len({*ids, ""}) == 3


def test_a_study_begun_anew_in_a_shared_database_has_another_id(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'all.db'}"
    ids = set()
    for _ in range(2):
        store = StudyStore(url, name="mine")
        store.create(name="mine", metric=ACCURACY, seed=1, request="{}", plan=toy_plan())
        ids.add(store.load().id)
        with sqlite3.connect(tmp_path / "all.db") as connection:
            connection.execute("DELETE FROM autopeft_study")
    assert len(ids) == 2


def test_a_study_without_an_id_is_read_and_goes_on(store: StudyStore, tmp_path: Path) -> None:
    """As autopeft wrote them before studies had one."""
    with sqlite3.connect(tmp_path / "study.sqlite") as connection:
        connection.execute("DROP TABLE autopeft_study_ids")
    store.add_trial(RUNNING)
    store.finish(0, "complete", last=report(20))
    study = StudyStore(tmp_path / "study.sqlite").load()
    assert (study.id, study.trials[0].state) == ("", "complete")
    assert study == store.load()


def test_a_format_that_nobody_knows_is_left_as_it_is(tmp_path: Path) -> None:
    write_old(tmp_path / "study.db", 7)
    with pytest.raises(StorageError, match="written in format 7, but this autopeft reads format 2") as error:
        StudyStore(tmp_path / "study.db").load()
    one_line(error)
    with sqlite3.connect(tmp_path / "study.db") as connection:
        assert connection.execute("SELECT count(*) FROM trials").fetchone() == (1,)


def test_studies_that_share_a_database_stay_apart(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'all.db'}"
    stores = [StudyStore(url, name=name, folder=tmp_path / name) for name in ("one", "two")]
    assert not stores[0].exists()
    for seed, (store, name) in enumerate(zip(stores, ("one", "two"), strict=True)):
        store.create(name=name, metric=ACCURACY, seed=seed, request="{}", plan=toy_plan())
    for store in stores:
        store.add_trial(RUNNING)
    stores[0].report(0, report(10))
    stores[0].finish(0, "complete", last=report(20))
    stores[1].add_seconds(4)
    one, two = (store.load() for store in stores)
    assert (one.seed, one.trials[0].state, one.seconds) == (0, "complete", 0)
    assert (two.seed, two.trials[0].state, two.seconds) == (1, "running", 4)
    assert stores[1].reports(0) == ()
    with pytest.raises(StorageError, match="holds a study already"):
        StudyStore(url, name="two").create(name="two", metric=ACCURACY, seed=0, request="{}", plan=toy_plan())
    with pytest.raises(StorageError, match="holds no study 'three'"):
        StudyStore(url, name="three").load()
    with (
        stores[0].claimed(),
        stores[1].claimed(),
        pytest.raises(StorageError, match=r"the study 'one' in .*all\.db is being searched or exported"),
        StudyStore(url, name="one", folder=tmp_path / "elsewhere").claimed(),
    ):
        pass


def test_a_password_is_in_no_message() -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(StorageError, match="no database server answers there") as error:
        StudyStore("postgresql+psycopg://me:secret@127.0.0.1:9/studies", name="one").load()
    assert "secret" not in one_line(error)


@pytest.mark.parametrize("dialect", ["mysql", "mariadb"])
def test_tables_on_mysql_tell_names_by_their_case_and_hold_long_plans(dialect: str) -> None:
    made: list[str] = []
    speaks = mysql.dialect() if dialect == "mysql" else mariadb.MariaDBDialect()
    for table in (STUDY, TRIALS, REPORTS, IDS):
        made += str(CreateTable(table).compile(dialect=speaks)).splitlines()
    names = [line for line in made if line.strip().startswith(("name ", "study "))]
    assert len(names) == 4
    assert all("VARCHAR(100) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin" in line for line in names)
    assert sum("LONGTEXT" in line for line in made) == 6
