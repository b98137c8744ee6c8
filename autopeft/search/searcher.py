"""Searcher: proposes candidates. TrialRun: trains one, a piece at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from autopeft.search.study import Trial
from autopeft.space.candidate import Candidate
from autopeft.train.result import Report


class Searcher(Protocol):
    """Proposes candidates of a space; knows only what it was told."""

    def propose(self) -> Candidate | None:
        """Return the next candidate; None when the space is exhausted."""

    def observe(self, trial: Trial) -> None:
        """Learn from a finished trial, rejected ones included (also from earlier sessions)."""


class TrialRun(Protocol):
    """One candidate being trained."""

    def advance(self, samples: int) -> Report:
        """Train until `samples` rows in all have been seen, then evaluate."""

    def save(self, folder: Path) -> None:
        """Write all that `restore` needs to go on, and the adapter, into `folder`."""

    def restore(self, folder: Path) -> None:
        """Go on from what `save` wrote."""


class RunFactory(Protocol):
    """Makes the run of a candidate in a worker process; is pickled once per study."""

    def __call__(self, candidate: Candidate, seed: int) -> TrialRun:
        """Load the base model, adapt it and prepare its data."""
