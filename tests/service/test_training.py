"""Data files and jobs over HTTP, with a queue that nobody works on."""

from __future__ import annotations

import asyncio
import gzip
import json
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from autopeft.errors import DataError
from autopeft.report.facts import DataFacts
from autopeft.service.problems import RefusedError
from autopeft.service.tokens import Caller
from autopeft.workload.media import CONFINED
from autopeft.workload.readers import read_dataset
from autopeft.workload.tasks import TASKS

ROWS = b"text,label\n" + b"".join(b"a good film %d,good\na bad film %d,bad\n" % (n, n) for n in range(40))
FACTS = DataFacts(
    name="x", task="classification", metric=TASKS["classification"].metric, rows={}, labels=(), columns={},
    source="x", fingerprint="0", notes=(),
)  # fmt: skip
JOB = {"model": "all-MiniLM-L6-v2", "budget": {"time": "10min", "trials": 2}, "epochs": 1}


@pytest.fixture
def service(open_service: Callable[..., TestClient]) -> TestClient:
    """A service that takes jobs and runs none."""
    return open_service(tokens=True, rate=0, slots=0, quota=3, upload_bytes=100_000, kept_bytes=150_000)


@pytest.fixture
def headers(service) -> Callable[..., dict[str, str]]:
    def make(user: str, scope: str = "submit") -> dict[str, str]:
        return {"authorization": f"Bearer {service.office.tokens.create(user, scope)[1]}"}

    return make


@pytest.fixture
def ann(headers) -> dict[str, str]:
    return headers("ann")


@pytest.fixture
def bob(headers) -> dict[str, str]:
    return headers("bob")


def upload(service: TestClient, who: dict[str, str], content: bytes = ROWS, name: str = "rows.csv") -> str:
    reply = service.post(f"/api/v1/data?name={name}", content=content, headers=who)
    assert reply.status_code == 201, reply.text
    return reply.json()["id"]


def left(tmp_path: Path) -> list[str]:
    return sorted(
        file.name
        for file in (tmp_path / "ws" / "uploads").rglob("*")
        if file.is_file() and file.name != CONFINED
    )


def test_a_file_is_read_and_kept_and_the_same_file_once(service, ann, tmp_path) -> None:
    reply = service.post("/api/v1/data?name=rows.csv", content=ROWS, headers=ann).json()
    assert reply["facts"]["rows"] == {"train": 64, "validation": 8, "test": 8}
    assert reply["facts"]["labels"] == ["bad", "good"]
    assert str(tmp_path) not in json.dumps(reply)
    assert upload(service, ann) == reply["id"]
    assert [each["id"] for each in service.get("/api/v1/data", headers=ann).json()] == [reply["id"]]
    assert service.delete(f"/api/v1/data/{reply['id']}", headers=ann).status_code == 204
    assert left(tmp_path) == []


def test_columns_can_be_said(service, ann) -> None:
    rows = ROWS.replace(b"text,label", b"review,mood")
    columns = json.dumps({"text": "review", "label": "mood"})
    place = f"/api/v1/data?name=rows.csv&columns={columns}"
    assert service.post(place, content=rows, headers=ann).json()["facts"]["columns"]["text"] == "review"


@pytest.mark.parametrize(
    "name",
    [
        "rows.pkl",
        "rows.pt",
        "rows.zip",
        "rows",
        "../rows.csv",
        "a/b.csv",
        "..%2F..%2Frows.csv",
        ".csv",
        "x\\y.csv",
    ],
)
def test_only_names_of_data_files_are_taken(service, ann, name, tmp_path) -> None:
    reply = service.post("/api/v1/data", params={"name": name}, content=ROWS, headers=ann)
    assert reply.status_code == 422
    assert "rows.csv" not in [file.name for file in tmp_path.rglob("*")]


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (open, ("/tmp/autopeft-was-here", "w"))


