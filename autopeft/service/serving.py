"""Serving: one process that listens until it is told to stop, and then lets what runs come to its end."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from autopeft.errors import InputError
from autopeft.service.app import make_service
from autopeft.service.office import Office
from autopeft.service.punctual import Punctual
from autopeft.service.settings import is_loopback

if TYPE_CHECKING:
    from autopeft.service.settings import Settings

GRACE_SECONDS = 10
"""Requests under way get so long when the service is told to stop."""
MOST_CONNECTIONS = 512
"""Connections at once, of all clients together, so that those at the door do not take the files that the
process may open: with one more, one of the address that has the most is cut off."""


def serve(settings: Settings, announce: Callable[[str], None]) -> None:
    """Listen and answer until SIGTERM or Ctrl-C.

    Args:
        announce: told the address once the service listens.

    Raises:
        InputError: the address cannot be listened on, or a certificate not be used; or others can reach it
            and nobody has a token.
        StorageError: the workspace or the database cannot be used.
    """
    _require_certificate(settings)
    with Office(settings) as office:
        if settings.is_open and not office.tokens.list():
            place = settings.host if not is_loopback(settings.host) else ", ".join(settings.names)
            raise InputError(
                f"{place} can be reached by others, so requests need tokens, and there is none: "
                "make one first with autopeft token create NAME."
            )
        listening = _listen(settings)
        settings = settings.model_copy(update={"port": listening.getsockname()[1]})
        config = uvicorn.Config(
            make_service(office),
            host=settings.host,
            port=settings.port,
            http=Punctual,
            ws="none",
            limit_concurrency=MOST_CONNECTIONS + 1,
            ssl_certfile=str(settings.cert) if settings.cert else None,
            ssl_keyfile=str(settings.key) if settings.key else None,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            date_header=True,
            timeout_graceful_shutdown=GRACE_SECONDS,
            h11_max_incomplete_event_size=64 * 1024,
        )
        office.runner.start()  # only now is it sure that this service will be
        announce(settings.url)
        with listening, _signals_kept():
            _Server(config, office).run(sockets=[listening])


def _require_certificate(settings: Settings) -> None:
    """Check that TLS has a certificate and the key of it, before anything is begun.

    Raises:
        InputError: one cannot be read, or they do not belong together.
    """
    if settings.cert is None or settings.key is None:
        return
    law = "`--tls-cert` and `--tls-key` must name a certificate and its key, as PEM without a password"
    try:
        for file in (settings.cert, settings.key):
            file.open("rb").close()
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
            settings.cert, settings.key, password=""
        )
    except ssl.SSLError as error:
        given = f"{settings.cert} and {settings.key}"
        raise InputError(f"{law}, but got {given} ({error.reason or 'unreadable'}).") from None
    except OSError as error:
        raise InputError(f"{law}, but {error.filename} cannot be read: {error.strerror}.") from None


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Keep the signal that ended the server, which raises it again at its end, from ending the process.

    What runs has to be put back into the queue first; a second signal ends that, too.
    """
    before = {sign: signal.signal(sign, _take_note) for sign in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)


def _take_note(sign: int, frame: FrameType | None) -> None:
    del frame
    logging.getLogger(__name__).info("ended by %s", signal.Signals(sign).name)


class _Server(uvicorn.Server):
    """Tells those who follow a job, at the first signal to stop, that there is no more to come."""

    def __init__(self, config: uvicorn.Config, office: Office) -> None:
        super().__init__(config)
        self._office = office

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take note of a signal."""
        self._office.ready = False
        super().handle_exit(sig, frame)


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=1024)
    except (OSError, TypeError, UnicodeError) as error:  # a name that is none is no OSError
        reason = error.strerror if isinstance(error, OSError) else str(error)
        place = f"{settings.host}:{settings.port}"
        raise InputError(f"{place} cannot be listened on: {reason}; give another --host or --port.") from None
