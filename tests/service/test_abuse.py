"""Abuse: what somebody may do who means harm, and what becomes of it."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import Any

import pytest
import uvicorn
from fastapi import Request
from uvicorn.server import ServerState

from autopeft.errors import StorageError, UnknownNameError
from autopeft.service import punctual, replies
from autopeft.service.desk import Desk
from autopeft.service.limits import Buckets, Places, neighbourhood
from autopeft.service.names import Names
from autopeft.service.problems import RefusedError
from autopeft.service.settings import Settings
from autopeft.service.telemetry import JsonLines, Metrics
from autopeft.service.tokens import Caller
from autopeft.service.turns import Turns
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


async def held(reader: asyncio.StreamReader) -> bool:
    """Say whether a connection is still there after a while."""
    try:
        await asyncio.wait_for(reader.read(), 0.3)
    except TimeoutError:
        return True
    except ConnectionResetError:
        return False
    return False


@asynccontextmanager
async def at_most(connections: int) -> AsyncIterator[tuple[str, int]]:
    """Have a server that says nothing and takes so many connections; yields where."""

    async def nothing(scope: object, receive: Callable[..., Awaitable[Any]], send: object) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    config = uvicorn.Config(nothing, limit_concurrency=connections + 1, log_config=None)
    config.load()
    loop, state = asyncio.get_running_loop(), ServerState()
    server = await loop.create_server(lambda: punctual.Punctual(config, state, {}), "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()


def test_connections_that_say_nothing_are_bounded_and_those_that_end_make_room() -> None:
    async def run() -> list[bool]:
        async with at_most(3) as place:
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


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have one loopback address")
@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"], ids=["idle", "in a request"])
def test_one_address_leaves_connections_to_others(said) -> None:
    async def run() -> dict[str, list[bool]]:
        found: dict[str, list[bool]] = {}
        async with at_most(6) as place:
            made = []
            for address, count in (("127.0.0.1", 8), ("127.0.0.2", 4), ("127.0.0.1", 2)):
                for _ in range(count):
                    reader, writer = await asyncio.open_connection(*place, local_addr=(address, 0))
                    writer.write(said)
                    await asyncio.sleep(0.02)
                    made.append((address, reader, writer))
            for address, reader, writer in made:
                found.setdefault(address, []).append(await held(reader))
                writer.close()
        return found

    found = asyncio.run(run())
    assert {address: sum(each) for address, each in found.items()} == {"127.0.0.1": 3, "127.0.0.2": 3}
    assert not any(found["127.0.0.1"][8:])


def test_whoever_has_a_network_of_ipv6_is_one_address() -> None:
    assert neighbourhood("2001:db8:1:2::7") == neighbourhood("2001:db8:1:2:ffff::1")
    assert neighbourhood("2001:db8:1:2::7") != neighbourhood("2001:db8:1:3::7")
    assert neighbourhood("::ffff:192.0.2.7") == neighbourhood("192.0.2.7") != neighbourhood("192.0.2.8")


def test_who_asks_for_much_does_not_have_every_thread() -> None:
    async def run() -> tuple[list[str], list[str]]:
        turns, done, gate = Turns(2, 1, "test"), [], threading.Event()

        def work(name: str) -> None:
            if name.startswith("ann"):
                gate.wait(20)
            done.append(name)

        hers = [turns.take("ann", partial(work, f"ann {number}")) for number in range(5)]
        await asyncio.gather(*(turns.take(name, partial(work, name)) for name in ("bob", "eve")))
        meanwhile = [*done]
        gate.set()
        await asyncio.gather(*hers)
        turns.close()
        return meanwhile, done

    meanwhile, done = asyncio.run(run())
    assert meanwhile == ["bob", "eve"]
    assert done[2:] == [f"ann {number}" for number in range(5)]


def test_who_asks_for_much_waits_behind_who_asks_for_little() -> None:
    """Of one thread: after a user's turn the others come, though that user asked again before them."""

    async def run() -> list[str]:
        turns, done, gate = Turns(1, 1, "test"), [], threading.Event()

        def work(name: str) -> None:
            gate.wait(20)
            done.append(name)

        asked = [turns.take("ann", partial(work, f"ann {number}")) for number in range(3)]
        asked.append(turns.take("eve", partial(work, "eve")))
        gate.set()
        await asyncio.gather(*asked)
        turns.close()
        return done

    assert asyncio.run(run()) == ["ann 0", "eve", "ann 1", "ann 2"]


