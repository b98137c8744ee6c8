"""A service in this process, with a real database and real estimates from patterns that ship."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from autopeft.service.app import make_service
from autopeft.service.office import Office
from autopeft.service.settings import Settings

MODEL = "Llama-3.1-8B"
QUESTION: dict[str, Any] = {"model": MODEL, "method": "lora", "gpu": "l4", "batch_size": 4, "seq_len": 512}

Opened = Callable[..., TestClient]


@pytest.fixture
def open_service(tmp_path: Path) -> Iterator[Opened]:
    """Open services on a workspace of their own; each call with its own settings."""
    with ExitStack() as stack:

        def make(**settings: Any) -> TestClient:
            office = stack.enter_context(Office(Settings.build(workspace=tmp_path / "ws", **settings)))
            host = office.settings.host
            client = TestClient(
                make_service(office), base_url=f"http://{host}", raise_server_exceptions=False
            )
            client.office = office  # type: ignore[attr-defined]
            return stack.enter_context(client)

        yield make


@pytest.fixture
def service(open_service: Opened) -> TestClient:
    """A service on loopback that asks for no tokens."""
    return open_service(rate=0)


@pytest.fixture
def guarded(open_service: Opened) -> TestClient:
    """A service that asks for tokens."""
    return open_service(tokens=True, rate=0)


@pytest.fixture
def bearer(guarded: TestClient) -> Callable[..., dict[str, str]]:
    """Make a token of a user, as headers."""

    def make(user: str, scope: str = "submit", **rest: Any) -> dict[str, str]:
        _, text = guarded.office.tokens.create(user, scope, **rest)
        return {"authorization": f"Bearer {text}"}

    return make
