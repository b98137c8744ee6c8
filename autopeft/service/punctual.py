"""Punctual: a connection on which no whole request comes in time is closed, as is one beyond the most."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 20.0
"""From the connection, or a request's first byte, to the end of its headers."""


class Punctual(H11Protocol):
    """uvicorn's protocol, which itself waits for ever for the first request, and for the rest of any.

    It also counts its connections only when a whole head has come: here those beyond `limit_concurrency` are
    cut off as soon as they are made, whoever made them. One that came by TLS is made once its handshake is
    over.
    """

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request, unless there are too many connections."""
        super().connection_made(transport)
        if self.limit_concurrency and len(self.connections) > self.limit_concurrency:
            transport.abort()
            return
        self._expect()

    def data_received(self, data: bytes) -> None:
        """Take bytes; those of a request that is not whole yet begin the waiting, and do not prolong it."""
        super().data_received(data)
        if getattr(self.cycle, "response_complete", True):  # there is none before the first request
            self._expect()
        else:
            self._forget()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._forget()
        super().connection_lost(exc)

    def _expect(self) -> None:
        if self._late is None:
            self._late = self.loop.call_later(HEAD_SECONDS, self._close)

    def _forget(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _close(self) -> None:
        self._late = None
        if not self.transport.is_closing():
            self.transport.close()
