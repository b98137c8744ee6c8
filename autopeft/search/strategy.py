"""Strategy: what a search does next, with whom; successive halving of a searcher's proposals is one."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from autopeft.search.halving import should_stop
from autopeft.search.searcher import Searcher
from autopeft.search.study import Trial
from autopeft.space.candidate import Candidate
from autopeft.train.result import Report
from autopeft.workload.dataset import Metric


class Decision(enum.Enum):
    """What becomes of a trial after an evaluation."""

    CONTINUE = "continue"
    PAUSE = "pause"
    STOP = "stop"
    COMPLETE = "complete"


@dataclass(frozen=True)
class Begin:
    """Start a candidate that was never tried."""

    candidate: Candidate


@dataclass(frozen=True)
class GoOn:
    """Train a paused trial up to its next evaluation."""

    number: int


@dataclass(frozen=True)
class Repeat:
    """Train the candidate of a complete trial once more, from another seed."""

    number: int


Move = Begin | GoOn | Repeat


class Strategy(Protocol):
    """Says what a search does next; knows only what it was told."""

    def propose(self) -> Move | None:
        """Return the next move; None when there is nothing left to do."""

    def begin_no_more(self) -> None:
        """Take note that as many candidates were begun as may be; those under way may still go on."""

    def started(self, trial: Trial) -> None:
        """Take note of the number of a trial that begins; the default's too."""

    def judge(self, trial: Trial, reports: Sequence[Report]) -> tuple[Decision, str]:
        """Decide about a running trial after a report that is not its last one, and say why."""

    def observe(self, trial: Trial, reports: Sequence[Report]) -> None:
        """Learn from a trial that is finished or rejected, also in earlier sessions, or set aside.

        One whose state is still "running" may be gone on with; a "paused" one may not in this session.
        """


class Halving:
    """Begins what a searcher proposes, and stops what is not among the best (see `halving`)."""

    def __init__(self, searcher: Searcher, reduction: int, metric: Metric) -> None:
        self._searcher = searcher
        self._reduction = reduction
        self._metric = metric
        self._reports: dict[int, Sequence[Report]] = {}
        self._paused: list[int] = []
        self._enough = False

    def propose(self) -> Move | None:
        """Go on with what an earlier session left unfinished, then begin something new."""
        if self._paused:
            return GoOn(self._paused.pop(0))
        candidate = None if self._enough else self._searcher.propose()
        return None if candidate is None else Begin(candidate)

    def begin_no_more(self) -> None:
        """Ask the searcher for no more."""
        self._enough = True

    def started(self, trial: Trial) -> None:
        """Know the trial."""
        self._reports.setdefault(trial.number, ())

    def judge(self, trial: Trial, reports: Sequence[Report]) -> tuple[Decision, str]:
        """Stop what is not among the best of all that have come as far."""
        self._reports[trial.number] = tuple(reports)
        last = reports[-1]
        others = self._scores_at(last.samples, but=trial.number)
        if last.is_finite and not should_stop(last.score, others, self._reduction, self._metric):
            return Decision.CONTINUE, ""
        if not last.is_finite:
            return Decision.STOP, "diverged"
        among = f"not among the best 1/{self._reduction} of {len(others) + 1}"
        return Decision.STOP, f"{among} after {last.samples} rows"

    def observe(self, trial: Trial, reports: Sequence[Report]) -> None:
        """Tell the searcher."""
        self._reports[trial.number] = tuple(reports)
        if trial.state == "running":
            self._paused.append(trial.number)
        elif trial.finished:
            self._searcher.observe(trial)

    def _scores_at(self, samples: int, *, but: int) -> list[float]:
        """Return the scores of all trials but one at their first evaluation from `samples` rows on."""
        scores = []
        for number, reports in self._reports.items():
            reached = [report.score for report in reports if report.samples >= samples]
            if reached and number != but:
                scores.append(reached[0])
        return scores
