"""Faults: the service killed with jobs running, its database restarted, no job lost and none doubled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

import autopeft as ap
from autopeft.errors import StorageError, UnknownNameError
from autopeft.journey.keeping import load
from autopeft.search.study import Trial
from tests.search.postgres import running_server, why_not
from tests.service.live import Service, running, wait_for, write_rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]
JOB: dict[str, Any] = {
    "budget": {"time": "20min", "trials": 1, "gpu_mem": "8GB"},
    "kind": "search",
    "seq_len": 24,
    "epochs": 2,
}
LASTS = 1500


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This machine's profile, measured once, so that jobs need not."""
    place = tmp_path_factory.mktemp("profile")
    ap.profile(workspace=str(place))
    return place / "profiles"


@pytest.fixture
def workspace(tmp_path: Path, profile: Path) -> Path:
    (tmp_path / "ws").mkdir()
    (tmp_path / "ws" / "profiles").symlink_to(profile)
    return tmp_path / "ws"


@pytest.fixture
def rows(tmp_path: Path, sentiment) -> Path:
    return write_rows(sentiment, tmp_path / "rows.csv")


@pytest.fixture
def models(encoder_with_weights, monkeypatch) -> str:
    monkeypatch.setenv("no_proxy", "*")
    return str(encoder_with_weights.path)


def submit(service: Service, model: str, rows: Path, count: int) -> list[str]:
    client = ap.Client(service.url)
    number = json.loads(client._service.post("data?name=rows.csv", rows.read_bytes()))["id"]
    body = JOB | {"model": model, "data": number}
    return [json.loads(client._service.post("jobs", body))["id"] for _ in range(count)]


def jobs(service: Service) -> dict[str, dict[str, Any]]:
    with urllib.request.urlopen(f"{service.url}/api/v1/jobs?limit=100", timeout=60) as answer:
        return {job["id"]: job for job in json.loads(answer.read())["items"]}


def states(service: Service) -> list[str]:
    return [job["state"] for job in jobs(service).values()]


