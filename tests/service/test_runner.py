"""How one attempt at a job ends, from what its process left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from autopeft.errors import ClaimedError, InputError
from autopeft.job import ENDED, Job
from autopeft.journey.consulting import Consultant
from autopeft.request import Request
from autopeft.search.claim import claim_file
from autopeft.service.access import LOCAL
from autopeft.service.desk import Desk
from autopeft.service.runner import Runner, _Run
from autopeft.service.serving import serve
from autopeft.service.settings import Settings
from autopeft.service.telemetry import Metrics
from autopeft.service.tokens import Caller
from tests.service.live import wait_for

ANN = Caller(user="ann", scope="submit")


@pytest.fixture
def attempt(service, tmp_path: Path) -> _Run:
    job = Job(
        id="j1",
        user="ann",
        kind="run",
        state="running",
        request={"no_such_field": 1},
        seconds=60,
        submitted=0,
    )
    office, closing = service.office, threading.Event()
    closing.set()
    return _Run(job, office.jobs, office.uploads, office.settings, "process", closing)


def test_a_request_of_another_version_fails_with_the_reason(attempt) -> None:
    state, reason = attempt.to_the_end()
    assert state == "failed"
    assert "no_such_field" in reason


def test_what_a_process_said_names_no_place_of_the_services_disk(attempt, service, tmp_path) -> None:
    workspace = service.office.settings.workspace.resolve()
    said = f"{workspace}/uploads/a/rows.csv cannot be read: no such file."
    assert attempt._verdict(2, None, said, tmp_path / "none") == (
        "failed",
        "uploads/a/rows.csv cannot be read: no such file.",
    )


def test_why_a_job_cannot_be_begun_names_no_place_of_the_services_disk(attempt, service) -> None:
    (service.office.settings.workspace / "jobs").write_text("no folder")
    state, reason = attempt.to_the_end()
    assert (state, "folder jobs/j1 cannot be made" in reason) == ("failed", True)
    assert str(service.office.settings.workspace.resolve()) not in reason


@pytest.mark.parametrize("cause", ["stopped", "closing", "overdue", None])
def test_a_process_that_came_to_its_end_is_done_whatever_it_was_told(attempt, tmp_path, cause) -> None:
    assert attempt._verdict(0, cause, "", tmp_path / "none") == ("done", "")


def test_a_job_that_ends_with_nothing_says_so(attempt, tmp_path) -> None:
    said = "no trial came to its end within the budget: there is no adapter"
    assert attempt._verdict(0, None, said, tmp_path / "none") == ("done", said)


def test_a_job_whose_study_another_process_runs_waits_again(attempt, tmp_path) -> None:
    with (
        claim_file(tmp_path / "lock", "the study"),
        pytest.raises(ClaimedError),
        claim_file(tmp_path / "lock", "the study"),
    ):
        pass
    assert attempt._verdict(os.EX_TEMPFAIL, None, "", tmp_path / "none") == ("queued", "")


def test_a_process_that_ends_without_a_word_has_not_refused_its_job(attempt, tmp_path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("gcs_rpc_client.h:151: Failed to connect to GCS\n")
    state, reason = attempt._verdict(1, None, "", log)
    assert state == "failed"
    assert reason.startswith("its process ended with status 1; resume it to go on")
    assert "Failed to connect to GCS" in reason


def test_a_resumed_jobs_events_are_told_once(attempt, service, monkeypatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(attempt._jobs, "note", lambda number, lines: told.extend(lines))
    attempt._folder.mkdir(parents=True)
    attempt._events.write_text('{"event": "before"}\n')
    attempt._tell()
    assert told == ['{"event": "before"}']
    resumed = _Run(
        attempt._job, *(service.office.jobs, service.office.uploads, service.office.settings), "process", None
    )
    with attempt._events.open("a") as stream:
        stream.write('{"event": "after"}\n')
    resumed._tell()
    assert told[1:] == ['{"event": "after"}']


def test_a_service_that_cannot_listen_takes_no_job(tmp_path) -> None:
    settings = Settings.build(workspace=tmp_path / "ws", names=("peft.example.org",))
    assert settings.needs_tokens
    assert not Settings.build(names=("localhost",)).needs_tokens
    before = {thread.name for thread in threading.enumerate()}
    with pytest.raises(InputError, match="need tokens"):
        serve(settings, lambda _: None)
    assert "taker" not in {thread.name for thread in threading.enumerate()} - before


def test_an_answer_from_before_a_change_is_not_remembered_after_it(tmp_path) -> None:
    desk = Desk(str(tmp_path), Metrics())
    begun, changed = threading.Event(), threading.Event()

    def old(_: object) -> str:
        begun.set()
        changed.wait(30)
        return "old"

    async def ask() -> list[bytes]:
        first = asyncio.create_task(desk.ask(LOCAL, "x", old))
        assert await asyncio.to_thread(begun.wait, 30)
        desk.renew()
        second = asyncio.create_task(desk.ask(LOCAL, "x", lambda _: "new"))
        await second
        changed.set()
        return [await first, await desk.ask(LOCAL, "x", lambda _: "newer")]

    try:
        assert asyncio.run(ask()) == [b'"old"', b'"new"']
    finally:
        desk.close()


def test_why_a_process_ended_is_known_though_its_log_cannot_be_written(service) -> None:
    full = Path("/dev/full")  # whatever is written there finds no space left
    if not full.exists():
        pytest.skip("no /dev/full here")
    who = Caller(user="ann", scope="submit")
    service.office.jobs.submit(who, "search", Request(demo="classification"), seconds=60)
    job = service.office.jobs.claim("process")
    assert job is not None
    settings = service.office.settings
    folder = settings.workspace.resolve() / "jobs" / job.id
    folder.mkdir(parents=True)
    (folder / "log.txt").symlink_to(full)
    (settings.workspace / "studies").write_text("a file where a folder is to be")
    run = _Run(job, service.office.jobs, service.office.uploads, settings, "process", threading.Event())
    state, reason = run.to_the_end()
    assert state == "failed"
    assert "studies" in reason
    assert "cannot be made" in reason


def test_a_job_names_the_services_model_and_its_process_is_told_where_that_lies(
    open_service, tmp_path: Path
) -> None:
    shelf = tmp_path / "shelf"
    (shelf / "ours").mkdir(parents=True)
    (shelf / "ours" / "config.json").write_text('{"model_type": "bert"}')
    service = open_service(rate=0, slots=0, models=(shelf,))
    rows = b"text,label\n" + b"".join(b"a good film %d,good\na bad film %d,bad\n" % (n, n) for n in range(40))
    number = service.post("/api/v1/data?name=rows.csv", content=rows).json()["id"]
    asked = {"model": "ours", "data": number, "budget": {"time": "2min"}}
    answer = service.post("/api/v1/jobs", json=asked)
    assert answer.status_code == 201, answer.text
    assert answer.json()["request"]["model"] == "ours"
    assert str(shelf) not in answer.text
    office = service.office
    job = office.jobs.claim("process")
    run = _Run(job, office.jobs, office.uploads, office.settings, "process", threading.Event())
    assert run._with_files(job.wish).model == str((shelf / "ours").resolve())


@pytest.fixture
def runner(open_service) -> Iterator[Runner]:
    made = open_service(rate=0, slots=1).office.runner
    yield made
    made.close()


def submitted(runner: Runner) -> str:
    return runner._jobs.submit(ANN, "search", Request(demo="classification"), seconds=60)[0].id


def ended(runner: Runner, number: str) -> Job:
    wait_for(lambda: runner._jobs.find(ANN, number).state in ENDED, 60)
    return runner._jobs.find(ANN, number)


def raises(error: BaseException) -> Callable[..., None]:
    def now(*_given: object) -> None:
        raise error

    return now


def test_a_job_is_taken_after_whatever_kept_one_from_being_taken(runner, monkeypatch) -> None:
    begun = threading.Thread.start
    failures = iter([RuntimeError("can't start new thread")])

    def start(thread: threading.Thread) -> None:
        error = next(failures, None) if thread.name.startswith("job ") else None
        if error is not None:
            raise error
        begun(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    claim, bugs = runner._jobs.claim, iter([ValueError("a bug")])

    def claims(owner: str) -> Job | None:
        if (bug := next(bugs, None)) is not None:
            raise bug
        return claim(owner)

    monkeypatch.setattr(runner._jobs, "claim", claims)
    monkeypatch.setattr(_Run, "to_the_end", lambda _: ("done", ""))
    number = submitted(runner)
    runner.start()
    assert ended(runner, number).state == "done"
    assert not [*failures, *bugs]
    assert runner.takes_jobs


def test_a_job_that_cannot_be_watched_fails_and_leaves_nothing_running(runner, monkeypatch) -> None:
    monkeypatch.setattr(runner._jobs, "renew", raises(ValueError("a bug")))
    number = submitted(runner)
    runner.start()
    job = ended(runner, number)
    assert (job.state, "the service has a bug" in job.reason, job.spent > 0) == ("failed", True, True)
    commands = [" ".join(each.cmdline()) for each in psutil.Process().children()]
    assert not [command for command in commands if "service.child" in command]


def test_the_process_of_a_job_is_interrupted_where_the_service_was_started_to_ignore_that(tmp_path) -> None:
    request, events = tmp_path / "request.json", tmp_path / "events"
    Request.build(demo="classification", workspace=str(tmp_path / "ws"), study="s").keep(request)
    # As a shell's script does with what it starts in the background.
    ignoring = ["sh", "-c", 'trap "" INT; exec "$0" "$@"']
    job = [sys.executable, "-m", "autopeft.service.child", "run", str(request), str(events), "0"]
    with subprocess.Popen(ignoring + job, cwd=tmp_path, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        try:
            wait_for(events.exists, 60)
            run.send_signal(signal.SIGINT)
            assert run.wait(60) == 130
        finally:
            run.kill()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_service_that_takes_no_jobs_any_more_is_not_ready(open_service, monkeypatch) -> None:
    service = open_service(rate=0, slots=1)
    runner = service.office.runner
    monkeypatch.setattr(runner._jobs, "claim", raises(SystemExit()))
    assert service.get("/readyz").status_code == 200
    runner.start()
    runner._taker.join(30)
    reply = service.get("/readyz")
    assert (reply.status_code, "jobs are no longer taken" in reply.json()["detail"]) == (503, True)


def test_what_still_computes_with_what_was_renewed_is_let_come_to_its_end(tmp_path, monkeypatch) -> None:
    closed: list[Consultant] = []

    def close(one: Consultant) -> None:
        closed.append(one)

    monkeypatch.setattr(Consultant, "close", close)
    desk = Desk(str(tmp_path), Metrics())
    old, begun, changed = desk._consultant, threading.Event(), threading.Event()
    idle = threading.Event()

    def compute(consultant: Consultant) -> list[bool]:
        begun.set()
        changed.wait(30)
        return [consultant is old, bool(closed)]

    async def ask() -> bytes:
        asked = asyncio.create_task(desk.ask(LOCAL, "x", compute))
        assert await asyncio.to_thread(begun.wait, 30)
        desk.renew()
        desk._threads.aside(idle.set)
        await asyncio.to_thread(idle.wait, 30)  # whatever renewing had done aside is over
        changed.set()
        return await asked

    assert asyncio.run(ask()) == b"[true,false]"
    wait_for(lambda: closed == [old], 30)
    newer = desk._consultant
    desk.renew()
    wait_for(lambda: closed == [old, newer], 30)
    desk.close()
