"""Sessions: how long a session of a study took as a whole, beside what it was allowed."""

from __future__ import annotations

import time
from collections.abc import Callable

from autopeft.journey.keeping import load
from autopeft.journey.stages import Stages
from autopeft.journey.workspace import existing_study, open_store
from autopeft.report.facts import Session
from autopeft.request import Request
from autopeft.search.study import Study

BETWEEN = "start and between"
"""The stage of what is in no other: what is loaded and imported, opened and closed."""


class SessionClock:
    """Measures a session from when it was asked for."""

    def __init__(
        self, request: Request, began: float | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin a session; what a study that goes on has searched before is not this session's.

        Args:
            began: `now()` at which it was asked for; None is now.
            now: seconds that only grow.

        Raises:
            UnknownNameError: the study to go on with does not exist.
        """
        self._now, self._began = now, now() if began is None else began
        self._request = request
        self._searched_before = self._staged_before = 0.0
        if request.resume:
            self._searched_before = load(request).seconds
            self._staged_before = Stages(existing_study(request.workspace, request.study).stages).total

    def beside_search(self, study: Study) -> float:
        """Return how many seconds the session has taken so far for other things than its search."""
        return max(0.0, self._now() - self._began - (study.seconds - self._searched_before))

    def keep(self, study: Study, *, concluded: bool) -> None:
        """Write into the study's folder what the session took so far, and what it was allowed.

        What of it is in no stage becomes one.

        Args:
            concluded: whether test scores and export are part of it.
        """
        folder = existing_study(self._request.workspace, study.name)
        store = open_store(folder, self._request.storage)
        try:
            limit = store.plan().budget.time
        finally:
            store.close()
        took, stages = self._now() - self._began, Stages(folder.stages)
        stages.add(BETWEEN, max(0.0, took - (stages.total - self._staged_before)))
        Session(
            seconds=took,
            allowed_seconds=None if limit is None else max(0.0, limit - self._searched_before),
            search_seconds=max(0.0, study.seconds - self._searched_before),
            study_seconds=study.seconds,
            concluded=concluded,
        ).keep(folder.session)
