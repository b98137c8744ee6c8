"""Allowing: how long a session may take, and how much of that its search."""

from __future__ import annotations

import time
from typing import NamedTuple

from autopeft.errors import DoesNotFitError
from autopeft.request import Request
from autopeft.search.schedule import EXPORT_SECONDS, START_SECONDS, conclusion_seconds
from autopeft.search.store import StudyStore
from autopeft.units import format_seconds
from autopeft.workload.dataset import Dataset


class Allowed(NamedTuple):
    """When a search has to end, by `time.monotonic()`, and the seconds that its session takes beside it.

    Attributes:
        deadline: None where nothing limits it.
    """

    deadline: float | None
    beside: float

    @property
    def left(self) -> float | None:
        """Seconds from now to the deadline."""
        return None if self.deadline is None else self.deadline - time.monotonic()


def allow_time(
    request: Request, store: StudyStore, dataset: Dataset, began: float, *, concludes: bool
) -> Allowed:
    """Divide a session's time between its search and the rest, under the study's plan.

    Args:
        began: `time.monotonic()` at which the session was asked for.
        concludes: test scores and export are to end within the time, too.
    """
    after = conclusion_seconds(store.plan(), dataset, refit=request.refit) if concludes else 0.0
    now, total = time.monotonic(), whole_time(request, store)
    beside = now - began + after
    if total is None:
        return Allowed(None, beside)
    rest = began + total - store.load().seconds - now
    # However little time there is, half of it and more is for the search.
    most = rest / (2 if request.refit else 3)
    return Allowed(now + max(1.0, rest - min(most, after)), beside)


def require_time(seconds: float | None) -> None:
    """Check that a run has time for more than what it does beside its search.

    Raises:
        DoesNotFitError: it has not.
    """
    least = START_SECONDS + EXPORT_SECONDS
    if seconds is not None and seconds < least:
        raise DoesNotFitError(
            f"a run takes about {format_seconds(least)} beside its training, to start the processes that "
            f"train and to export, but the time is {format_seconds(seconds)}; give it more."
        )


def whole_time(request: Request, store: StudyStore) -> float | None:
    """Return the seconds that all sessions of a study may take; None where there is no limit."""
    given = request.budget.time
    return store.plan().budget.time if given is None else store.load().seconds + given