def test_who_waits_for_a_turn_when_the_service_ends_is_told() -> None:
    async def run() -> bool:
        turns, gate = Turns(1, 1, "test"), threading.Event()
        first, second = (turns.take("ann", partial(gate.wait, 20)) for _ in range(2))
        await asyncio.sleep(0)
        turns.close()
        gate.set()
        await asyncio.wait([first, second], timeout=20)
        return second.cancelled()

    assert asyncio.run(run())


def test_one_users_questions_do_not_take_all_places(tmp_path) -> None:
    ann, bob = (Caller(user=name, scope="read") for name in ("ann", "bob"))

    async def run() -> tuple[list[object], bytes]:
        desk, gate = Desk(str(tmp_path), Metrics()), threading.Event()
        try:
            hers = [
                asyncio.ensure_future(desk.ask(ann, "the same", lambda _: gate.wait(20))) for _ in range(300)
            ]
            await asyncio.sleep(0)
            his = await asyncio.wait_for(desk.ask(bob, "another", lambda _: "at once"), 20)
            gate.set()
            return await asyncio.gather(*hers, return_exceptions=True), his
        finally:
            gate.set()
            desk.close()

    hers, his = asyncio.run(run())
    refused = [each for each in hers if isinstance(each, RefusedError)]
    assert his == b'"at once"'
    assert len(refused) == 100
    assert {each.status for each in refused} == {503}
    assert {each for each in hers if not isinstance(each, RefusedError)} == {b"true"}


def test_files_of_one_user_are_read_one_after_the_other(service, monkeypatch) -> None:
    uploads, at_once, most = service.office.uploads, [0], [0]
    keep = uploads.keep

    def slowly(*arguments: object) -> object:
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        try:
            return keep(*arguments)
        finally:
            at_once[0] -= 1

    monkeypatch.setattr(uploads, "keep", slowly)
    with ThreadPoolExecutor(3) as threads:
        sent = threads.map(
            lambda number: service.post("/api/v1/data?name=rows.csv", content=ROWS + b"x,good\n" * number),
            range(3),
        )
        assert [each.status_code for each in sent] == [201] * 3
    assert most == [1]


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


def test_what_is_logged_of_a_request_is_short(service, caplog) -> None:
    with caplog.at_level(logging.INFO, logger="autopeft"):
        service.get("/" + "://a:" * 1000)
    (line,) = [JsonLines().format(record) for record in caplog.records if record.name.endswith("gate")]
    assert len(line) < 1500


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


def test_a_directory_is_itself_though_the_catalogue_has_its_name(tmp_path) -> None:
    place = tmp_path / "models" / "gpt2"
    place.mkdir(parents=True)
    names = Names(Settings(workspace=tmp_path / "ws", models=(tmp_path / "models",)))
    assert names.model(str(place)) == str(place.resolve())
    assert names.model("gpt2") == "gpt2"
    with pytest.raises(RefusedError, match="in no catalogue"):
        names.model(str(tmp_path / "elsewhere" / "gpt2"))


def test_a_model_below_a_folder_of_models_has_a_name_and_nothing_beside_the_folder_has(tmp_path) -> None:
    for folder, name in (("models", "gpt2"), ("models", "mine"), ("secret", "theirs")):
        (tmp_path / folder / name).mkdir(parents=True)
        (tmp_path / folder / name / "config.json").write_text("{}")
    (tmp_path / "models" / "link").symlink_to(tmp_path / "secret" / "theirs")
    (tmp_path / "models" / "empty").mkdir()
    names = Names(Settings(workspace=tmp_path / "ws", models=(tmp_path / "models",)))
    assert list(names.own_models) == ["gpt2", "mine"]
    for name, place in names.own_models.items():
        assert names.model(name) == place == str((tmp_path / "models" / name).resolve())
    with pytest.raises(UnknownNameError, match="did you mean mine"):
        names.model("mime")
    for name in ("link", "theirs", "empty", ""):
        with pytest.raises(UnknownNameError):
            names.model(name)
    for name in ("..", "../secret/theirs"):
        with pytest.raises(RefusedError):
            names.model(name)
