"""Connection: requests to a service, and what became of them.

A service that is restarted is away for a while. What may be asked again is; what may not says that nobody
knows what became of it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import IO, Any

from autopeft.errors import (
    AutopeftError,
    ConfigError,
    DataError,
    DoesNotFitError,
    InputError,
    ServiceError,
    StorageError,
    UnsupportedError,
)

AWAY_SECONDS = 300.0
"""A service that cannot be reached for so long is given up by who waits for it."""
_LONGEST_PAUSE = 15.0
_PART = 1 << 20


class UnreachableError(ServiceError):
    """The connection failed, so that nobody knows what became of the request."""


class NotThereError(ServiceError):
    """The service has no such thing, for who asks."""


_ERRORS: dict[str, type[AutopeftError]] = {
    "unknown-name": InputError,
    "input": InputError,
    "config": ConfigError,
    "data": DataError,
    "unsupported": UnsupportedError,
    "does-not-fit": DoesNotFitError,
    "storage": StorageError,
    "not-found": NotThereError,
}


class Connection:
    """Who asks a service, and how.

    Args:
        url: where it is.   token: who asks; None takes `AUTOPEFT_TOKEN`, and nothing where that is not set.
        seconds: how long to wait for an answer.
        context: of TLS, for certificates of your own.
    """

    def __init__(self, url: str, token: str | None, seconds: float, context: ssl.SSLContext | None) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise InputError(f"a service's address must begin with http:// or https://, but got {url!r}.")
        self._url = url.rstrip("/")
        self._token = token or os.environ.get("AUTOPEFT_TOKEN")
        self._seconds = seconds
        self._opener = urllib.request.build_opener(
            urllib.request.HTTPSHandler(context=context), _NoRedirects()
        )

    def get(self, path: str) -> bytes:
        """Ask for something once."""
        return self._call("GET", path, None, {})

    def save(self, path: str, place: IO[bytes]) -> None:
        """Ask for something large once, and write it as it comes.

        Raises:
            StorageError: it cannot be written here.
        """
        with self._answered("GET", path, None, {}) as answer:
            while part := answer.read(_PART):
                try:
                    place.write(part)
                except OSError as error:
                    raise StorageError(f"what came cannot be written: {error.strerror}.") from None

    def get_patiently(self, path: str) -> bytes:
        """Ask for something until the service can be reached, for `AWAY_SECONDS` at most."""
        deadline, pause = time.monotonic() + AWAY_SECONDS, 1.0
        while time.monotonic() + pause < deadline:
            with contextlib.suppress(UnreachableError):
                return self.get(path)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        return self.get(path)

    def post(self, path: str, body: dict[str, Any] | bytes = b"") -> bytes:
        """Send something once: an object as JSON, or bytes as they are."""
        return self._call("POST", path, *_sent(body))

    def put(self, path: str, body: dict[str, Any]) -> bytes:
        """Have something be as it is sent."""
        return self._call("PUT", path, *_sent(body))

    def delete(self, path: str) -> None:
        """Have something removed."""
        self._call("DELETE", path, None, {})

    def post_with_key(self, path: str, body: dict[str, Any] | None, key: str) -> bytes:
        """Send something, and once more if the connection failed: the idempotency key keeps it single."""
        content, headers = _sent(b"" if body is None else body)
        headers["idempotency-key"] = key
        with contextlib.suppress(UnreachableError):
            return self._call("POST", path, content, headers)
        time.sleep(1.0)
        return self._call("POST", path, content, headers)

    def events(self, path: str, after: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """Follow the numbered events after `after`, until the service or the connection ends them."""
        number = 0
        try:
            with self._open("GET", path, None, {"last-event-id": str(after)}) as stream:
                for line in stream:
                    name, _, value = line.decode().rstrip("\n").partition(": ")
                    if name == "id":
                        number = int(value)
                    elif name == "data":
                        yield number, json.loads(value)
        except (OSError, http.client.HTTPException):
            return

    def _call(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> bytes:
        with self._answered(method, path, body, headers) as answer:
            return bytes(answer.read())

    @contextlib.contextmanager
    def _answered(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> Iterator[IO[bytes]]:
        """Have an answer, to be read.

        Raises:
            AutopeftError: the service refuses, by the error that it means.
            UnreachableError: the connection failed.
        """
        try:
            with self._open(method, path, body, headers) as answer:
                yield answer
        except urllib.error.HTTPError as error:
            raise _error(error.read(), error.code) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise UnreachableError(f"{self._url} cannot be reached: {reason}.") from None

    def _open(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Any:
        sent = {"accept": "*/*", **headers}
        if self._token:
            sent["authorization"] = f"Bearer {self._token}"
        request = urllib.request.Request(  # noqa: S310 - only http and https get past __init__
            f"{self._url}/api/v1/{path}", data=body, headers=sent, method=method
        )
        return self._opener.open(request, timeout=self._seconds)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows nothing: the token is for one service, and not for where that might point to."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Return no other request."""
        return


def _sent(body: dict[str, Any] | bytes) -> tuple[bytes, dict[str, str]]:
    """Return a body's bytes and what kind they are."""
    if isinstance(body, bytes):
        return body, {"content-type": "application/octet-stream"} if body else {}
    return json.dumps(body).encode(), {"content-type": "application/json"}


def _error(content: bytes, status: int) -> AutopeftError:
    try:
        problem = json.loads(content)
        kind, detail = str(problem["type"]).rpartition(":")[2], str(problem["detail"])
    except (ValueError, KeyError, TypeError):
        return ServiceError(f"the service answered {status} without saying why.")
    return _ERRORS.get(kind, ServiceError)(detail)
