"""Who may: tokens and scopes, other sites, rates, what the log shows."""

from __future__ import annotations

import io
import json
import logging
import sqlite3
from datetime import UTC, datetime

import pytest
from rich.console import Console

from autopeft.cli.token import _table
from autopeft.errors import InputError
from autopeft.service.gate import CSP
from autopeft.service.telemetry import JsonLines, without_secrets
from tests.service.conftest import QUESTION


def test_loopback_asks_for_no_token(service) -> None:
    assert service.get("/api/v1/models").status_code == 200


def test_any_other_address_asks_for_one(open_service) -> None:
    service = open_service(host="192.0.2.1")
    reply = service.get("/api/v1/models")
    assert reply.status_code == 401
    assert reply.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/api/v1/models", "/api/v1/audit", "/metrics"])
def test_without_a_good_token_nothing_is_shown(guarded, bearer, path) -> None:
    good = bearer("ann", "admin")["authorization"]
    for given in (
        None,
        "Bearer x",
        "Bearer ",
        f"Basic {good[7:]}",
        good[:-1],
        good[:-1] + "é".encode().decode("latin-1"),
    ):
        headers = {} if given is None else {"authorization": given.encode("latin-1")}
        assert guarded.get(path, headers=headers).status_code == 401, given
    assert guarded.get(path, headers={"authorization": good}).status_code == 200


def test_health_needs_no_token(guarded) -> None:
    assert guarded.get("/healthz").json() == {"status": "ok"}
    assert guarded.get("/readyz").json() == {"status": "ok"}


def test_a_scope_grants_what_is_below_it_only(guarded, bearer) -> None:
    tokens = {scope: bearer("ann", scope) for scope in ("read", "submit", "admin")}
    assert {s: guarded.get("/api/v1/models", headers=t).status_code for s, t in tokens.items()} == {
        "read": 200, "submit": 200, "admin": 200,
    }  # fmt: skip
    assert {s: guarded.get("/api/v1/audit", headers=t).status_code for s, t in tokens.items()} == {
        "read": 403, "submit": 403, "admin": 200,
    }  # fmt: skip


def test_a_revoked_and_an_expired_token_are_good_for_nothing(guarded, bearer) -> None:
    expired = bearer("ann", "read", seconds=0)
    revoked = bearer("bob", "read")
    guarded.office.tokens.revoke(next(one.id for one in guarded.office.tokens.list() if one.user == "bob"))
    assert [guarded.get("/api/v1/models", headers=one).status_code for one in (expired, revoked)] == [
        401,
        401,
    ]


def test_only_a_digest_of_a_token_is_kept(guarded, bearer, tmp_path) -> None:
    secret = bearer("ann")["authorization"].split("_", 2)[2]  # which may hold underscores itself
    with sqlite3.connect(tmp_path / "ws" / "service.db") as connection:
        kept = "\n".join(connection.iterdump())
    assert "ann" in kept
    assert secret not in kept


def test_guessing_tokens_is_slowed_down(guarded) -> None:
    wrong = {"authorization": f"Bearer autopeft_{'0' * 12}_{'x' * 43}"}
    replies = [guarded.get("/api/v1/models", headers=wrong) for _ in range(12)]
    assert [one.status_code for one in replies][:10] == [401] * 10
    assert replies[-1].status_code == 429
    assert int(replies[-1].headers["retry-after"]) > 0


def test_bad_tokens_of_an_address_do_not_lock_out_good_ones(guarded, bearer) -> None:
    wrong = {"authorization": f"Bearer autopeft_{'0' * 12}_{'x' * 43}"}
    assert {guarded.get("/api/v1/gpus/l4", headers=wrong).status_code for _ in range(12)} == {401, 429}
    assert guarded.get("/api/v1/gpus/l4", headers=bearer("ann")).status_code == 200


def test_methods_that_nobody_knows_are_counted_together(service) -> None:
    for number in range(3):
        service.request(f"BREW{number}", "/healthz")
    counted = service.get("/metrics").text
    assert "BREW" not in counted
    assert 'method="other"' in counted


