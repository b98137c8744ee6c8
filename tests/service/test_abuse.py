"""Abuse: what somebody may do who means harm, and what becomes of it."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
import uvicorn
from fastapi import Request
from uvicorn.server import ServerState

from autopeft.errors import StorageError
from autopeft.service import punctual, replies
from autopeft.service.limits import Buckets, Places
from autopeft.service.problems import RefusedError
from autopeft.service.telemetry import JsonLines
from tests.service.conftest import QUESTION
from tests.service.test_training import ROWS

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bytes]]


def talk(how: Talk) -> bytes:
    """Connect to a server that says "ok" to whole requests, and return what was read to the end."""

    async def ok(scope: object, receive: object, send: Callable[..., Awaitable[None]]) -> None:
        del scope, receive
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def run() -> bytes:
        config = uvicorn.Config(ok, timeout_keep_alive=30, log_config=None)
        config.load()
        loop, state = asyncio.get_running_loop(), ServerState()
        server = await loop.create_server(lambda: punctual.Punctual(config, state, {}), "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            try:
                return await asyncio.wait_for(how(reader, writer), 20)
            finally:
                writer.close()

    return asyncio.run(run())


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n"])
def test_a_connection_without_a_whole_request_is_closed(monkeypatch, begun) -> None:
    monkeypatch.setattr(punctual, "HEAD_SECONDS", 0.3)

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(begun)
        return await reader.read()

    assert talk(wait) == b""


def test_a_byte_now_and_then_prolongs_nothing_also_after_a_request(monkeypatch) -> None:
    monkeypatch.setattr(punctual, "HEAD_SECONDS", 0.5)

    async def dribble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = await reader.readuntil(b"ok")
        closed = asyncio.ensure_future(reader.read())
        while not closed.done():
            writer.write(b"G")
            await asyncio.sleep(0.05)
        return answer

    assert talk(dribble).startswith(b"HTTP/1.1 200")


def test_connections_that_say_nothing_are_bounded_and_those_that_end_make_room() -> None:
    async def nothing(scope: object, receive: object, send: object) -> None:
        del scope, receive, send

    async def run() -> list[bool]:
        config = uvicorn.Config(nothing, limit_concurrency=3, log_config=None)
        config.load()
        loop, state = asyncio.get_running_loop(), ServerState()
        server = await loop.create_server(lambda: punctual.Punctual(config, state, {}), "127.0.0.1", 0)
        place = server.sockets[0].getsockname()

        async def held(reader: asyncio.StreamReader) -> bool:
            try:
                await asyncio.wait_for(reader.read(), 0.3)
            except TimeoutError:
                return True
            except ConnectionResetError:
                return False
            return False

        async with server:
            made = [await asyncio.open_connection(*place) for _ in range(5)]
            found = [await held(reader) for reader, _ in made]
            made[0][1].close()
            await made[0][1].wait_closed()
            await asyncio.sleep(0.2)
            made.append(await asyncio.open_connection(*place))
            found.append(await held(made[-1][0]))
            for _, writer in made:
                writer.close()
        return found

    assert asyncio.run(run()) == [True, True, True, False, False, True]


def test_a_body_that_does_not_come_is_given_up(monkeypatch) -> None:
    sent = [{"type": "http.request", "body": b"{", "more_body": True}]

    async def receive() -> dict[str, object]:
        return sent.pop() if sent else await asyncio.sleep(60, {})

    monkeypatch.setattr(replies, "BODY_SECONDS", 0.05)
    request = Request({"type": "http", "method": "POST", "headers": []}, receive)
    with pytest.raises(RefusedError, match="must have come") as refused:
        asyncio.run(replies.read_body(request, 100))
    assert (refused.value.status, refused.value.headers) == (408, {"Connection": "close"})


def test_a_body_that_is_cut_off_is_no_bug_of_the_service(service, caplog) -> None:
    sent: list[dict[str, object]] = []

    async def receive() -> dict[str, object]:
        return {"type": "http.disconnect"}

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
    scope = {
        "type": "http", "http_version": "1.1", "method": "POST", "path": "/api/v1/estimate",
        "raw_path": b"/api/v1/estimate", "query_string": b"", "headers": headers, "scheme": "http",
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
    }  # fmt: skip
    with caplog.at_level(logging.ERROR, logger="autopeft"):
        asyncio.run(service.app(scope, receive, send))
    assert sent[0]["status"] == 400
    assert caplog.records == []


def test_one_user_follows_so_many_jobs_at_once_and_leaves_room_for_others(guarded, bearer) -> None:
    office = guarded.office
    ann, root = bearer("ann"), bearer("root", "admin")
    job = guarded.post("/api/v1/jobs", json={"demo": "classification"}, headers=ann).json()["id"]
    guarded.post(f"/api/v1/jobs/{job}/stop", headers=ann)
    with ExitStack() as stack:
        while office.followers.free("ann"):
            stack.enter_context(office.followers.one("ann"))
        refused = guarded.get(f"/api/v1/jobs/{job}/events", headers=ann)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "10")
        assert guarded.get(f"/api/v1/jobs/{job}/events", headers=root).status_code == 200
    assert guarded.get(f"/api/v1/jobs/{job}/events", headers=ann).status_code == 200
    assert office.followers.free("ann")


def test_places_are_given_back_and_bounded_for_all_together() -> None:
    places = Places(2, 3)
    with places.one("ann") as first, places.one("ann") as second, places.one("ann") as third:
        assert (first, second, third) == (True, True, False)
        with places.one("bob") as his, places.one("eve") as hers:
            assert (his, hers) == (True, False)
    assert places.free("ann")
    assert places.free("eve")


def test_one_user_sends_so_many_files_at_once(service) -> None:
    coming = service.office.uploads._coming
    with ExitStack() as stack:
        while coming.free("local"):
            stack.enter_context(coming.one("local"))
        assert service.post("/api/v1/data?name=rows.csv", content=ROWS).status_code == 429
        assert coming.free("ann")


def test_a_burst_from_many_threads_at_once_gets_no_more_than_the_burst() -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        buckets = Buckets(rate=1e-9, burst=500, clock=lambda: 0.0)
        with ThreadPoolExecutor(8) as threads:
            waits = list(threads.map(lambda _: buckets.wait("ann"), range(4000)))
    finally:
        sys.setswitchinterval(before)
    assert waits.count(0.0) == 500


def test_what_is_logged_moves_no_terminal_and_breaks_no_line() -> None:
    path = "/a\n{}\x1b[2J\x9b31m\u2028\x85\ud800"
    record = logging.makeLogRecord({"msg": "GET %s", "args": (path,), "path": path})
    line = JsonLines().format(record)
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line)["path"] == path


def test_no_name_tells_which_files_the_service_lies_beside(service, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secretplan").write_text("x")
    there, not_there = (
        service.post("/api/v1/estimate", json=QUESTION | {"model": name}).json()
        for name in ("secretplan", "secretplam")
    )
    assert there["detail"] == not_there["detail"].replace("secretplam", "secretplan")
    assert there["type"] == not_there["type"]


@pytest.mark.parametrize("field", ["gpu", "method", "rank", "targets"])
def test_what_is_wrong_is_not_sent_back_whole(service, field) -> None:
    reply = service.post("/api/v1/estimate", json=QUESTION | {field: "l4 " * 200_000})
    assert reply.status_code == 422
    assert len(reply.content) < 3000


def test_a_page_of_another_site_asks_for_nothing_by_itself(service) -> None:
    foreign = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
    assert service.get("/api/v1/gpus/l4", headers=foreign).status_code == 403
    assert service.get("/api/v1/gpus/l4", headers=foreign | {"sec-fetch-mode": "navigate"}).status_code == 200
    assert service.get("/healthz", headers=foreign).status_code == 200
    own = {"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}
    assert service.get("/api/v1/gpus/l4", headers=own).status_code == 200


def test_who_asks_whether_it_is_ready_is_not_told_where_the_database_is(guarded, monkeypatch) -> None:
    def fails() -> None:
        raise StorageError("the database postgresql://me:***@db.internal/x cannot be used: refused")

    monkeypatch.setattr(guarded.office.database, "check", fails)
    reply = guarded.get("/readyz")
    assert reply.status_code == 503
    assert "db.internal" not in reply.text
