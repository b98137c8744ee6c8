"""The queue: nothing lost, nothing doubled, fair, and to each user only what is theirs."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy

from autopeft.errors import StorageError
from autopeft.job import Job
from autopeft.request import Request
from autopeft.service.database import JOBS, Database
from autopeft.service.jobs import Jobs
from autopeft.service.problems import RefusedError
from autopeft.service.tokens import Caller
from tests.search.postgres import running_server, why_not

ANN, BOB = (Caller(user=name, scope="submit") for name in ("ann", "bob"))
ROOT = Caller(user="root", scope="admin")
WISH = Request(model="gpt2", data="0" * 24)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    if why_not():
        pytest.skip(why_not())
    with running_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'service.db'}"
    url = request.getfixturevalue("server")
    database = Database(url)
    with database.writing() as connection:
        for table in ("service_events", "service_jobs", "service_tokens", "service_audit"):
            connection.exec_driver_sql(f"DELETE FROM {table}")
    database.close()
    return url


@pytest.fixture
def queue(place: str) -> Iterator[Jobs]:
    database = Database(place)
    yield Jobs(database, quota=5, lease_seconds=0.5)
    database.close()


def submit(queue: Jobs, who: Caller = ANN, **rest: object) -> Job:
    return queue.submit(who, "run", WISH, seconds=60, **rest)[0]


def test_a_job_is_claimed_by_one_process_only(place, queue) -> None:
    made = {submit(queue, who).id for who in (ANN, BOB) for _ in range(4)}
    taken: list[str] = []

    def take(owner: str) -> None:
        database = Database(place)
        other = Jobs(database, quota=5, lease_seconds=60)
        while (job := other.claim(owner)) is not None:
            taken.append(job.id)
        database.close()

    threads = [threading.Thread(target=take, args=(f"process {number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(made)


def test_a_job_of_a_silent_process_is_taken_over_and_the_silent_one_finds_out(queue) -> None:
    job = submit(queue)
    assert queue.claim("first").id == job.id
    assert queue.claim("second") is None
    time.sleep(0.7)
    again = queue.claim("second")
    assert (again.id, again.attempts) == (job.id, 2)
    assert queue.renew(job.id, "first", 1.0) == "lost"
    assert queue.finish(job.id, "first", "done", "", 1.0) is False
    assert queue.finish(job.id, "second", "done", "", 2.0) is True
    assert queue.find(ANN, job.id).state == "done"


def test_a_process_does_not_begin_again_what_it_runs_already(queue) -> None:
    job = submit(queue)
    assert queue.claim("first").id == job.id
    time.sleep(0.7)  # the database took no renewal, and then the job had ended
    assert queue.claim("first") is None
    assert queue.finish(job.id, "first", "failed", "the disk is full", 1.0) is True
    assert queue.find(ANN, job.id).attempts == 1


def test_a_lease_that_is_renewed_is_not_taken(queue) -> None:
    job = submit(queue)
    queue.claim("first")
    for spent in (0.3, 0.6, 0.9):
        time.sleep(0.3)
        assert queue.renew(job.id, "first", spent) == "go"
        assert queue.claim("second") is None
    assert queue.find(ANN, job.id).spent == 0.9


def test_users_take_turns_whoever_submitted_first(place) -> None:
    database = Database(place)
    queue = Jobs(database, quota=5, lease_seconds=60)
    for who in (ANN, ANN, ANN, BOB, BOB):
        submit(queue, who)
    users = []
    while (job := queue.claim("process")) is not None:
        users.append(job.user)
        time.sleep(0.01)
    database.close()
    assert users == ["ann", "bob", "ann", "bob", "ann"]


def test_a_user_may_have_so_many_jobs_and_no_more(queue) -> None:
    for _ in range(5):
        submit(queue)
    with pytest.raises(RefusedError, match="5 jobs") as refused:
        submit(queue)
    assert refused.value.status == 429
    assert submit(queue, BOB).user == "bob"


def test_a_request_with_the_same_key_is_made_once(queue) -> None:
    first, new = queue.submit(ANN, "run", WISH, seconds=60, key="k1")
    again, newer = queue.submit(ANN, "run", WISH, seconds=60, key="k1")
    assert (first.id, new, newer) == (again.id, True, False)
    with pytest.raises(RefusedError, match="Idempotency-Key"):
        queue.submit(ANN, "search", WISH, seconds=60, key="k1")
    assert queue.submit(BOB, "run", WISH, seconds=60, key="k1")[0].id != first.id


def test_the_same_key_from_many_at_once_makes_one_job(place, queue) -> None:
    made: list[str] = []

    def send() -> None:
        database = Database(place)
        made.append(
            Jobs(database, quota=5, lease_seconds=60).submit(ANN, "run", WISH, seconds=60, key="k")[0].id
        )
        database.close()

    threads = [threading.Thread(target=send) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 6
    assert len(set(made)) == 1


def test_two_users_cannot_see_stop_or_resume_each_others_jobs(queue) -> None:
    job = submit(queue, ANN)
    for attempt in (
        lambda: queue.find(BOB, job.id),
        lambda: queue.stop(BOB, job.id),
        lambda: queue.resume(BOB, job.id, seconds=60),
    ):
        with pytest.raises(RefusedError) as refused:
            attempt()
        assert refused.value.status == 404
    assert queue.of(BOB) == ()
    assert [each.id for each in queue.of(ANN)] == [each.id for each in queue.of(ROOT)] == [job.id]
    assert queue.find(ANN, job.id).state == "queued"


def test_a_waiting_job_stops_at_once_and_a_running_one_is_told(queue) -> None:
    waiting, running = submit(queue), submit(queue)
    queue.claim("process")
    (state,) = {each.state for each in queue.of(ANN) if each.id == waiting.id}
    first, second = (waiting, running) if state == "running" else (running, waiting)
    assert queue.stop(ANN, second.id).state == "stopped"
    assert queue.stop(ANN, first.id).stopping is True
    assert queue.renew(first.id, "process", 1.0) == "stop"
    queue.finish(first.id, "process", "stopped", "by its user", 1.0)
    with pytest.raises(RefusedError, match="ended already"):
        queue.stop(ANN, first.id)


def test_a_job_that_ended_goes_on_with_more_time(queue) -> None:
    job = submit(queue)
    with pytest.raises(RefusedError, match="not ended"):
        queue.resume(ANN, job.id, seconds=60)
    queue.claim("process")
    queue.finish(job.id, "process", "failed", "out of disk", 40.0)
    again = queue.resume(ANN, job.id, seconds=30)
    assert (again.state, again.reason, again.seconds, again.spent) == ("queued", "", 70.0, 40.0)
    assert again.wish.budget.time == 70.0


def test_a_job_that_takes_process_after_process_down_is_given_up(place) -> None:
    database = Database(place)
    queue = Jobs(database, quota=5, lease_seconds=0.0)
    job = submit(queue)
    processes = (f"process {number}" for number in itertools.count())
    while queue.claim(next(processes)) is not None:
        time.sleep(0.002)
    database.close()
    assert job.id
    assert queue.find(ANN, job.id).state == "failed"
    assert "given up" in queue.find(ANN, job.id).reason


def test_events_are_kept_in_their_order_and_read_from_any_of_them(queue) -> None:
    job = submit(queue)
    queue.note(job.id, ['{"event": "a"}', '{"event": "b"}'])
    queue.note(job.id, ['{"event": "c"}'])
    assert [event for _, event in queue.events(job.id, 0)] == [f'{{"event": "{each}"}}' for each in "abc"]
    assert queue.events(job.id, 2) == [(3, '{"event": "c"}')]


def test_a_stop_is_kept_though_the_service_shuts_down_at_that_moment(queue) -> None:
    job = submit(queue)
    queue.claim("first")
    assert queue.stop(ANN, job.id).stopping is True
    assert queue.finish(job.id, "first", "queued", "", 3.0) is True
    ended = queue.find(ANN, job.id)
    assert (ended.state, ended.stopping) == ("stopped", False)
    assert "by its user" in ended.reason
    assert queue.claim("second") is None


def test_a_stop_is_kept_though_its_process_is_lost(queue) -> None:
    job = submit(queue)
    queue.claim("first")
    queue.stop(ANN, job.id)
    time.sleep(0.7)
    assert queue.claim("second") is None
    assert queue.find(ANN, job.id).state == "stopped"


def test_a_job_goes_on_only_within_the_quota(queue) -> None:
    first = submit(queue)
    queue.stop(ANN, first.id)
    for _ in range(5):
        submit(queue)
    with pytest.raises(RefusedError, match="5 jobs"):
        queue.resume(ANN, first.id, seconds=60)
    assert queue.find(ANN, first.id).state == "stopped"


def test_a_lease_that_was_renewed_since_it_was_seen_is_not_taken(queue, monkeypatch) -> None:
    job = submit(queue)
    queue.claim("first")
    time.sleep(0.7)
    look = queue._claimable

    def look_then_renew(connection, now):
        rows = look(connection, now)
        connection.execute(JOBS.update().where(JOBS.c.id == job.id).values(lease=now + 60))
        return rows

    monkeypatch.setattr(queue, "_claimable", look_then_renew)
    assert queue.claim("second") is None
    assert queue.renew(job.id, "first", 1.0) == "go"


def test_the_end_of_a_study_is_kept_after_the_most_events(queue, monkeypatch) -> None:
    monkeypatch.setattr("autopeft.service.jobs.MOST_EVENTS", 2)
    job = submit(queue)
    last = '{"event": "study-finished", "best": 1}'
    queue.note(job.id, ['{"event": "a"}'] * 3)
    queue.note(job.id, ['{"event": "b"}', last])
    assert [event for _, event in queue.events(job.id, 0)] == ['{"event": "a"}'] * 2 + [last]


def test_a_job_that_this_version_cannot_read_waits_for_one_that_can_and_holds_up_nobodys(
    place, queue
) -> None:
    newer, mine = submit(queue), submit(queue, BOB)
    database = Database(place)
    with database.writing() as connection:  # as after a downgrade
        connection.execute(JOBS.update().where(JOBS.c.id == newer.id).values(kind="verify"))
    assert queue.claim("process").id == mine.id
    assert queue.claim("process") is None
    assert [job.id for job in queue.of(ROOT)] == [mine.id]
    with pytest.raises(RefusedError, match=f"the job {newer.id}, of kind 'verify', cannot be read by this"):
        queue.find(ANN, newer.id)
    with database.writing() as connection:
        connection.execute(JOBS.update().where(JOBS.c.id == newer.id).values(kind="run"))
    database.close()
    assert queue.find(ANN, newer.id).state == "queued"
    assert queue.claim("process").id == newer.id


def test_a_row_that_holds_no_request_holds_up_nobodys_job(place, queue) -> None:
    damaged, mine = submit(queue), submit(queue, BOB)
    database = Database(place)
    with database.writing() as connection:
        values = {"kind": "export", "request": "{"}
        connection.execute(JOBS.update().where(JOBS.c.id == damaged.id).values(values))
    database.close()
    assert queue.claim("process").id == mine.id


def test_events_that_two_processes_write_at_once_are_written_later(queue, monkeypatch) -> None:
    job = submit(queue)
    queue.note(job.id, ["{}"])
    with monkeypatch.context() as patch:
        patch.setattr(sqlalchemy.engine.Result, "scalar_one", lambda _: 0)  # the other's were not seen yet
        with pytest.raises(StorageError, match="another process adds to the events"):
            queue.note(job.id, ["{}"])
    queue.note(job.id, ["{}"])
    assert [number for number, _ in queue.events(job.id, 0)] == [1, 2]
