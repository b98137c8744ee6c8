"""Any trial of a study, in any form, over HTTP: made by a job, downloaded as a zip."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from autopeft.errors import InputError
from autopeft.export.bundle import Bundle, Export
from autopeft.export.names import MANIFEST
from autopeft.export.opening import checksums
from autopeft.handover import export
from autopeft.journey import exporting
from autopeft.journey.keeping import claimed
from autopeft.journey.workspace import StudyFolder, study_folder
from autopeft.request import Request
from autopeft.service import child
from autopeft.service.runner import _Run
from tests.export.test_opening import FIELDS
from tests.service.kept import keep_study


@pytest.fixture
def service(open_service: Callable[..., TestClient]) -> TestClient:
    """A service that takes jobs and runs none."""
    return open_service(tokens=True, rate=0, slots=0, quota=3)


@pytest.fixture
def headers(service) -> Callable[..., dict[str, str]]:
    def make(user: str, scope: str = "submit") -> dict[str, str]:
        return {"authorization": f"Bearer {service.office.tokens.create(user, scope)[1]}"}

    return make


@pytest.fixture
def ann(headers) -> dict[str, str]:
    return headers("ann")


@pytest.fixture
def study(service, ann, encoder_with_weights) -> str:
    """A study of Ann whose job has ended, with the weights of its winner, trial 1, and not of trial 0."""
    name = keep_study(service, ann, str(encoder_with_weights.path))
    folder_of(service, name).checkpoint(1).mkdir(parents=True)
    service.post(f"/api/v1/jobs/{name}/stop", headers=ann)
    return name


def folder_of(service: TestClient, name: str) -> StudyFolder:
    return study_folder(str(service.office.settings.workspace.resolve()), name)


def put_bundle(place: Path, trial: int, label: str) -> None:
    place.mkdir()
    (place / "README.md").write_text(label)
    Bundle(**FIELDS | {"trial": trial}, files=checksums(place)).keep(place / MANIFEST)


def test_an_export_is_a_job_that_is_listed_counted_and_stopped_as_others(service, ann, study) -> None:
    body = {"trial": 1, "form": "merged", "dtype": "bf16"}
    reply = service.post(f"/api/v1/studies/{study}/exports", json=body, headers=ann)
    assert reply.status_code == 201, reply.text
    job = reply.json()
    assert reply.headers["location"] == f"/api/v1/jobs/{job['id']}"
    assert (job["kind"], job["state"], job["seconds"]) == ("export", "queued", 3600)
    assert job["request"] == {"study": study, "trial": 1, "form": "merged", "dtype": "bfloat16"}
    assert service.get(f"/api/v1/jobs/{job['id']}", headers=ann).json() == job
    more = [
        service.post(f"/api/v1/studies/{study}/exports", json={}, headers=ann).status_code for _ in range(3)
    ]
    assert more == [201, 201, 429]
    assert service.post(f"/api/v1/jobs/{job['id']}/stop", headers=ann).json()["state"] == "stopped"
    again = service.post(f"/api/v1/jobs/{job['id']}/resume", json={"time": "10min"}, headers=ann)
    assert (again.json()["state"], again.json()["request"]) == ("queued", job["request"])


def test_an_export_outlives_the_service_process_that_took_it(service, ann, study, open_service) -> None:
    job = service.post(f"/api/v1/studies/{study}/exports", json={"form": "lora"}, headers=ann).json()
    taken = service.office.jobs.claim("one process")
    assert taken is not None
    assert service.office.jobs.finish(taken.id, "one process", "queued", "", 1.0)
    again = open_service(tokens=True, rate=0, slots=0).office.jobs.claim("another")
    assert again is not None
    assert (again.id, again.order.study, again.order.wanted) == (
        *(job["id"], study),
        Export(form="lora", force=True),
    )


def test_the_process_of_an_export_is_told_where_the_study_lies(service, ann, study, monkeypatch) -> None:
    service.post(f"/api/v1/studies/{study}/exports", json={"trial": 1}, headers=ann)
    job = service.office.jobs.claim("here")
    run = _Run(job, service.office.jobs, None, service.office.settings, "here", None)
    told = []
    monkeypatch.setattr("autopeft.service.runner.subprocess.Popen", lambda line, **_: told.append(line))
    run._start()
    (line,) = told
    file = Path(line[4])
    assert line[3] == "export"
    assert Request.read(file).study == study
    assert Export.read(file.with_name("export.json")) == Export(trial=1, force=True)


def test_the_same_key_is_the_same_export(service, ann, study) -> None:
    sent = {"headers": ann | {"idempotency-key": "once"}}
    first, again = (
        service.post(f"/api/v1/studies/{study}/exports", json={"trial": 1}, **sent) for _ in range(2)
    )
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    other = service.post(f"/api/v1/studies/{study}/exports", json={"form": "lora"}, **sent)
    assert other.status_code == 409


@pytest.mark.parametrize("trial", [0, 2, 99])
def test_a_trial_that_cannot_be_exported_is_refused_in_the_command_lines_words(
    service, ann, study, tmp_path, trial
) -> None:
    reply = service.post(f"/api/v1/studies/{study}/exports", json={"trial": trial}, headers=ann)
    assert (reply.status_code, reply.json()["type"]) == (422, "urn:autopeft:problem:input")
    workspace = str(service.office.settings.workspace.resolve())
    with pytest.raises(InputError) as here:
        export(Request(workspace=workspace, study=study), Export(trial=trial))
    assert reply.json()["detail"] == str(here.value).replace(f"{workspace}/", "")
    assert str(tmp_path) not in reply.text
    jobs = service.get("/api/v1/jobs", headers=ann).json()["items"]
    assert [job["kind"] for job in jobs] == ["run"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"out": "/tmp/x"}, "out"),
        ({"push": "org/name"}, "push"),
        ({"model_name": "x"}, "model_name"),
        ({"refit": True}, "refit is not for a client of a service to give"),
        ({"study": "another"}, "study"),
        ({"form": "gguf"}, "form"),
        ({"dtype": "bf16"}, "dtype goes with the form merged"),
        ({"form": "merged", "dtype": "int8"}, "dtype"),
        ({"form": "merged", "lora_rank": 4}, "lora_rank goes with the form lora"),
        ({"trial": -1}, "trial"),
        ({"trial": "1"}, "trial"),
    ],
)
def test_what_an_export_may_not_say_is_refused(service, ann, study, body, words) -> None:
    reply = service.post(f"/api/v1/studies/{study}/exports", json=body, headers=ann)
    assert reply.status_code == 422
    assert words in reply.json()["detail"]


def test_the_document_has_no_field_that_is_refused(service, ann) -> None:
    schemas = service.get("/api/v1/openapi.json", headers=ann).json()["components"]["schemas"]
    assert set(schemas["ExportRequest"]["properties"]) == {"trial", "form", "dtype", "lora_rank", "license"}


def test_a_run_may_refit_and_a_search_which_exports_nothing_may_not(service, ann) -> None:
    body = {"demo": "classification", "refit": True}
    run, search = (
        service.post("/api/v1/jobs", json=body | {"kind": kind}, headers=ann) for kind in ("run", "search")
    )
    assert (run.status_code, run.json()["request"]["refit"]) == (201, True)
    assert search.status_code == 422
    assert "refit is for kind run" in search.json()["detail"]


def test_the_process_of_an_export_waits_for_whoever_has_its_study(
    service, study, tmp_path, monkeypatch
) -> None:
    wish = Request(workspace=str(service.office.settings.workspace.resolve()), study=study)
    wish.keep(tmp_path / "request.json")
    Export().keep(tmp_path / "export.json")
    exported: list[str] = []
    monkeypatch.setattr(child, "_end_with_the_service", lambda: None)
    monkeypatch.setattr(exporting, "_export", lambda done, *_: exported.append(done.study.name))
    monkeypatch.setattr("sys.argv", ["", "export", str(tmp_path / "request.json"), str(tmp_path / "e"), "0"])
    with claimed(wish):
        assert (child.main(), exported) == (os.EX_TEMPFAIL, [])
    assert (child.main(), exported) == (0, [study])


def test_a_study_has_one_job_at_a_time(service, ann, study) -> None:
    jobs = service.office.jobs
    place = f"/api/v1/studies/{study}/exports"
    one, other = (service.post(place, json={"trial": 1}, headers=ann).json()["id"] for _ in range(2))
    service.post(f"/api/v1/jobs/{study}/resume", json={"time": "10min"}, headers=ann)
    for number in (one, other, study):
        taken = jobs.claim("one process")
        assert taken is not None
        assert (taken.id, jobs.claim("another")) == (number, None)
        jobs.finish(number, "one process", "done", "", 1.0)


def test_a_study_that_is_still_searched_is_not_exported(service, ann, encoder_with_weights) -> None:
    name = keep_study(service, ann, str(encoder_with_weights.path))
    reply = service.post(f"/api/v1/studies/{name}/exports", json={}, headers=ann)
    assert reply.status_code == 409
    assert "still searched" in reply.json()["detail"]


def test_only_its_user_may_export_a_study_and_only_with_the_scope(service, headers, study) -> None:
    path = f"/api/v1/studies/{study}/exports"
    assert service.post(path, json={}, headers=headers("bob")).status_code == 404
    assert service.post(path, json={}, headers=headers("ann", "read")).status_code == 403
    assert service.get(f"/api/v1/studies/{study}/bundle?trial=1", headers=headers("bob")).status_code == 404


def test_what_was_exported_is_downloaded_by_trial_and_form(service, ann, study) -> None:
    folder = folder_of(service, study)
    put_bundle(folder.exported(None, "adapter"), 1, "winner")
    put_bundle(folder.exported(0, "adapter"), 0, "trial 0")
    put_bundle(folder.exported(None, "merged"), 1, "winner, merged")
    place = f"/api/v1/studies/{study}/bundle"
    for asked, label in (
        ("", "winner"),
        ("?trial=1", "winner"),
        ("?trial=0", "trial 0"),
        ("?form=merged", "winner, merged"),
        ("?trial=1&form=merged", "winner, merged"),
    ):
        reply = service.get(place + asked, headers=ann)
        assert reply.status_code == 200, asked
        with zipfile.ZipFile(io.BytesIO(reply.content)) as archive:
            assert archive.read(f"{study}/README.md").decode() == label, asked
    for asked in ("?trial=2", "?trial=0&form=merged", "?form=lora"):
        assert service.get(place + asked, headers=ann).status_code == 404


def test_the_bundle_of_who_won_before_a_resumption_is_not_the_winners(service, ann, study) -> None:
    folder = folder_of(service, study)
    put_bundle(folder.exported(None, "adapter"), 0, "the first winner")
    place = f"/api/v1/studies/{study}/bundle"
    reply = service.get(place, headers=ann)
    assert reply.status_code == 404
    assert "is of trial 0, but trial 1 has won since" in reply.json()["detail"]
    assert service.get(f"{place}?trial=0", headers=ann).status_code == 200
    put_bundle(folder.exported(1, "adapter"), 1, "exported before it won")
    assert service.get(place, headers=ann).status_code == 200


def test_a_running_search_is_ended_and_concluded_by_a_job_of_its_own(
    service, ann, encoder_with_weights
) -> None:
    jobs = service.office.jobs
    name = keep_study(service, ann, str(encoder_with_weights.path))
    folder_of(service, name).checkpoint(1).mkdir(parents=True)
    assert jobs.claim("one process").id == name
    for _ in range(2):  # a user with as many jobs as may be can conclude one of them
        service.post("/api/v1/jobs", json={"demo": "classification"}, headers=ann)
    sent = {"headers": ann | {"idempotency-key": "once"}}
    reply, again = (service.post(f"/api/v1/jobs/{name}/conclude", **sent) for _ in range(2))
    assert (reply.status_code, again.status_code) == (201, 200)
    job = reply.json()
    assert (job["kind"], job["state"], job["request"]) == ("conclude", "queued", {"study": name})
    assert again.json() == job
    assert service.get(f"/api/v1/jobs/{name}", headers=ann).json()["stopping"]
    assert jobs.renew(name, "one process", 1.0) == "stop"
    others = [jobs.claim("another").id for _ in range(2)]
    assert job["id"] not in others  # while the search still ends
    jobs.finish(name, "one process", "stopped", "", 1.0)
    assert jobs.claim("another").id == job["id"]


def test_what_nothing_was_trained_for_goes_on(service, ann, encoder_with_weights) -> None:
    name = keep_study(service, ann, str(encoder_with_weights.path))
    service.office.jobs.claim("one process")  # and the weights of the winner are gone
    reply = service.post(f"/api/v1/jobs/{name}/conclude", headers=ann)
    assert reply.status_code == 422
    assert "not in" in reply.json()["detail"]
    assert service.get(f"/api/v1/jobs/{name}", headers=ann).json()["stopping"] is False


def test_only_a_search_of_ones_own_is_concluded(service, ann, headers, study) -> None:
    path = f"/api/v1/jobs/{study}/conclude"
    assert service.post(path, headers=headers("bob")).status_code == 404
    assert service.post(path, headers=headers("ann", "read")).status_code == 403
    made = service.post(path, headers=ann).json()["id"]
    twice = service.post(f"/api/v1/jobs/{made}/conclude", headers=ann)
    assert (twice.status_code, study in twice.json()["detail"]) == (422, True)


def test_a_study_that_is_not_there_names_no_others(service, ann, headers, study) -> None:
    bob = headers("bob")
    job = service.post("/api/v1/jobs", json={"demo": "classification"}, headers=bob).json()["id"]
    for what in ("", "/facts", "/report", "/bundle", "/recipe"):
        reply = service.get(f"/api/v1/studies/{job}{what}", headers=bob)
        assert reply.status_code == 404
        assert study not in reply.text
