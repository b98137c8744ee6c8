"""What needs no training, over HTTP: the same answers as the command line's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

import autopeft as ap
from autopeft import pipeline
from autopeft.hardware.catalog import load_profile
from autopeft.journey.inputs import load_grounds
from autopeft.plan.serving import Serving
from autopeft.request import Request
from autopeft.service import apart
from autopeft.workload import readers
from tests.service.conftest import QUESTION


def test_an_estimate_is_the_librarys_answer(service) -> None:
    reply = service.post("/api/v1/estimate", json=QUESTION)
    assert reply.status_code == 200
    assert ap.Answer.model_validate_json(reply.content) == ap.Answer.model_validate(
        ap.answer(ap.Question.build(**QUESTION)).model_dump()
    )


def test_what_does_not_fit_says_what_would(service) -> None:
    answer = service.post("/api/v1/estimate", json=QUESTION | {"seq_len": 4096}).json()
    assert answer["fits"] is False
    assert "checkpointing" in answer["way_out"]


def test_many_questions_are_answered_in_their_order_and_a_bad_one_stops_none(service) -> None:
    rows = [QUESTION | {"method": "qlora"}, {"modell": "x"}, QUESTION | {"gpu": "l40z"}, QUESTION]
    answers = service.post("/api/v1/estimates", json={"questions": rows, "batches": False}).json()["answers"]
    assert [one["status"] for one in answers] == ["ok", "error", "error", "ok"]
    assert "modell" in answers[1]["reason"]
    assert "l40s" in answers[2]["reason"]
    assert answers[0]["memory"]["parts"]["weights"] < answers[3]["memory"]["parts"]["weights"]


def test_an_answer_is_computed_once(service) -> None:
    first, second = (service.post("/api/v1/estimate", json=QUESTION) for _ in range(2))
    assert first.content == second.content
    counted = service.get("/metrics").text
    assert 'autopeft_answers_total{source="memory"} 1.0' in counted
    assert 'autopeft_answers_total{source="computed"} 1.0' in counted


def test_a_capacity_plan_has_a_cell_for_each_model_way_and_device(service) -> None:
    demand = {
        "models": [QUESTION["model"]],
        "ways": ["lora", "qlora"],
        "gpus": ["l4", "l40s"],
        "seq_len": 512,
    }
    made = ap.Capacity.model_validate_json(service.post("/api/v1/capacity", json=demand).content)
    assert [(cell.way, cell.gpu) for cell in made.cells] == [
        (way, gpu) for way in ("lora", "qlora") for gpu in ("l4", "l40s")
    ]


def test_a_verdict_is_the_librarys(service) -> None:
    body = {"model": QUESTION["model"], "gpu": "l40s", "seq_len": 512, "candidate": {"method": "lora"}}
    verdict = service.post("/api/v1/verdict", json=body).json()
    here = ap.estimate(QUESTION["model"], ap.Candidate(method="lora"), gpu="l40s", seq_len=512)
    assert verdict["verdict"] == here.verdict
    assert verdict["estimate"]["memory"]["device_peak_bytes"] == here.estimate.memory.device_peak_bytes


def test_an_overview_holds_usual_models_against_a_budget(service) -> None:
    rows = service.post("/api/v1/overview", json={"budget": {"gpu_mem": "16GB"}}).json()
    fitting = [row for row in rows if any(each["verdict"]["verdict"] == "fits" for each in row["options"])]
    assert len(rows) > len(fitting) > 10


def test_what_a_server_holds_is_the_librarys_answer(service) -> None:
    asked = {"model": QUESTION["model"], "method": "qlora", "gpu": "l40s", "batch_size": 8, "seq_len": 2048}
    reply = service.post("/api/v1/serving", json=asked)
    assert reply.status_code == 200, reply.text
    assert Serving.model_validate_json(reply.content) == pipeline.serve(ap.Question.build(**asked))
    unmerged = reply.json()["unmerged"]
    assert unmerged["adapters"] > 0
    assert unmerged["sequences"] > 8


def test_what_is_not_served_says_why(service) -> None:
    reply = service.post("/api/v1/serving", json=QUESTION | {"model": "bert-base-uncased"})
    assert reply.status_code == 422
    assert reply.json()["type"].endswith(":unsupported")
    assert "write text" in reply.json()["detail"]
    assert service.post("/api/v1/serving", json=QUESTION | {"gpu": "l40z"}).status_code == 422
    assert service.post("/api/v1/serving", json=QUESTION | {"model": "/etc"}).status_code == 403


@pytest.fixture
def uploaded(open_service, encoder_with_weights, monkeypatch) -> tuple[TestClient, dict[str, Any]]:
    """A service that cannot itself read rows of users, and what to plan with some."""
    place = encoder_with_weights.path
    service = open_service(rate=0, models=(Path(place).parent,))
    rows = "".join(f"the cat sat {n},{'good' if n % 2 else 'bad'}\n" for n in range(60))
    number = service.post("/api/v1/data?name=rows.csv", content=f"text,label\n{rows}").json()["id"]

    def reads(*_: object, **__: object) -> None:
        raise AssertionError("the service itself reads the rows of a user")

    monkeypatch.setattr(readers, "read_dataset", reads)
    return service, {"model": place, "data": number, "gpu": "l4"}


def test_rows_of_a_user_are_read_apart_and_give_what_the_library_reads(uploaded, monkeypatch) -> None:
    service, asked = uploaded
    place = service.office.settings.workspace.resolve()
    file = next((place / "uploads").glob("*/*/rows.csv"))
    wish = Request(model=asked["model"], data=str(file), workspace=str(place), seq_len=16)
    found = apart.grounds(wish, load_profile("l4"))
    monkeypatch.undo()
    assert found == load_grounds(wish, load_profile("l4"))
    assert found.workload.rows == 48


@pytest.mark.parametrize("path", ["plan", "verdict"])
def test_rows_that_take_too_much_to_plan_for_are_refused(uploaded, monkeypatch, path) -> None:
    service, asked = uploaded
    monkeypatch.setattr(apart, "BYTES", 2**20)
    body = asked if path == "plan" else {**asked, "candidate": {"method": "lora"}}
    reply = service.post(f"/api/v1/{path}", json=body)
    assert reply.status_code == 422
    assert "more than 1 MiB of memory" in reply.json()["detail"]


def test_a_mistake_in_a_plan_with_rows_is_told_as_elsewhere(uploaded) -> None:
    service, asked = uploaded
    reply = service.post("/api/v1/plan", json={**asked, "columns": {"text": "review"}})
    assert (reply.status_code, reply.json()["type"]) == (422, "urn:autopeft:problem:data")
    assert str(service.office.settings.workspace.resolve()) not in reply.text
