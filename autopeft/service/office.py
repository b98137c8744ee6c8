"""Office: what the routes of one service process work with."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Self

from autopeft.files import make_folder
from autopeft.service.database import Database
from autopeft.service.desk import Desk
from autopeft.service.jobs import Jobs
from autopeft.service.limits import Buckets, Places
from autopeft.service.names import Names
from autopeft.service.runner import Runner
from autopeft.service.settings import Settings
from autopeft.service.telemetry import Metrics
from autopeft.service.tokens import Caller, Tokens
from autopeft.service.turns import Turns
from autopeft.service.uploads import Uploads

_log = logging.getLogger("autopeft.service.audit")
_FAILURES_A_SECOND, _FAILURES = 1 / 6, 10
"""Bad tokens from one address: ten at once, then ten a minute."""


_FOLLOWED, _FOLLOWED_BY_ALL = 20, 100
"""Jobs that one user, and all of them, follow at once: each asks the database twice a second."""
_READINGS, _READINGS_OF_ONE = 2, 1
"""Uploads that are read at once, of all users and of one; they take no threads from other requests."""


class Office:
    """Everything a route needs, made once.

    Raises:
        StorageError: the workspace or the database cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        make_folder(settings.workspace)
        self.metrics = Metrics()
        self.database = Database(settings.place)
        self.tokens = Tokens(self.database)
        self.names = Names(settings)
        self.uploads = Uploads(settings)
        self.rate = Buckets(settings.rate, settings.burst)
        self.failures = Buckets(_FAILURES_A_SECOND, _FAILURES)
        self.followers = Places(_FOLLOWED, _FOLLOWED_BY_ALL)
        self.readings = Turns(_READINGS, _READINGS_OF_ONE, "reading")
        self.desk = Desk(str(settings.workspace), self.metrics)
        self.jobs = Jobs(self.database, quota=settings.quota, lease_seconds=settings.lease_seconds)
        self.runner = Runner(self.jobs, self.uploads, settings, self.metrics)
        self.ready = True

    def __enter__(self) -> Self:
        """Return the office; `runner.start` lets it take jobs."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close everything."""
        self.ready = False
        self.runner.close()
        self.desk.close()
        self.readings.close()
        self.database.close()

    def note(self, who: Caller, action: str, what: str, request_id: str) -> None:
        """Write into the audit log, and into the process's own log, who did what."""
        self.database.note(who.user, action, what, request_id)
        _log.info("%s %s", action, what, extra={"user": who.user, "request_id": request_id})
