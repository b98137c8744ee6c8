"""A connection waits for a service that is away for a while, and submits nothing twice."""

from __future__ import annotations

import io
import json
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import autopeft as ap
from autopeft import connection
from autopeft.errors import BundleError, ConfigError, ServiceError


class Flaky(ThreadingHTTPServer):
    """A service that hangs up on the first requests without an answer."""

    hang_ups = 2
    content = json.dumps({"id": "j1", "state": "done"}).encode()

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seen: list[tuple[str, str, str | None]] = []

    @property
    def client(self) -> ap.Client:
        return ap.Client(f"http://127.0.0.1:{self.server_address[1]}")


class _Handler(BaseHTTPRequestHandler):
    server: Flaky

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.answer()

    def answer(self) -> None:
        server = self.server
        server.seen.append((self.command, self.path, self.headers.get("idempotency-key")))
        if len(server.seen) <= server.hang_ups:
            self.close_connection = True
            return
        content = server.content
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def service(monkeypatch) -> Iterator[Flaky]:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(connection.time, "sleep", lambda _: None)
    with Flaky() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_waiting_outlives_a_service_that_is_away(service) -> None:
    service.client.wait("j1")
    assert [path for _, path, _ in service.seen].count("/api/v1/jobs/j1") >= 2


def test_it_gives_up_in_the_end(service, monkeypatch) -> None:
    monkeypatch.setattr(connection, "AWAY_SECONDS", 0.0)
    with pytest.raises(ServiceError, match="cannot be reached"):
        service.client.wait("j1")


def test_it_submits_once_more_with_the_same_key(service) -> None:
    service.hang_ups = 1
    assert service.client.submit(demo="classification") == "j1"
    keys = {key for _, _, key in service.seen}
    assert len(service.seen) == 2
    assert len(keys) == 1
    assert None not in keys


def test_it_submits_no_third_time(service) -> None:
    with pytest.raises(ServiceError, match="cannot be reached"):
        service.client.submit(demo="classification")
    assert len(service.seen) == 2


def test_a_bundle_that_came_broken_leaves_the_old_one(service, tmp_path: Path) -> None:
    service.hang_ups = 0
    service.content = _zipped({"autopeft.json": "{}", "adapter_config.json": "{}"})
    old = tmp_path / "bundle"
    old.mkdir()
    (old / "autopeft.json").write_text("an older one")
    with pytest.raises(ConfigError):
        service.client.export("demo", out=str(old), force=True)
    assert [each.name for each in tmp_path.iterdir()] == ["bundle"]
    assert [(each.name, each.read_text()) for each in old.iterdir()] == [("autopeft.json", "an older one")]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no zip", "did not come whole"),
        (lambda: _zipped({"../../evil": "x"}), "outside of it"),
        (lambda: _zipped({"weights.safetensors": "0" * 10**6}, zipfile.ZIP_DEFLATED), "is compressed"),
    ],
    ids=["none", "outside", "a bomb"],
)
def test_a_bundle_that_means_harm_is_not_unpacked(service, tmp_path: Path, content, words) -> None:
    service.hang_ups = 0
    service.content = content if isinstance(content, bytes) else content()
    with pytest.raises(BundleError, match=words):
        service.client.export("demo", out=str(tmp_path / "inner" / "bundle"))
    assert list(tmp_path.rglob("*")) == [tmp_path / "inner"]


def _zipped(files: dict[str, str], how: int = zipfile.ZIP_STORED) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", how) as archive:
        for name, text in files.items():
            archive.writestr(f"demo/{name}", text)
    return held.getvalue()