def test_one_user_has_a_rate_and_takes_nothing_of_anothers(open_service) -> None:
    service = open_service(tokens=True, rate=0.01, burst=3)
    one, other = (
        {"authorization": f"Bearer {service.office.tokens.create(user, 'read')[1]}"}
        for user in ("ann", "bob")
    )
    assert [service.get("/api/v1/gpus/l4", headers=one).status_code for _ in range(4)] == [200, 200, 200, 429]
    assert service.get("/api/v1/gpus/l4", headers=other).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://["},
        {"origin": "http://127.0.0.1:9999"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_a_page_of_another_site_changes_nothing(service, headers) -> None:
    assert service.post("/api/v1/estimate", json=QUESTION, headers=headers).status_code == 403


def test_the_services_own_page_may(service) -> None:
    headers = {"origin": "http://127.0.0.1", "sec-fetch-site": "same-origin"}
    assert service.post("/api/v1/estimate", json=QUESTION, headers=headers).status_code == 200


def test_a_foreign_name_that_leads_here_is_refused(service) -> None:
    assert service.get("/api/v1/models", headers={"host": "evil.example"}).status_code == 403
    assert service.get("/api/v1/models", headers={"host": "localhost:8321"}).status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/nothing", "/api/v1/models"])
def test_every_answer_has_the_headers_of_a_careful_service(service, path) -> None:
    headers = service.get(path).headers
    assert headers["content-security-policy"] == CSP
    assert "unsafe" not in CSP
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"
    assert "server" not in headers


def test_a_request_keeps_its_id_unless_it_is_no_id(service) -> None:
    assert (
        service.get("/healthz", headers={"x-request-id": "abcdef123456"}).headers["x-request-id"]
        == "abcdef123456"
    )
    assert service.get("/healthz", headers={"x-request-id": "a b<script>"}).headers["x-request-id"].isalnum()


@pytest.mark.parametrize(
    "body",
    [
        {"model": "/etc/passwd"},
        {"model": "./config.json"},
        {"model": "../../secret"},
        {"model": "someone/unknown-model-xyz"},
        {"gpu": "/etc/evil.yaml"},
        {"gpu": "../ours.yaml"},
        {"knobs": {"init": "/tmp/x.pt"}},
        {"knobs": {"nested": [{"deep": "..\\x"}]}},
        {"knobs": {"weights": "evil.pkl"}},
    ],
)
def test_no_file_and_no_foreign_model_can_be_named(service, body) -> None:
    assert service.post("/api/v1/estimate", json=QUESTION | body).status_code in (403, 422)
    rows = {"questions": [QUESTION | body]}
    assert service.post("/api/v1/estimates", json=rows).json()["answers"][0]["status"] == "error"


@pytest.mark.parametrize("field", ["workspace", "storage", "mlflow", "address", "study", "resume"])
def test_where_things_lie_is_not_a_clients_to_say(service, field) -> None:
    reply = service.post("/api/v1/plan", json={"model": "gpt2", "gpu": "l4", field: "x"})
    assert reply.status_code == 422
    assert field in reply.json()["detail"]


def test_a_search_space_must_be_one_of_the_list(service, tmp_path) -> None:
    (tmp_path / "mine.yaml").write_text("domains: {method: [lora]}")
    reply = service.post(
        "/api/v1/plan", json={"model": "gpt2", "gpu": "l4", "space": str(tmp_path / "mine.yaml")}
    )
    assert reply.status_code == 422


def test_a_directory_of_models_may_be_named_where_the_service_was_told_so(
    open_service, encoder_with_weights, tmp_path
) -> None:
    place = encoder_with_weights.path
    closed, opened = open_service(rate=0), open_service(rate=0, models=(place,))
    question = {"model": place, "gpu_mem": "16GB", "seq_len": 32}
    assert closed.post("/api/v1/estimate", json=question).status_code == 403
    assert opened.post("/api/v1/estimate", json=question | {"model": f"{place}/../../x"}).status_code == 403
    assert opened.get(f"/api/v1/models/{place.replace('/', '%2F')}").status_code in (404, 422)


def test_the_log_has_a_line_of_json_for_each_request_and_no_secret(guarded, bearer) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger("autopeft")
    logger.addHandler(handler)
    before = logger.level
    logger.setLevel(logging.INFO)
    try:
        headers = bearer("ann", "admin")
        guarded.get("/api/v1/models?q=secret", headers=headers | {"x-request-id": "request-0001"})
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    (mine,) = [line for line in lines if line.get("request_id") == "request-0001"]
    assert (mine["user"], mine["status"], mine["path"]) == ("ann", 200, "/api/v1/models")
    assert headers["authorization"].rpartition("_")[2] not in stream.getvalue()
    assert "secret" not in stream.getvalue()


def test_secrets_are_taken_out_of_what_is_logged() -> None:
    token = f"autopeft_{'a' * 12}_{'s' * 43}"
    text = without_secrets(f"Bearer {token}; postgresql+psycopg://me:hunter2@db/x failed; {token}")
    assert "s" * 10 not in text
    assert "hunter2" not in text
    assert "postgresql+psycopg://me:***@db/x" in text
    assert without_secrets("mysql://me:hun/ter2@db/x") == "mysql://me:***@db/x"


def test_what_changes_something_stands_in_the_audit_log(guarded, bearer) -> None:
    admin = bearer("root", "admin")
    profile = guarded.get("/api/v1/gpus/l4", headers=admin).json() | {"name": "ours"}
    guarded.put("/api/v1/gpus/ours", json=profile, headers=admin | {"x-request-id": "request-0002"})
    (line,) = guarded.get("/api/v1/audit", headers=admin).json()
    assert (line["user"], line["action"], line["what"]) == ("root", "put-gpu", "ours")
    assert line["request_id"] == "request-0002"


def test_a_token_is_listed_however_long_it_is_good_for(guarded) -> None:
    tokens = guarded.office.tokens
    with pytest.raises(InputError, match="after 36,500d at most, but got 100,000,000d"):
        tokens.create("ann", "read", seconds=1e8 * 86400)
    long, _ = tokens.create("ann", "read", seconds=36_500 * 86400)
    kept = long.model_copy(update={"expires": 1e300})  # as an earlier version took it
    console = Console(file=io.StringIO(), width=200)
    console.print(_table((long, kept)))
    first, second = console.file.getvalue().splitlines()[-2:]
    assert f"{datetime.fromtimestamp(long.expires, UTC):%Y-%m-%d}" in first
    assert "no end" in second
