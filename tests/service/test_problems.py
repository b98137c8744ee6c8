"""Whatever a client gets wrong is answered by a problem (RFC 9457), never by a bug or a traceback."""

from __future__ import annotations

import pytest

from autopeft.service.problems import PREFIX, Problem
from tests.service.conftest import QUESTION

JSON = {"content-type": "application/json"}
# name: (method, path, what is sent, status, kind, words that the detail must hold)
CASES = {
    "no such place": ("GET", "/api/v2/models", {}, 404, "not-found", "openapi.json"),
    "no such method": ("DELETE", "/api/v1/models", {}, 405, "method", "Allow"),
    "no such model": ("GET", "/api/v1/models/nothing-like-it", {}, 422, "unknown-name", "nothing-like-it"),
    "a page of none": ("GET", "/api/v1/models?limit=0", {}, 422, "input", "limit"),
    "a line of no log": ("GET", f"/api/v1/audit?before={2**70}", {}, 422, "input", "before"),
    "no type": ("POST", "/api/v1/estimate", {"content": b"{}"}, 415, "media-type", "application/json"),
    "a form": ("POST", "/api/v1/estimate", {"data": {"model": "x"}}, 415, "media-type", "form"),
    "half of an object": (
        "POST",
        "/api/v1/estimate",
        {"content": b"{", "headers": JSON},
        400,
        "syntax",
        "line 1",
    ),
    "no text": (
        "POST",
        "/api/v1/estimate",
        {"content": b"\xff\xfe", "headers": JSON},
        400,
        "syntax",
        "UTF-8",
    ),
    "half of a pair": (
        *("POST", "/api/v1/estimate"),
        *({"content": b'{"model": "\\ud800"}', "headers": JSON}, 400, "syntax", "surrogate"),
    ),
    "not a number": (
        *("POST", "/api/v1/estimate"),
        *({"content": b'{"price": NaN}', "headers": JSON}, 400, "syntax", "number"),
    ),
    "a very long number": (
        *("POST", "/api/v1/estimate"),
        *({"content": b'{"rank": ' + b"9" * 5000 + b"}", "headers": JSON}, 400, "syntax", "number"),
    ),
    "a deep nest": (
        *("POST", "/api/v1/estimate"),
        *({"content": b'{"knobs": ' + b"[" * 100_000, "headers": JSON}, 400, "syntax", "nested"),
    ),
    "a list": ("POST", "/api/v1/estimate", {"json": [QUESTION]}, 422, "input", "object"),
    "an unknown field": ("POST", "/api/v1/estimate", {"json": QUESTION | {"r": 4}}, 422, "input", "rank"),
    "an unknown device": (
        "POST",
        "/api/v1/estimate",
        {"json": QUESTION | {"gpu": "l40z"}},
        422,
        "input",
        "l40s",
    ),
    "no questions": ("POST", "/api/v1/estimates", {"json": {"questions": []}}, 422, "input", "questions"),
    "no candidate": ("POST", "/api/v1/verdict", {"json": {"model": "gpt2"}}, 422, "input", "candidate"),
    "a plan of nothing": ("POST", "/api/v1/plan", {"json": {"gpu": "l4"}}, 422, "input", "model"),
    "a way of the wrong type": (
        *("POST", "/api/v1/capacity"),
        *({"json": {"models": ["gpt2"], "ways": [5]}}, 422, "input", "ways"),
    ),
    "too many cells": (
        *("POST", "/api/v1/capacity"),
        *({"json": {"models": ["gpt2"] * 200}}, 422, "input", "cells"),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_mistake_is_answered_by_a_problem_that_says_the_way_out(service, case) -> None:
    method, path, sent, status, kind, words = case
    reply = service.request(method, path, **sent)
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    problem = Problem.model_validate_json(reply.content)
    assert (problem.status, problem.type) == (status, PREFIX + kind)
    assert words in problem.detail
    assert problem.instance.endswith(reply.headers["x-request-id"])


@pytest.mark.parametrize("model", ["x" * 300, "/" + "x" * 300, "/a\0b", "é" * 200, "x/" * 3000])
def test_a_name_that_no_file_can_have_is_a_mistake_and_no_bug(open_service, tmp_path, model) -> None:
    service = open_service(rate=0, models=(tmp_path,), hub=True)
    reply = service.post("/api/v1/estimate", json=QUESTION | {"model": model})
    assert reply.status_code in (403, 422), reply.text


def test_numbers_and_marks_beyond_all_bounds_are_mistakes_and_no_bugs(service) -> None:
    assert service.get("/api/v1/audit?before=100000000000000000000").status_code == 422
    assert service.get("/api/v1/jobs?before=%00").status_code == 422
    job = service.post("/api/v1/jobs", json={"demo": "classification"}).json()["id"]
    service.post(f"/api/v1/jobs/{job}/stop")
    reply = service.get(f"/api/v1/jobs/{job}/events", headers={"last-event-id": "9" * 20})
    assert reply.status_code == 200
    assert '"state": "stopped"' in reply.text


@pytest.mark.parametrize(
    "knobs",
    [
        {"target_modules": r"(\w+\.?)+!"},
        {"exclude_modules": ".+" * 9 + "X"},
        {"rank_pattern": {"([a-z_0-9]+[.]?)+X": 4}},
        {"alpha_pattern": {"(.|[a-z])*X": 4}},
        {"layers_pattern": "([a-z_0-9]+[.]?)+X", "layers_to_transform": [1]},
        {"layers_pattern": ["(a+)+X"], "layers_to_transform": [1]},
    ],
)
def test_a_regular_expression_for_modules_is_refused(service, knobs) -> None:
    reply = service.post("/api/v1/estimate", json=QUESTION | {"knobs": knobs})
    assert reply.status_code == 422
    assert next(iter(knobs)) in reply.json()["detail"]


def test_modules_are_named_by_plain_words_with_their_ends(service) -> None:
    knobs = {"rank_pattern": {"^model.layers.0.self_attn.q_proj$": 4}, "exclude_modules": "k_proj"}
    service.office.names.knobs(knobs)


def test_a_method_that_is_not_taken_says_which_are(service) -> None:
    assert service.delete("/api/v1/models").headers["allow"] == "GET"


def test_a_body_that_is_too_large_is_refused_whether_it_says_so_or_not(service) -> None:
    large = b'{"model": "' + b"x" * 2**21 + b'"}'
    said = service.post("/api/v1/estimate", content=large, headers=JSON)
    unsaid = service.post("/api/v1/estimate", content=iter([large]), headers=JSON)
    assert [said.status_code, unsaid.status_code] == [413, 413]


def test_a_bug_is_answered_by_a_problem_that_shows_nothing_of_it(service, monkeypatch) -> None:
    monkeypatch.setattr("autopeft.inventory.gpus", lambda _: 1 // 0)
    reply = service.get("/api/v1/gpus")
    assert reply.status_code == 500
    assert reply.headers["content-type"] == "application/problem+json"
    assert "division" not in reply.text
    assert reply.headers["x-content-type-options"] == "nosniff"


def test_a_full_disk_is_the_services_problem_not_a_bug(service, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("autopeft.inventory.gpus", full)
    reply = service.get("/api/v1/gpus")
    assert reply.status_code == 507
    assert "No space left" in reply.json()["detail"]


def test_the_document_knows_every_problem(service) -> None:
    document = service.get("/api/v1/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert "HTTPValidationError" not in str(operation), path
            problems = [r for status, r in operation["responses"].items() if status[0] in "45"]
            assert all(list(one["content"]) == ["application/problem+json"] for one in problems)
            assert problems


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/v1/estimate", {"model": "gpt2", "method": "qlora", "quantization": "nf\x01"}),
        ("/api/v1/plan", {"model": "gpt2", "gpu": "l4", "demo": {}}),
        ("/api/v1/jobs", {"demo": "classification", "budget": 5}),
        ("/api/v1/jobs", {"demo": "classification", "budget": {"time": ["1min"]}}),
        ("/api/v1/jobs", {"demo": "classification", "budget": {"time": True}}),
        ("/api/v1/jobs", {"demo": "classification", "seed": "7"}),
        ("/api/v1/jobs", {"demo": "classification", "seed": 10**400}),
        ("/api/v1/jobs", {"demo": "classification", "train_rows": 2**70}),
        ("/api/v1/jobs", {"demo": "classification", "budget": {"gpu_mem": 10**400}}),
        ("/api/v1/jobs", {"demo": "classification", "budget": {"time": 10**400}}),
        ("/api/v1/plan", {"model": "gpt2", "gpu": "l4", "budget": {"params": 10**400}}),
        ("/api/v1/overview", {"budget": {"adapter_size": 10**400, "gpu_mem": "8GB"}}),
        (
            "/api/v1/verdict",
            {"model": "gpt2", "gpu": "l4", "candidate": {"method": "lora"}, "epochs": 10**400},
        ),
        ("/api/v1/estimate", {"model": "gpt2", "cls": 1}),
    ],
)
def test_a_value_of_the_wrong_kind_is_a_mistake_and_no_bug(service, path, body) -> None:
    assert service.post(path, json=body).status_code == 422


def test_a_job_goes_on_for_so_long_and_so_many_trials_that_there_can_be(service) -> None:
    job = service.post("/api/v1/jobs", json={"demo": "classification"}).json()["id"]
    service.post(f"/api/v1/jobs/{job}/stop")
    for body in ({"time": 10**400}, {"time": "1min", "trials": 10**400}):
        assert service.post(f"/api/v1/jobs/{job}/resume", json=body).status_code == 422


def test_a_row_with_a_field_of_any_name_spoils_no_other(service) -> None:
    rows = [QUESTION, {**QUESTION, "cls": 1}]
    answers = service.post("/api/v1/estimates", json={"questions": rows, "batches": False}).json()["answers"]
    assert [each["status"] for each in answers] == ["ok", "error"]
