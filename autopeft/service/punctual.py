"""Punctual: a connection on which no whole request comes in time is closed, as is one beyond the most."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import cast

from uvicorn.protocols.http.h11_impl import H11Protocol

from autopeft.service.limits import neighbourhood

HEAD_SECONDS = 20.0
"""From the connection, or a request's first byte, to the end of its headers."""


class Punctual(H11Protocol):
    """uvicorn's protocol, which itself waits for ever for the first request, and for the rest of any.

    It also counts its connections only when a whole head has come, and then answers by 503 once there are
    `limit_concurrency`: here there are fewer. One too many is cut off as soon as it is made, of the address
    that has the most: of two addresses neither can have all. One that came by TLS is made once its handshake
    is over.
    """

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request, unless there are too many connections."""
        super().connection_made(transport)
        if self.limit_concurrency and len(self.connections) >= self.limit_concurrency:
            one = self._one_too_many()
            self.connections.discard(one)
            one.transport.abort()
            if one is self:
                return
        self._expect()

    @property
    def _is_busy(self) -> bool:
        return not getattr(self.cycle, "response_complete", True)  # there is none before the first request

    def _one_too_many(self) -> Punctual:
        """Return a connection of who has the most, this one if its maker does; rather one that is idle."""
        made = [cast("Punctual", each) for each in self.connections]
        maker = {each: neighbourhood(each.client[0]) if each.client else "" for each in made}
        counts = Counter(maker.values())
        greediest, most = counts.most_common(1)[0]
        if counts[maker[self]] == most:
            return self
        theirs = [each for each in made if maker[each] == greediest]
        return min(theirs, key=lambda each: each._is_busy)

    def data_received(self, data: bytes) -> None:
        """Take bytes; those of a request that is not whole yet begin the waiting, and do not prolong it."""
        super().data_received(data)
        if self._is_busy:
            self._forget()
        else:
            self._expect()

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
