"""Search: which trial runs next and which goes on; the same decisions whoever executes them."""

from __future__ import annotations

import enum
import math
import time
from collections.abc import Callable, Sequence

from autopeft.plan.plan import Plan, Rejected, Verdict
from autopeft.search.halving import Rungs, should_stop
from autopeft.search.observer import Observer
from autopeft.search.searcher import Searcher
from autopeft.search.store import StudyStore
from autopeft.search.study import Role, Study, Trial, TrialState
from autopeft.space.candidate import Candidate
from autopeft.train.result import Report, TrialResult
from autopeft.workload.dataset import Metric

MOST_REJECTED_IN_A_ROW = 50
MOST_REPEATED_IN_A_ROW = 50
MOST_FAILED_IN_A_ROW = 5


class Decision(enum.Enum):
    """What becomes of a trial after an evaluation."""

    CONTINUE = "continue"
    STOP = "stop"
    COMPLETE = "complete"


class Search:
    """The state of one search; every change is in the store before anyone hears of it.

    First come the trials that a crash cut off, then the baseline, then what the searcher proposes
    and `admit` lets pass. The baseline is never stopped early, so a study always has one
    completely trained trial, whatever the deadline.

    Args:
        store: where the study is; trials found there are learnt from and not repeated.
        admit: the budget's verdict on a candidate; what it rejects never starts.
        baseline: the default everyone copies; None leaves it out.
        max_trials: candidates to start over all sessions, the baseline not counted.
        deadline: `clock()` at which no trial starts any more and running ones are stopped at
            their next evaluation.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        store: StudyStore,
        searcher: Searcher,
        admit: Callable[[Candidate], Verdict],
        rungs: Rungs,
        metric: Metric,
        observers: Sequence[Observer] = (),
        *,
        baseline: Candidate | None = None,
        max_trials: int | None = None,
        deadline: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._searcher = searcher
        self._admit = admit
        self._rungs = rungs
        self._metric = metric
        self._observers = tuple(observers)
        self._baseline = baseline
        self._max_trials = max_trials
        self._deadline = math.inf if deadline is None else deadline
        self._clock = clock
        self._counted_to = clock()
        self._trials: dict[int, Trial] = {}
        self._reports: dict[int, list[Report]] = {}
        self._cut_off: list[int] = []
        self._ended = ""
        self._failed_in_a_row = 0
        self._last_failure = ""
        self._take_up(store.load())

    @property
    def ended(self) -> str:
        """Why no further trial starts; empty while there may be one."""
        return self._ended

    @property
    def rungs(self) -> Rungs:
        """When trials are evaluated."""
        return self._rungs

    def start(self, plan: Plan, expected_trials: int, expected_seconds: float) -> None:
        """Tell the observers that the search begins or goes on."""
        study = self._store.load()
        for observer in self._observers:
            observer.study_started(study, plan, expected_trials, expected_seconds)

    def finish(self) -> Study:
        """Tell the observers that the search is over, and return the study."""
        self._count_seconds()
        study = self._store.load()
        for observer in self._observers:
            observer.study_finished(study)
        return study

    def next_trial(self) -> Trial | None:
        """Return the trial to start, or to go on with where a crash cut it off; None ends the search."""
        while self._cut_off:
            trial = self._trials[self._cut_off.pop(0)]
            if self.remaining(trial.number):
                return self._started(trial)
            self._end(trial.number, "complete")
        if (baseline := self._try_baseline()) is not None:
            return baseline
        if not self._ended:
            self._ended = self._limit()
        return None if self._ended else self._try_proposals()

    def remaining(self, number: int) -> tuple[int, ...]:
        """Return the evaluations that a trial has before it, in training rows seen."""
        reports = self._reports[number]
        return self._rungs.left(reports[-1].samples if reports else 0)

    def report(self, number: int, report: Report) -> Decision:
        """Record an evaluation and decide about the trial."""
        self._failed_in_a_row = 0
        decision, reason = self._decide(self._trials[number], report)
        if decision is Decision.CONTINUE:
            self._store.report(number, report)
            self._note(number, report)
        elif decision is Decision.STOP:
            self._end(number, "stopped", reason, report)
        else:
            self._end(number, "complete", last=report)
        return decision

    def fail(self, number: int, reason: str) -> None:
        """Record that a trial failed; the study goes on."""
        self._failed_in_a_row += 1
        self._last_failure = reason
        self._end(number, "failed", reason)

    def _take_up(self, study: Study) -> None:
        """Learn from the trials of earlier sessions."""
        for trial in study.trials:
            self._trials[trial.number] = trial
            if trial.state == "running":
                self._cut_off.append(trial.number)
                self._reports[trial.number] = list(self._store.reports(trial.number))
            else:
                self._reports[trial.number] = list(trial.result.reports) if trial.result else []
                self._searcher.observe(trial)

    def _limit(self) -> str:
        """Say which limit is reached; empty while there is none."""
        if self._clock() >= self._deadline:
            return "the time budget is spent"
        if self._failed_in_a_row >= MOST_FAILED_IN_A_ROW:
            return f"{self._failed_in_a_row} trials in a row failed, the last one with {self._last_failure}"
        tried = sum(
            trial.role == "candidate" and trial.state != "rejected" for trial in self._trials.values()
        )
        if self._max_trials is not None and tried >= self._max_trials and not self._awaits_baseline():
            return f"{tried} candidates have been tried"
        return ""

    def _awaits_baseline(self) -> bool:
        return self._baseline is not None and all(each.role != "baseline" for each in self._trials.values())

    def _try_baseline(self) -> Trial | None:
        if self._baseline is None or not self._awaits_baseline():
            return None
        return self._try(self._baseline, "baseline")

    def _try_proposals(self) -> Trial | None:
        self._ended = self._limit()
        rejected = repeated = 0
        tried = {trial.candidate.key for trial in self._trials.values()}
        while not self._ended:
            candidate = self._searcher.propose()
            if candidate is None:
                self._ended = "no untried candidate that may fit is left in the space"
            elif candidate.key in tried:
                repeated += 1
                if repeated >= MOST_REPEATED_IN_A_ROW:
                    self._ended = "the searcher proposes nothing new"
            elif (trial := self._try(candidate, "candidate")) is not None:
                return trial
            else:
                tried.add(candidate.key)
                rejected += 1
                if rejected >= MOST_REJECTED_IN_A_ROW:
                    self._ended = f"{rejected} candidates in a row did not fit the budget"
        return None

    def _try(self, candidate: Candidate, role: Role) -> Trial | None:
        """Start a candidate, or record that it may not start."""
        verdict = self._admit(candidate)
        rejected = isinstance(verdict, Rejected)
        trial = Trial(
            number=len(self._trials),
            role=role,
            candidate=candidate,
            state="rejected" if rejected else "running",
            predicted=verdict.estimate,
            reason=verdict.reason if isinstance(verdict, Rejected) else "",
        )
        self._store.add_trial(trial)
        self._trials[trial.number] = trial
        self._reports[trial.number] = []
        if not rejected:
            return self._started(trial)
        self._finished(trial)
        return None

    def _decide(self, trial: Trial, report: Report) -> tuple[Decision, str]:
        # Fewer rows than were asked for: the candidate's training is shorter, and over.
        if report.samples >= self._rungs.samples[-1] or report.samples < self.remaining(trial.number)[0]:
            return Decision.COMPLETE, ""
        if trial.role == "baseline":
            return Decision.CONTINUE, ""
        if self._clock() >= self._deadline:
            return Decision.STOP, "time budget"
        others = self._scores_at(report.samples, but=trial.number)
        if should_stop(report.score, others, self._rungs.reduction, self._metric):
            diverged = math.isnan(report.score)
            behind = f"not among the best 1/{self._rungs.reduction} of {len(others) + 1}"
            return Decision.STOP, "diverged" if diverged else f"{behind} after {report.samples} rows"
        return Decision.CONTINUE, ""

    def _scores_at(self, samples: int, *, but: int) -> list[float]:
        """Return the scores of all trials but one at their first evaluation from `samples` rows on."""
        scores = []
        for number, reports in self._reports.items():
            reached = [report.score for report in reports if report.samples >= samples]
            if reached and number != but:
                scores.append(reached[0])
        return scores

    def _end(self, number: int, state: TrialState, reason: str = "", last: Report | None = None) -> None:
        self._store.finish(number, state, reason, last)
        if last is not None:
            self._note(number, last)
        result = TrialResult.model_validate(
            {"state": state, "reports": tuple(self._reports[number]), "reason": reason}
        )
        change = {"state": state, "reason": reason, "result": result}
        self._trials[number] = self._trials[number].model_copy(update=change)
        self._finished(self._trials[number])

    def _started(self, trial: Trial) -> Trial:
        self._count_seconds()
        for observer in self._observers:
            observer.trial_started(trial)
        return trial

    def _note(self, number: int, report: Report) -> None:
        self._count_seconds()
        self._reports[number].append(report)
        for observer in self._observers:
            observer.trial_reported(self._trials[number], report)

    def _finished(self, trial: Trial) -> None:
        self._searcher.observe(trial)
        for observer in self._observers:
            observer.trial_finished(trial)

    def _count_seconds(self) -> None:
        now = self._clock()
        self._store.add_seconds(now - self._counted_to)
        self._counted_to = now