@pytest.mark.parametrize("name", ["rows.parquet", "rows.csv", "rows.jsonl"])
def test_a_pickle_is_never_loaded(service, ann, name, tmp_path) -> None:
    reply = service.post(f"/api/v1/data?name={name}", content=pickle.dumps(Evil()), headers=ann)
    assert reply.status_code == 422
    assert left(tmp_path) == []
    assert not Path("/tmp/autopeft-was-here").exists()


def test_a_compressed_body_is_not_unpacked(service, ann) -> None:
    packed = gzip.compress(b"0" * 10**6)
    headers = ann | {"content-encoding": "gzip"}
    assert service.post("/api/v1/data?name=rows.csv", content=packed, headers=headers).status_code == 415


def test_a_table_that_unpacks_to_far_more_than_it_holds_is_refused(service, ann, tmp_path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    cell = pa.DictionaryArray.from_arrays(pa.array([0] * 2_000_000, pa.int32()), ["bomb " * 2000])
    bomb = tmp_path / "bomb.parquet"
    parquet.write_table(pa.table({"text": cell, "label": cell}), bomb, compression="zstd")
    assert bomb.stat().st_size < 100_000 < 2_000_000 * 10_000
    reply = service.post("/api/v1/data?name=bomb.parquet", content=bomb.read_bytes(), headers=ann)
    assert reply.status_code == 422
    assert left(tmp_path) == []


def test_a_file_that_is_too_large_is_refused_whether_it_says_so_or_not(service, ann, tmp_path) -> None:
    large = ROWS * 100
    assert service.post("/api/v1/data?name=rows.csv", content=large, headers=ann).status_code == 413
    assert service.post("/api/v1/data?name=rows.csv", content=iter([large]), headers=ann).status_code == 413
    assert left(tmp_path) == []


def test_the_files_of_a_user_are_limited_together(service, ann, bob) -> None:
    line = b"%s %d,x\n%s %d,y\n"
    padded = [
        b"text,label\n" + b"".join(line % (b"w" * 500, n + k * 99, b"v" * 500, n) for n in range(80))
        for k in (0, 1)
    ]
    upload(service, ann, padded[0])
    reply = service.post("/api/v1/data?name=more.csv", content=padded[1], headers=ann)
    assert reply.status_code == 429
    upload(service, bob, padded[1])


def test_nobody_sees_uses_or_deletes_anothers_file(service, ann, bob) -> None:
    number = upload(service, ann)
    assert service.get("/api/v1/data", headers=bob).json() == []
    assert service.get(f"/api/v1/data/{number}", headers=bob).status_code == 404
    assert service.delete(f"/api/v1/data/{number}", headers=bob).status_code == 404
    assert service.post("/api/v1/jobs", json=JOB | {"data": number}, headers=bob).status_code == 422
    assert service.post("/api/v1/jobs", json=JOB | {"data": number}, headers=ann).status_code == 201


def test_what_a_job_cannot_learn_from_is_refused_when_it_is_submitted(service, ann) -> None:
    number = upload(service, ann)
    asked = JOB | {"data": number, "columns": {"label": "mood"}}
    reply = service.post("/api/v1/jobs", json=asked, headers=ann)
    assert reply.status_code == 422
    assert reply.json()["detail"] == "rows.csv has no column 'mood'; it has 'text', 'label'."
    same = JOB | {"data": number, "task": "classification", "columns": {"label": "label"}}
    assert service.post("/api/v1/jobs", json=same, headers=ann).status_code == 201


def test_a_job_takes_the_columns_that_its_file_came_with_unless_it_names_others(service, ann) -> None:
    kinds = (b"fine %d,a good film %d,good\n", b"poor %d,a bad film %d,bad\n")
    rows = b"one,two,label\n" + b"".join(line % (n, n) for line in kinds for n in range(40))
    columns = json.dumps({"text": "two"})
    upload = service.post(f"/api/v1/data?name=r.csv&columns={columns}", content=rows, headers=ann).json()
    assert upload["columns"] == {"text": "two"}
    job = service.post("/api/v1/jobs", json=JOB | {"data": upload["id"]}, headers=ann).json()
    assert job["request"]["columns"] == {"text": "two"}
    asked = JOB | {"data": upload["id"], "columns": {"text": "one"}}
    job = service.post("/api/v1/jobs", json=asked, headers=ann).json()
    assert job["request"]["columns"] == {"text": "one"}
    long = JOB | {"data": upload["id"], "columns": {"text": "x" * 300_000}}
    reply = service.post("/api/v1/jobs", json=long, headers=ann)
    assert (reply.status_code, len(reply.text) < 1000) == (422, True)


def test_a_job_whose_time_cannot_be_enough_is_refused_when_it_is_submitted(service, ann) -> None:
    asked = {"demo": "classification", "budget": {"time": "10s"}}
    reply = service.post("/api/v1/jobs", json=asked, headers=ann)
    assert (reply.status_code, reply.json()["type"]) == (422, "urn:autopeft:problem:does-not-fit")
    assert "beside its training" in reply.json()["detail"]
    assert service.post("/api/v1/jobs", json=asked | {"kind": "search"}, headers=ann).status_code == 201


@pytest.mark.parametrize("data", ["/etc/passwd", "../../rows.csv", "rows.csv", "org/dataset", ""])
def test_data_are_named_by_their_id_only(service, ann, data) -> None:
    for field in ("data", "test_data"):
        reply = service.post("/api/v1/jobs", json=JOB | {"demo": None, field: data}, headers=ann)
        assert reply.status_code == 422, reply.text


def test_a_job_is_shown_as_it_was_asked_without_the_services_places(service, ann, tmp_path) -> None:
    number = upload(service, ann)
    reply = service.post("/api/v1/jobs", json=JOB | {"data": number}, headers=ann)
    job = reply.json()
    assert reply.headers["location"] == f"/api/v1/jobs/{job['id']}"
    assert (job["state"], job["user"], job["kind"], job["seconds"]) == ("queued", "ann", "run", 600.0)
    assert job["request"]["data"] == number
    assert str(tmp_path) not in reply.text
    assert service.get(f"/api/v1/jobs/{job['id']}", headers=ann).json() == job


def test_the_same_key_gives_the_same_job(service, ann) -> None:
    number = upload(service, ann)
    sent = {"json": JOB | {"data": number}, "headers": ann | {"idempotency-key": "once"}}
    first, again = (service.post("/api/v1/jobs", **sent) for _ in range(2))
    assert [first.status_code, again.status_code] == [201, 200]
    assert first.json() == again.json()
    other = service.post("/api/v1/jobs", json={"demo": "classification"}, headers=sent["headers"])
    assert other.status_code == 409


def test_a_user_has_a_quota(service, ann) -> None:
    replies = [service.post("/api/v1/jobs", json={"demo": "classification"}, headers=ann) for _ in range(4)]
    assert [reply.status_code for reply in replies] == [201, 201, 201, 429]
    assert replies[-1].json()["type"].endswith(":quota")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "data"),
        ({"demo": "classification", "model": "gpt2"}, "demo"),
        ({"demo": "classification", "budget": {"time": "100h"}}, "budget.time"),
        ({"demo": "classification", "kind": "delete"}, "kind"),
        ({"demo": "classification", "storage": "sqlite:///x"}, "storage"),
        ({"demo": "classification", "space": "../x.yaml"}, "space"),
    ],
)
def test_what_cannot_be_run_is_said_at_once(service, ann, body, words) -> None:
    reply = service.post("/api/v1/jobs", json=body, headers=ann)
    assert reply.status_code == 422
    assert words in reply.json()["detail"]


