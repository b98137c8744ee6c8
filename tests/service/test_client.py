"""The client has the library's verbs and gives the library's types, from a service somewhere else."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

import autopeft as ap
from autopeft import api, handover, pipeline
from autopeft.errors import DataError, InputError, ServiceError, UnsupportedError
from tests.service.conftest import QUESTION
from tests.service.live import Service, running, write_rows

ASKED = ap.Question.build(**QUESTION)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, encoder_with_weights) -> Iterator[Service]:
    place = tmp_path_factory.mktemp("client")
    with running(place / "ws", "--models", str(encoder_with_weights.path)) as service:
        yield service


@pytest.fixture
def client(service, monkeypatch) -> ap.Client:
    monkeypatch.setenv("no_proxy", "*")
    return ap.Client(service.url)


def test_it_has_the_librarys_verbs() -> None:
    verbs = {
        name
        for name, each in vars(api).items()
        if inspect.isfunction(each) and each.__module__ == api.__name__
    }
    public = {name for name in verbs if not name.startswith("_")}
    of_this_machine = {"profile", "verify"}
    assert public - of_this_machine <= set(dir(ap.Client))


def test_it_answers_as_the_library_does(client) -> None:
    here, there = ap.answer(ASKED), client.answer(ASKED)
    assert there.model_dump() == here.model_dump()
    (many,) = client.answer_many([ASKED])
    assert many.memory == here.memory
    asked = {"gpu": "l40s", "seq_len": 512}
    verdicts = [
        face.estimate(QUESTION["model"], ap.Candidate(method="lora"), **asked) for face in (ap, client)
    ]
    assert verdicts[0] == verdicts[1]


@pytest.mark.slow
def test_what_is_served_and_written_is_the_librarys(client) -> None:
    assert client.serving(ASKED) == pipeline.serve(ASKED)
    candidate = ap.Candidate.build(method="lora", rank=8, training={"precision": "bf16"})
    here = handover.recipe(ap.Request(model=QUESTION["model"]), "trl", candidate=candidate)
    assert client.recipe(candidate, "trl", model=QUESTION["model"]) == here
    with pytest.raises(UnsupportedError, match="autopeft itself"):
        client.recipe(ASKED.model_copy(update={"method": "boft"}), "axolotl")
    for ask in (lambda: client.compare("one", "other"), lambda: client.recipe("one", trial=1)):
        with pytest.raises(ServiceError, match="unknown study 'one'"):
            ask()


def test_a_mistake_is_the_error_that_it_is_here(client, tmp_path) -> None:
    for face in (client, ap):
        with pytest.raises(InputError, match="l40s"):
            face.answer(ASKED.model_copy(update={"gpu": "l40z"})) if face is client else face.estimate(
                "gpt2", ap.Candidate(method="lora"), gpu="l40z"
            )
    with pytest.raises(DataError, match="cannot be read"):
        client.search("gpt2", data=str(tmp_path / "none.csv"))
    with pytest.raises(ServiceError, match="cannot be reached"):
        ap.Client("http://127.0.0.1:9").answer(ASKED)
    with pytest.raises(InputError, match="http"):
        ap.Client("file:///etc/passwd")


def test_a_bad_row_stops_no_other(client) -> None:
    answers = list(client.answer_many([ASKED, InputError("line 2: no"), ASKED], batches=False))
    assert [each.status for each in answers] == ["ok", "error", "ok"]


def test_lists_are_whole(client) -> None:
    assert len(client.models()) > 200
    assert {each.name for each in client.gpus()} >= {"l4", "h100-sxm"}
    assert {each.name for each in client.methods()} >= {"lora", "dora"}
    assert {each.name for each in client.spaces()} >= {"quick"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_search_there_gives_a_study_a_bundle_and_a_report_here(
    client, sentiment, encoder_with_weights, tmp_path
) -> None:
    seen: list[str] = []
    facts = client.run(
        str(encoder_with_weights.path),
        data=str(write_rows(sentiment, tmp_path / "rows.csv")),
        budget=ap.Budget(time="5min", trials=1, gpu_mem="8GB"),
        seq_len=24,
        epochs=2,
        on_event=lambda event: seen.append(event["event"]),
    )
    assert isinstance(facts, ap.StudyFacts)
    assert {"data", "study", "trial-started", "trial-reported", "trial-finished", "state"} <= set(seen)
    study = client.study(facts.study.name)
    assert study.best is not None
    bundle = client.export(study, out=str(tmp_path / "bundle"))
    assert (tmp_path / "bundle" / "adapter_model.safetensors").stat().st_size > 1000
    assert bundle.study == study.name
    merged = client.export(study, out=str(tmp_path / "merged"), trial=bundle.trial, form="merged")
    assert (merged.form, merged.trial) == ("merged", bundle.trial)
    assert (tmp_path / "merged" / "model.safetensors").is_file()
    assert str(tmp_path / "merged") not in (tmp_path / "merged" / "README.md").read_text()
    with pytest.raises(InputError, match="only a trial that was trained to the end"):
        client.export(study, out=str(tmp_path / "none"), trial=99)
    assert not (tmp_path / "none").exists()
    told = client.report(study, out=str(tmp_path / "report.html"))
    assert told.study == facts.study
    assert Path(told.places["report"]).stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_search_that_is_ended_now_has_its_winners_bundle_and_report(
    client, sentiment, encoder_with_weights, tmp_path
) -> None:
    job = client.submit(
        "run",
        str(encoder_with_weights.path),
        data=str(write_rows(sentiment, tmp_path / "rows.csv")),
        budget=ap.Budget(time="60min", trials=500, gpu_mem="8GB"),
        seq_len=24,
        epochs=2,
    )
    for event in client.events(job):
        if event["event"] == "trial-finished" and event["state"] == "complete":
            break
    client.conclude(job)
    ended = client.job(job)
    assert (ended.state, ended.spent < 1800) == ("stopped", True)
    best = client.study(job).best
    assert best is not None
    facts = client.report(job, out=str(tmp_path / "report.html"))
    assert facts.study.best == best
    assert client.export(job, out=str(tmp_path / "bundle")).trial == best.number
    assert (tmp_path / "bundle" / "adapter_model.safetensors").is_file()
    assert [kept for kept in client.studies() if kept.name == job and kept.report and kept.bundle]
