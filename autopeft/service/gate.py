"""Gate: what every request passes: its id, the Host it names, where it comes from, headers, log, metrics."""

from __future__ import annotations

import ipaddress
import logging
import re
import secrets
import time
from collections.abc import Collection
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders

from autopeft.service import problems

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from autopeft.service.telemetry import Metrics

_log = logging.getLogger(__name__)
_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")
_SAFE = {"GET", "HEAD", "OPTIONS"}
_METHODS = {*_SAFE, "POST", "PUT", "PATCH", "DELETE"}
_LOGGED = 300
"""Signs of a path that the log has: whoever asks decides how long it is."""
_LOCAL = {"localhost", "127.0.0.1", "::1"}
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


class Gate:
    """ASGI middleware around the whole application.

    A browser that shows another site must not act in its reader's name: a request that names a foreign
    Host (DNS rebinding), or that changes something and comes from a foreign Origin, is refused; so is one
    that a foreign page makes by itself: some answers take the service long.

    Args:
        names: hosts that the service is called by; empty takes any.
        secure: whether it is served by TLS.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics, names: Collection[str], secure: bool) -> None:
        self.app = app
        self._metrics = metrics
        self._names = {name.lower() for name in names}
        self._secure = secure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        began, status = time.perf_counter(), 500

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                answered = MutableHeaders(scope=message)
                answered["x-request-id"] = request_id
                for name, value in HEADERS.items():
                    answered.setdefault(name, value)
                answered.setdefault("cache-control", "no-store")
                if self._secure:
                    answered["strict-transport-security"] = "max-age=31536000"
            await send(message)

        try:
            reason = self._foreign(scope["method"], scope["path"], headers)
            if reason:
                refusal = problems.response(request_id, HTTPStatus.FORBIDDEN, "forbidden", reason)
                await refusal(scope, receive, send_on)
            else:
                await self.app(scope, receive, send_on)
        finally:
            self._note(scope, status, time.perf_counter() - began)

    def _foreign(self, method: str, path: str, headers: Headers) -> str:
        """Say why a request is refused; empty where it is not."""
        host = _host(headers.get("host", ""))
        if self._names and host not in self._names:
            return f"this service is not called {host[:80]!r}: name it as `autopeft serve` was told."
        elsewhere = headers.get("sec-fetch-site") in ("cross-site", "same-site")
        followed = headers.get("sec-fetch-mode") == "navigate"  # a link, which shows its reader the answer
        if elsewhere and method in _SAFE and path.startswith("/api/") and not followed:
            return "a page of another site must not ask for anything here."
        if method in _SAFE:
            return ""
        if elsewhere:
            return "a page of another site must not change anything here."
        origin = headers.get("origin")
        if origin is not None and _netloc(origin) != headers.get("host", "").lower():
            return "a page of another origin must not change anything here."
        return ""

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "none")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._metrics.requests.labels(method, route, str(status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        state = scope.get("state", {})
        client = scope.get("client")
        path = scope["path"][:_LOGGED]
        _log.info(
            "%s %s %d",
            *(scope["method"][:_LOGGED], path, status),
            extra={
                "request_id": state.get("request_id"),
                "user": state.get("user"),
                "method": scope["method"][:_LOGGED],
                "path": path,
                "status": status,
                "seconds": round(seconds, 4),
                "client": client[0] if client else None,
            },
        )


def known_names(host: str, names: Collection[str]) -> set[str]:
    """Return what a service that listens on `host` may be called; empty where anything will do.

    A service on all addresses has no name of its own, so that only a list of names can protect it.
    """
    if names:
        return {*names, *_LOCAL}
    try:
        if ipaddress.ip_address(host).is_unspecified:
            return set()
    except ValueError:
        pass
    return {host.lower(), *_LOCAL}


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def _host(header: str) -> str:
    try:
        return (urlsplit(f"//{header}").hostname or "").lower()
    except ValueError:
        return ""