def test_a_reader_submits_stops_and_uploads_nothing(service, headers, ann) -> None:
    reader = headers("ann", "read")
    job = service.post("/api/v1/jobs", json={"demo": "classification"}, headers=ann).json()["id"]
    assert service.get(f"/api/v1/jobs/{job}", headers=reader).status_code == 200
    assert service.post("/api/v1/jobs", json={"demo": "classification"}, headers=reader).status_code == 403
    assert service.post(f"/api/v1/jobs/{job}/stop", headers=reader).status_code == 403
    assert service.post("/api/v1/data?name=rows.csv", content=ROWS, headers=reader).status_code == 403


def test_jobs_are_listed_in_pages_the_latest_first(service, ann, bob, headers) -> None:
    sent = {"json": {"demo": "classification"}, "headers": ann}
    made = [service.post("/api/v1/jobs", **sent).json()["id"] for _ in range(3)]
    page = service.get("/api/v1/jobs?limit=2", headers=ann).json()
    rest = service.get(page["next"], headers=ann).json()
    assert [job["id"] for job in [*page["items"], *rest["items"]]] == made[::-1]
    assert rest["next"] is None
    assert service.get("/api/v1/jobs", headers=bob).json()["items"] == []
    assert len(service.get("/api/v1/jobs", headers=headers("root", "admin")).json()["items"]) == 3