def children(workspace: Path) -> list[psutil.Process]:
    """Return the processes of jobs of a workspace, whoever started them."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if "autopeft.service.child" in line and str(workspace) in line:
            found.append(process)
    return found


def test_a_service_killed_with_five_jobs_running_goes_on_with_each_of_them_once(
    workspace, rows, models
) -> None:
    flags = ("--models", models, "--jobs", "5")
    killed = Service(workspace, *flags)
    made = submit(killed, models, rows, 5)
    wait_for(lambda: states(killed) == ["running"] * 5 and len(children(workspace)) == 5, 120)
    killed.kill()
    wait_for(lambda: not children(workspace), 120)
    with running(workspace, *flags) as service:
        wait_for(lambda: set(states(service)) == {"done"}, LASTS)
        after = jobs(service)
    assert sorted(after) == sorted(made)
    assert [job["attempts"] for job in after.values()] == [2] * 5
    for name in made:
        study = load(ap.Request(workspace=str(workspace), study=name))
        assert [trial.number for trial in study.trials] == list(range(len(study.trials)))
        assert study.best is not None


def test_a_service_that_is_told_to_stop_puts_its_job_back_and_its_next_start_goes_on(
    workspace, rows, models
) -> None:
    flags = ("--models", models)
    with running(workspace, *flags) as service:
        (job,) = submit(service, models, rows, 1)
        wait_for(lambda: states(service) == ["running"] and children(workspace), 120)
        assert service.close() == 0
    assert children(workspace) == []
    with running(workspace, *flags, "--jobs", "0") as service:
        assert states(service) == ["queued"]
    with running(workspace, *flags) as service:
        wait_for(lambda: jobs(service)[job]["state"] == "done", LASTS)


def test_a_job_that_is_stopped_leaves_nothing_running(workspace, rows, models) -> None:
    with running(workspace, "--models", models) as service:
        (job,) = submit(service, models, rows, 1)
        wait_for((workspace / "studies" / job / "study.db").exists, 300)
        family = [each for child in children(workspace) for each in (child, *child.children(recursive=True))]
        assert family
        ap.Client(service.url).stop(job)
        wait_for(lambda: jobs(service)[job]["state"] == "stopped", 180)
        wait_for(lambda: not any(each.is_running() and each.status() != "zombie" for each in family), 60)


def test_a_database_that_restarts_loses_no_job_and_doubles_none(workspace, rows, models) -> None:
    if why_not():
        pytest.skip(why_not())
    with running_server() as url:
        database = ("--database", url)
        with running(workspace, "--models", models, *database) as service:
            (job,) = submit(service, models, rows, 1)
            wait_for(lambda: jobs(service)[job]["state"] == "running" and children(workspace), 120)
            server = _server_at(url)
            command, place = server.cmdline(), server.cwd()
            who = server.uids().real
            server.send_signal(signal.SIGINT)
            server.wait(60)
            time.sleep(3)
            again = subprocess.Popen(command, cwd=place, user=who if os.geteuid() == 0 else None)
            try:
                wait_for(lambda: _answers(service), 60)
                wait_for(lambda: jobs(service)[job]["state"] == "done", LASTS)
                assert jobs(service)[job]["attempts"] == 1
                study = load(ap.Request(workspace=str(workspace), study=job))
                assert [trial.number for trial in study.trials] == list(range(len(study.trials)))
            finally:
                service.close()
                again.send_signal(signal.SIGINT)
                again.wait(60)


def test_two_services_share_one_queue(workspace, rows, models) -> None:
    if why_not():
        pytest.skip(why_not())
    with running_server() as url:
        flags = ("--models", models, "--database", url)
        with running(workspace, *flags) as one, running(workspace, *flags) as other:
            made = submit(one, models, rows, 2)
            wait_for(lambda: states(other) == ["running"] * 2 and len(children(workspace)) == 2, 120)
            wait_for(lambda: set(states(other)) == {"done"}, LASTS)
            assert sorted(jobs(one)) == sorted(made)
            assert [job["attempts"] for job in jobs(one).values()] == [1, 1]


def test_the_process_of_a_job_that_may_write_no_more_ends_with_one_line(workspace, rows, models) -> None:
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000));"
        "from autopeft.service.child import main; sys.exit(main())"
    )
    request = ap.Request.build(
        model=models, data=str(rows), workspace=str(workspace), study="full", budget=JOB["budget"], seq_len=24
    )
    request.keep(workspace / "request.json")
    command = [sys.executable, "-c", limited, "search", str(workspace / "request.json"), "events", "0"]
    lifeline, held = os.pipe()
    done = subprocess.run(command, cwd=workspace, capture_output=True, text=True, stdin=lifeline, check=False)
    os.close(held)
    os.close(lifeline)
    assert done.returncode == 2, done.stderr[-2000:]
    assert "Traceback" not in done.stderr.splitlines()[-1]


def test_a_full_disk_ends_a_job_with_the_reason_and_the_service_goes_on(disk, rows, models) -> None:
    with running(disk, "--models", models) as service:
        (job,) = submit(service, models, rows, 1)
        wait_for(lambda: finished(disk, job), LASTS)
        with filling(disk / "filler"):
            wait_for(lambda: jobs(service) and not children(disk), LASTS)
        wait_for(lambda: states(service) == ["failed"], 300)
        ended, before = jobs(service)[job], finished(disk, job)
        assert "disk is full" in ended["reason"] or "No space left" in ended["reason"]
        assert str(disk) not in ended["reason"]
        assert ended["attempts"] == 1
        (other,) = submit(service, models, rows, 1)
        wait_for(lambda: jobs(service)[other]["state"] == "done", LASTS)
        assert jobs(service)[job] == ended
        resume(service, job)
        wait_for(lambda: jobs(service)[job]["state"] == "done", LASTS)
    assert load(ap.Request(workspace=str(disk), study=other)).best is not None
    require_whole(disk, job, before)


@pytest.mark.parametrize("victim", ["raylet", "gcs_server"])
def test_a_job_whose_ray_dies_fails_and_when_it_is_resumed_nothing_is_doubled(
    workspace, rows, models, victim
) -> None:
    with running(workspace, "--models", models) as service:
        (job,) = submit(service, models, rows, 1)
        wait_for(lambda: trials(workspace, job), LASTS)
        family = [each for child in children(workspace) for each in child.children(recursive=True)]
        (found,) = [each for each in family if each.name() == victim]
        found.kill()
        wait_for(lambda: jobs(service)[job]["state"] != "running", 300)
        ended = jobs(service)[job]
        assert ended["state"] == "failed"
        assert "Ray's own processes died" in ended["reason"]
        before = finished(workspace, job)
        wait_for(lambda: not any(each.is_running() and each.status() != "zombie" for each in family), 60)
        resume(service, job)
        wait_for(lambda: jobs(service)[job]["state"] == "done", LASTS)
    require_whole(workspace, job, before)


@pytest.fixture
def disk(tmp_path: Path, profile: Path) -> Iterator[Path]:
    """A workspace on a small file system of its own, in memory."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1536m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.decode().strip()}")
    try:
        (place / "profiles").symlink_to(profile)
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@contextmanager
def filling(file: Path) -> Iterator[None]:
    """Keep a disk full: what others give back is taken, too."""
    enough = threading.Event()

    def fill() -> None:
        with file.open("wb", buffering=0) as stream:
            while not enough.wait(0.02):
                with suppress(OSError):
                    while True:
                        stream.write(bytes(4096))

    filler = threading.Thread(target=fill)
    filler.start()
    try:
        yield
    finally:
        enough.set()
        filler.join()
        file.unlink()


