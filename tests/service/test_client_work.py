"""The client's files and jobs, and a verb for all that a service does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import autopeft as ap
from autopeft import inventory
from autopeft.errors import DataError, InputError, ServiceError
from autopeft.service import app
from tests.service.live import Service, running
from tests.service.test_training import ROWS

OF_A_BROWSER = {"login", "logout"}
OF_WHO_RUNS_IT = {"healthz", "readyz", "metrics", "audit", "doctor"}
CALLED = {
    "verdict": "estimate",
    "estimate": "answer",
    "estimates": "answer_many",
    "put_gpu": "keep_profile",
    "post_data": "upload",
    "list_data": "uploads",
    "one_data": "uploads",
    "delete_data": "delete",
    "list_jobs": "jobs",
    "one_job": "job",
    "bundle": "export",
    "post_recipe": "recipe",
    "study_recipe": "recipe",
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that takes jobs and runs none."""
    with running(tmp_path_factory.mktemp("work") / "ws", "--jobs", "0") as service:
        yield service


@pytest.fixture
def client(service, monkeypatch) -> ap.Client:
    monkeypatch.setenv("no_proxy", "*")
    return ap.Client(service.url)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    (tmp_path / "rows.csv").write_bytes(ROWS)
    return tmp_path / "rows.csv"


def test_every_route_has_a_verb(open_service) -> None:
    paths = app.create_app(open_service().office).openapi()["paths"]
    routes = {each["operationId"] for operations in paths.values() for each in operations.values()}
    verbs = {CALLED.get(name, name) for name in routes - OF_A_BROWSER - OF_WHO_RUNS_IT}
    assert verbs <= set(dir(ap.Client)), verbs - set(dir(ap.Client))


def test_what_is_known_by_name_is_what_the_library_knows(client) -> None:
    assert client.method("lora") == inventory.method("lora")
    assert client.gpu("l4") == inventory.gpu("l4")
    assert client.space("quick") == inventory.space("quick")
    assert client.model("gpt2") == next(one for one in inventory.models() if one.name == "gpt2")
    filters = {"family": "reparameterised", "served_by": "vllm", "mergeable": True}
    names = [method.name for method in client.methods(**filters)]
    assert names == [method.name for method in inventory.methods(**filters)]
    assert 0 < len(names) < len(client.methods())
    for ask in (client.method, client.gpu, client.space, client.model):
        with pytest.raises(InputError, match="unknown"):
            ask("no such thing")


def test_a_profile_that_is_sent_can_be_planned_for(client) -> None:
    made = inventory.gpu("l4").model_copy(update={"name": "ours"})
    client.keep_profile(made)
    assert client.gpu("ours") == made
    asked = ap.Question.build(model="Llama-3.1-8B", method="lora", gpu="ours", seq_len=512)
    assert client.answer(asked).question["gpu"] == "ours"


def test_a_file_is_sent_once_and_named_as_often_as_you_like(client, rows, encoder_with_weights) -> None:
    sent = client.upload(rows, columns={"text": "text", "label": "label"})
    assert (sent.name, sent.bytes) == ("rows.csv", len(ROWS))
    assert sent in client.uploads()
    jobs = [client.submit("search", "gpt2", data=sent, budget=ap.Budget(time="5min")) for _ in range(2)]
    assert {client.job(job).request["data"] for job in jobs} == {sent.id}
    client.delete(sent)
    assert sent not in client.uploads()
    for job in jobs:
        client.stop(job)
    with pytest.raises(DataError, match="cannot be read"):
        client.upload(rows.with_name("none.csv"))


def test_jobs_are_listed_followed_stopped_and_gone_on_with(client) -> None:
    made = [client.submit("search", demo="classification") for _ in range(3)]
    listed = [job.id for job in client.jobs()]
    assert [job for job in listed if job in made] == made[::-1]
    job = client.job(made[0])
    assert (job.kind, job.state, job.study) == ("search", "queued", made[0])
    stopped = client.stop(made[0])
    assert stopped.state == "stopped"
    assert stopped in client.jobs(state="stopped")
    assert [event["state"] for event in client.events(made[0])] == ["stopped"]
    with pytest.raises(ServiceError, match="stopped before it began"):
        client.wait(made[0])
    again = client.resume(made[0], time="10min", trials=3)
    assert (again.state, again.request["budget"]["trials"]) == ("queued", 3)
    for job in made:
        client.stop(job)


def test_a_study_goes_on_by_the_librarys_words(client) -> None:
    job = client.submit("search", demo="classification")
    client.stop(job)
    more = ap.Budget(time="10min")
    for refused, words in (
        (lambda: client.search("gpt2", study=job, resume=True, budget=more), "leave out model"),
        (lambda: client.search(study=job, resume=True), "budget.time"),
        (lambda: client.search(study=job, resume=True, budget=ap.Budget(time="1h", cost="1usd")), "cost"),
        (lambda: client.run(study=job, resume=True, budget=more), "was made by a search"),
        (lambda: client.search("gpt2", study="mine", budget=more), "names its studies"),
    ):
        with pytest.raises(InputError, match=words):
            refused()
    assert client.job(job).state == "stopped"


def test_what_was_never_searched_is_not_concluded_and_names_no_others_studies(client) -> None:
    job = client.submit("run", demo="classification")
    for ask in (lambda: client.conclude(job), lambda: client.report(job), lambda: client.study(job)):
        with pytest.raises(ServiceError, match=rf"unknown study '{job}': nothing was searched"):
            ask()
    assert client.job(job).state == "queued"
    client.stop(job)
    assert client.studies() == ()