def test_another_user_can_neither_follow_stop_resume_nor_read_a_job(service, ann, bob) -> None:
    job = service.post("/api/v1/jobs", json={"demo": "classification"}, headers=ann).json()["id"]
    assert service.get(f"/api/v1/jobs/{job}", headers=bob).status_code == 404
    assert service.get(f"/api/v1/jobs/{job}/events", headers=bob).status_code == 404
    assert service.post(f"/api/v1/jobs/{job}/stop", headers=bob).status_code == 404
    assert service.post(f"/api/v1/jobs/{job}/resume", json={"time": "1min"}, headers=bob).status_code == 404
    for what in ("", "/facts", "/report", "/bundle"):
        assert service.get(f"/api/v1/studies/{job}{what}", headers=bob).status_code == 404


def test_a_stopped_job_says_so_to_who_follows_it_and_can_go_on(service, ann) -> None:
    job = service.post("/api/v1/jobs", json={"demo": "classification"}, headers=ann).json()["id"]
    assert service.post(f"/api/v1/jobs/{job}/stop", headers=ann).json()["state"] == "stopped"
    followed = service.get(f"/api/v1/jobs/{job}/events", headers=ann)
    assert followed.headers["content-type"].startswith("text/event-stream")
    (last,) = [json.loads(line[6:]) for line in followed.text.splitlines() if line.startswith("data: ")]
    assert (last["event"], last["state"]) == ("state", "stopped")
    assert service.post(f"/api/v1/jobs/{job}/stop", headers=ann).status_code == 409
    again = service.post(f"/api/v1/jobs/{job}/resume", json={"time": "10min"}, headers=ann)
    assert again.json()["state"] == "queued"


def test_events_go_on_after_the_last_that_was_seen(service, ann) -> None:
    job = service.post("/api/v1/jobs", json={"demo": "classification"}, headers=ann).json()["id"]
    service.office.jobs.note(job, [json.dumps({"event": "progress", "done": each}) for each in range(4)])
    service.post(f"/api/v1/jobs/{job}/stop", headers=ann)
    text = service.get(f"/api/v1/jobs/{job}/events", headers=ann | {"last-event-id": "2"}).text
    assert [line for line in text.splitlines() if line.startswith("id: ")] == ["id: 3", "id: 4"]


def test_what_is_done_stands_in_the_audit_log(service, ann, headers) -> None:
    job = service.post("/api/v1/jobs", json={"demo": "classification"}, headers=ann).json()["id"]
    service.post(f"/api/v1/jobs/{job}/stop", headers=ann)
    lines = service.get("/api/v1/audit", headers=headers("root", "admin")).json()
    assert [(line["user"], line["action"]) for line in lines] == [("ann", "stop"), ("ann", "submit")]
    assert {line["what"] for line in lines} == {job}