def trials(workspace: Path, job: str) -> tuple[Trial, ...]:
    """Return the trials of a job's study, none before it has begun."""
    try:
        return load(ap.Request(workspace=str(workspace), study=job)).trials
    except (UnknownNameError, StorageError):
        return ()


def finished(workspace: Path, job: str) -> dict[int, Trial]:
    """Return the finished trials of a job's study, by number."""
    return {trial.number: trial for trial in trials(workspace, job) if trial.finished}


def resume(service: Service, job: str) -> None:
    ap.Client(service.url)._service.post(f"jobs/{job}/resume", {"time": "20min", "trials": 1})


def require_whole(workspace: Path, job: str, before: dict[int, Trial]) -> None:
    """Check that a study has come to its end with no trial of before lost, and none doubled."""
    after = trials(workspace, job)
    assert {number: after[number] for number in before} == before
    assert [trial.number for trial in after] == list(range(len(after)))
    begun = [(trial.candidate.key, trial.repetition) for trial in after]
    assert len(set(begun)) == len(begun)
    assert all(trial.finished or trial.state == "paused" for trial in after)


def _server_at(url: str) -> psutil.Process:
    port = url.rpartition(":")[2].partition("/")[0]
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if line and Path(line[0]).name == "postgres" and port in line:
            return process
    raise AssertionError(f"no server at {url}")


def _answers(service: Service) -> bool:
    try:
        with urllib.request.urlopen(f"{service.url}/readyz", timeout=10) as answer:
            return answer.status == 200
    except OSError:
        return False


def test_a_job_that_overruns_its_budget_and_the_grace_is_ended(workspace, rows, models) -> None:
    from autopeft.service.office import Office
    from autopeft.service.settings import Settings
    from autopeft.service.tokens import Caller

    told = {"workspace": workspace, "models": (models,), "grace_seconds": 1.0, "lease_seconds": 60}
    with Office(Settings.build(**told)) as office:
        office.runner.start()
        wish = ap.Request(demo="classification", budget=ap.Budget(time=1))
        job, _ = office.jobs.submit(Caller(user="ann", scope="submit"), "search", wish, seconds=1)
        root = Caller(user="root", scope="admin")
        wait_for(lambda: office.jobs.find(root, job.id).state == "failed", 120)
        assert "took longer than its" in office.jobs.find(root, job.id).reason
    assert children(workspace) == []