@pytest.mark.parametrize("how", ["absolute", "above", "a link", "not there", "a colleague's"])
def test_an_uploaded_table_names_no_file_of_the_server(service, ann, tmp_path, how) -> None:
    from tests.workload.test_media_readers import png

    (tmp_path / "secret.png").write_bytes(png(1))
    cell = {
        "absolute": str(tmp_path / "secret.png"),
        "above": "../../../../secret.png",
        "a link": "link.png",
        "not there": str(tmp_path / "none.png"),
        "a colleague's": "../other/secret.png",
    }[how]
    rows = "image,label\n" + "".join(f"{cell},{'ab'[n % 2]}\n" for n in range(40))
    home = tmp_path / "ws" / "uploads" / "someone"
    for folder in (home / "one", home / "other"):
        folder.mkdir(parents=True)
    (home / "one" / "rows.csv").write_text(rows)
    (home / "one" / "link.png").symlink_to(tmp_path / "secret.png")
    (home / "other" / "secret.png").write_bytes(png(1))
    with pytest.raises(DataError, match="must name no file elsewhere") as refused:
        read_dataset(str(home / "one" / "rows.csv"))
    assert cell not in str(refused.value)
    if how == "absolute":
        reply = service.post("/api/v1/data?name=rows.csv", content=rows.encode(), headers=ann)
        assert reply.status_code == 422
        assert "must name no file elsewhere" in reply.json()["detail"]


def test_images_inside_an_uploaded_file_are_kept_beside_it_and_counted(
    service, ann, tmp_path, monkeypatch
) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    from tests.workload.test_media_readers import png

    monkeypatch.setenv("AUTOPEFT_CACHE", str(tmp_path / "cache"))
    rows = [{"image": {"bytes": png(n), "path": None}, "label": n % 2} for n in range(40)]
    file = tmp_path / "rows.parquet"
    parquet.write_table(pa.Table.from_pylist(rows), file)
    number = upload(service, ann, file.read_bytes(), "rows.parquet")
    assert len([name for name in left(tmp_path) if name.endswith(".png")]) == 40
    assert not list((tmp_path / "cache").rglob("*.png"))
    place = service.office.uploads.path(Caller(user="ann", scope="submit"), number)
    image = Path(read_dataset(str(place)).train[0].file)
    assert image.is_file()
    assert image.is_relative_to(place.parent)


def test_the_same_bytes_twice_at_once_are_one_file_that_never_vanishes(service, monkeypatch) -> None:
    uploads, who = service.office.uploads, Caller(user="ann", scope="submit")
    monkeypatch.setattr("autopeft.service.uploads._read", lambda *_: FACTS)

    async def parts():
        yield ROWS

    async def take(name: str) -> Path:
        return await uploads.take(who, name, parts())

    drafts = [asyncio.run(take(name)) for name in ("a.csv", "b.csv")]
    with ThreadPoolExecutor(2) as threads:
        kept = list(threads.map(lambda draft: uploads.keep(who, draft, {}), drafts))
    assert kept[0].id == kept[1].id
    assert len(uploads.list(who)) == 1
    place = uploads.path(who, kept[0].id)
    inode = place.stat().st_ino
    uploads.keep(who, asyncio.run(take("c.csv")), {})
    assert place.stat().st_ino == inode


def test_uploads_that_come_together_are_counted_together(service, monkeypatch) -> None:
    uploads, who = service.office.uploads, Caller(user="ann", scope="submit")
    monkeypatch.setattr("autopeft.service.uploads._read", lambda *_: FACTS)

    async def parts(content: bytes):
        yield content

    async def take_both() -> list[Path]:
        contents = (b"a" * 90_000, b"b" * 90_000)
        return await asyncio.gather(*(uploads.take(who, "x.csv", parts(each)) for each in contents))

    with pytest.raises(RefusedError, match="in all"):
        [uploads.keep(who, draft, {}) for draft in asyncio.run(take_both())]
