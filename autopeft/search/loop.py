"""Search: which trial runs next and which goes on; the same decisions whoever executes them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from autopeft.errors import TrialError
from autopeft.plan.plan import Plan, Rejected, Verdict
from autopeft.search.aside import left_aside, why_aside
from autopeft.search.deadline import Deadline
from autopeft.search.halving import Rungs
from autopeft.search.observer import Observer
from autopeft.search.refused import TIME_SPENT, Refused
from autopeft.search.shortage import fit_together, held_against, second_try
from autopeft.search.store import StudyStore
from autopeft.search.strategy import Begin, Decision, Move, Repeat, Strategy
from autopeft.search.study import Role, Study, Trial, TrialState
from autopeft.space.candidate import Candidate
from autopeft.train.result import Report, TrialResult
from autopeft.workload.dataset import Metric

MOST_FAILED_IN_A_ROW = 5
_NONE_LEFT = "no untried candidate that may fit is left in the space"
_DIVERGED = f"{TrialError.__name__}: "
"""What the reason of a training begins with whose numbers were none: the settings' fault."""


class Search:
    """The state of one search; every change is in the store before anyone hears of it.

    First comes the baseline, then what the strategy says, as far as `admit` lets it pass. The baseline
    is never set aside for others; it is cut off only where it runs past the deadline for too long.

    Args:
        store: where the study is; trials found there are learnt from and not repeated.
        admit: the budget's verdict on a candidate; what it rejects never starts.
        baseline: the default everyone copies; None leaves it out.
        max_trials: candidates to start over all sessions; the baseline, repetitions and second tries are not
            counted.
        deadline: `clock()` at which the search ends; no piece of training starts that would end half a
            minute after it or later, as far as that can be told.
        clock: seconds that only grow.
        memory: bytes that the trials side by side may take together; None where there is no limit.
    """

    def __init__(
        self,
        store: StudyStore,
        strategy: Strategy,
        admit: Callable[[Candidate], Verdict],
        rungs: Rungs,
        metric: Metric,
        observers: Sequence[Observer] = (),
        *,
        baseline: Candidate | None = None,
        max_trials: int | None = None,
        deadline: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        memory: int | None = None,
    ) -> None:
        self._store = store
        self._strategy = strategy
        self._admit = admit
        self._rungs = rungs
        self._metric = metric
        self._observers = tuple(observers)
        self._baseline = baseline
        self._max_trials = max_trials
        self._deadline = Deadline(deadline, clock, rungs)
        self._clock = clock
        self._memory = memory
        self._held_back: Move | None = None
        self._counted_to = clock()
        self._trials: dict[int, Trial] = {}
        self._reports: dict[int, list[Report]] = {}
        self._waiting: list[int] = []
        self._under_way: set[int] = set()
        self._refused_before: set[int] = set()
        self._late: set[int] = set()
        self._ended = ""
        self._no_more = ""
        self._out_of_time = False
        self._failed_in_a_row = 0
        self._last_failure = ""
        store.take_up()
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
        """Leave what was set aside, tell the observers that the search is over, and return the study.

        The best of what was set aside can go on when the study does.
        """
        for number, state in list(left_aside(self._trials.values(), self._reports, self._metric)):
            late = number in self._late or number in self._under_way
            self._end(number, state, why_aside(self._reports[number], late=late))
        self.count_time()
        study = self._store.load()
        for observer in self._observers:
            observer.study_finished(study)
        return study

    def next_trial(self) -> Trial | None:
        """Return the trial to start or to go on with.

        None where there is no more (then `ended` says why), or none before a running one reports.
        """
        while self._waiting:
            trial = self._trials[self._waiting.pop(0)]
            if self.remaining(trial.number):
                return self._started(trial)
            self._end(trial.number, "complete")
        if (baseline := self._try_baseline()) is not None:
            return baseline
        if not self._ended:
            self._ended = self._limit()
        return None if self._ended else self._next_move()

    def remaining(self, number: int) -> tuple[int, ...]:
        """Return the evaluations that a trial has before it, in training rows seen."""
        reports = self._reports[number]
        return self._rungs.left(reports[-1].samples if reports else 0)

    def report(self, number: int, report: Report) -> Decision:
        """Record an evaluation and decide about the trial."""
        self._failed_in_a_row = 0
        before = self._reports[number]
        if before and before[-1].samples == report.samples:
            # Its training ends at the evaluation before, by fewer epochs than the default's.
            self._end(number, "complete")
            return Decision.COMPLETE
        decision, reason = self._decide(self._trials[number], report)
        if decision in (Decision.CONTINUE, Decision.PAUSE):
            self._store.report(number, report)
            self._note(number, report)
            if decision is Decision.PAUSE:
                self._set_aside(number)
        elif decision is Decision.STOP:
            self._end(number, "stopped", reason, report)
        else:
            self._end(number, "complete", last=report)
        return decision

    @property
    def overrun(self) -> bool:
        """Whether what still runs has to be cut off for the time budget."""
        return self._deadline.overrun

    def count_time(self, every: float = 0.0) -> None:
        """Add to the study the wall time since this was done last, if that is `every` seconds ago or more."""
        now = self._clock()
        if now - self._counted_to >= every:
            self._store.add_seconds(now - self._counted_to)
            self._counted_to = now

    def cut_off(self, number: int) -> None:
        """Set a trial aside whose process was ended for the time budget; its last checkpoint is kept."""
        self._late.add(number)
        self._set_aside(number)

    def fail(self, number: int, reason: str) -> None:
        """Record that a trial failed; the study goes on."""
        self._failed_in_a_row += not reason.startswith(_DIVERGED)
        self._last_failure = reason
        self._end(number, "failed", reason)

    def _take_up(self, study: Study) -> None:
        """Learn from the trials of earlier sessions; what was set aside then may go on."""
        self._late = {trial.number for trial in study.trials if not trial.finished}
        for trial in study.trials:
            self._trials[trial.number] = trial
            if trial.state == "rejected":
                if not isinstance(held_against(self._admit(trial.candidate), study.trials), Rejected):
                    self._refused_before.add(trial.number)
                    continue
            else:
                self._strategy.started(trial)
            self._reports[trial.number] = list(self._store.reports(trial.number))
            self._deadline.learn(trial, self._reports[trial.number])
            if not trial.finished and (trial.role == "baseline" or not self.remaining(trial.number)):
                self._waiting.append(trial.number)
            else:
                self._strategy.observe(trial, self._reports[trial.number])

    def _limit(self) -> str:
        """Say which limit is reached; empty while there is none."""
        if self._deadline.passed:
            self._out_of_time = True
            return TIME_SPENT
        if self._failed_in_a_row >= MOST_FAILED_IN_A_ROW:
            failed = f"{self._failed_in_a_row} trials in a row failed, the last one with {self._last_failure}"
            if self._no_more:
                return failed
            self._failed_in_a_row = 0
            self._begin_no_more(failed)
        return ""

    def _begin_no_more(self, reason: str) -> None:
        """Begin no candidate any more; what is under way goes on."""
        self._no_more = self._no_more or reason
        self._strategy.begin_no_more()

    def _tried(self) -> int:
        candidates = (trial for trial in self._trials.values() if trial.role == "candidate")
        first = (trial for trial in candidates if not trial.repetition and not trial.note)
        return sum(trial.state != "rejected" for trial in first)

    def _try_baseline(self) -> Trial | None:
        if self._baseline is None or any(each.role == "baseline" for each in self._trials.values()):
            return None
        return self._try(self._baseline, "baseline")

    def _next_move(self) -> Trial | None:
        refused = Refused()
        while not self._ended:
            if self._max_trials is not None and self._tried() >= self._max_trials:
                self._begin_no_more(f"{self._tried()} candidates have been tried")
            if (trial := self._second_try()) is not None:
                return trial
            if self._no_more and isinstance(self._held_back, Begin):
                self._held_back = None
            move, self._held_back = self._held_back or self._strategy.propose(), None
            if move is None:
                if self._under_way:
                    return None
                self._ended = self._no_more or (TIME_SPENT if self._out_of_time else _NONE_LEFT)
            elif (trial := self._make(move, refused)) is not None or self._held_back:
                return trial
        return None

    def _make(self, move: Move, refused: Refused) -> Trial | None:
        """Do what the strategy wants; None where that may not be."""
        if isinstance(move, Begin):
            trial = self._begin_new(move.candidate, refused)
            if trial is None and refused.too_many:
                self._begin_no_more(refused.too_many)
            return trial
        trial = self._trials[move.number]
        if not self._has_room(trial):
            self._held_back = move
        elif isinstance(move, Repeat):
            if self._ends_in_time(trial):
                return self._repeat(trial)
            self._ended = TIME_SPENT
        elif self._ends_in_time(trial, self._reports[move.number]):
            return self._started(trial)
        else:
            # For this session; what becomes of it is told at the end, when all that is aside is known.
            self._strategy.observe(trial.model_copy(update={"state": "paused"}), self._reports[move.number])
        return None

    def _second_try(self) -> Trial | None:
        """Start what ran out of memory once more in smaller pieces, if that is due and fits."""
        again = second_try(self._trials.values())
        return None if again is None else self._try(again.candidate, again.of.role, again.reason)

    def _begin_new(self, candidate: Candidate, refused: Refused) -> Trial | None:
        known = (trial for trial in self._trials.values() if trial.number not in self._refused_before)
        if any(trial.candidate.key == candidate.key for trial in known):
            refused.known += 1
            return None
        tried = len(self._trials)
        trial = self._try(candidate, "candidate")
        if trial is None and self._held_back is None:
            refused.unfit += len(self._trials) > tried
            refused.too_long += len(self._trials) == tried
        return trial

    def _try(self, candidate: Candidate, role: Role, note: str = "") -> Trial | None:
        """Start a candidate; one that does not fit is recorded, one that would not end in time is not."""
        verdict = held_against(self._admit(candidate), tuple(self._trials.values()))
        rejected = isinstance(verdict, Rejected)
        trial = Trial(
            number=len(self._trials),
            role=role,
            candidate=candidate,
            state="rejected" if rejected else "running",
            predicted=verdict.estimate,
            reason=verdict.reason if isinstance(verdict, Rejected) else "",
            note=note,
        )
        if not rejected and not self._has_room(trial):
            # A second try is thought of again by itself.
            self._held_back = None if note else Begin(candidate)
            return None
        if not rejected:
            if role == "baseline" or self._ends_in_time(trial):
                return self._begin(trial)
            # Not recorded: a cheaper one may still end in time, and this one if the study goes on.
            self._strategy.observe(trial.model_copy(update={"state": "rejected"}), ())
            return None
        self._keep(trial)
        self._finished(trial)
        return None

    def _has_room(self, trial: Trial) -> bool:
        """Say whether a trial fits beside those that run, by the upper ends of their bands."""
        return fit_together([trial, *(self._trials[number] for number in self._under_way)], self._memory)

    def _repeat(self, trial: Trial) -> Trial:
        """Start a trial's candidate from the next seed."""
        same = [each for each in self._trials.values() if each.candidate.key == trial.candidate.key]
        return self._begin(
            Trial(
                number=len(self._trials),
                role="candidate",
                candidate=trial.candidate,
                state="running",
                predicted=trial.predicted,
                repetition=len(same),
            )
        )

    def _begin(self, trial: Trial) -> Trial:
        self._keep(trial)
        self._strategy.started(trial)
        return self._started(trial)

    def _keep(self, trial: Trial) -> None:
        self._store.add_trial(trial)
        self._trials[trial.number] = trial
        self._reports[trial.number] = []

    def _decide(self, trial: Trial, report: Report) -> tuple[Decision, str]:
        # Fewer rows than were asked for: the candidate's training is shorter, and over.
        length = self._rungs.length(trial.candidate)
        if report.samples >= length or report.samples < self.remaining(trial.number)[0]:
            return Decision.COMPLETE, ""
        if trial.role == "baseline":
            return Decision.CONTINUE, ""
        reports = (*self._reports[trial.number], report)
        decision, reason = self._strategy.judge(trial, reports)
        if decision is Decision.CONTINUE and not self._ends_in_time(trial, reports):
            decision = Decision.PAUSE
        return decision, reason

    def _ends_in_time(self, trial: Trial, reports: Sequence[Report] = ()) -> bool:
        """Say whether the next piece of a training ends in time."""
        following = self._rungs.left(reports[-1].samples if reports else 0)
        too_near = bool(following) and self._deadline.too_near(trial, reports, following[0])
        self._out_of_time = self._out_of_time or too_near
        if too_near:
            self._late.add(trial.number)
        return not too_near

    def _set_aside(self, number: int) -> None:
        trial = self._trials[number]
        self._under_way.discard(number)
        self._strategy.observe(trial, self._reports[number])
        for observer in self._observers:
            observer.trial_paused(trial)

    def _end(self, number: int, state: TrialState, reason: str = "", last: Report | None = None) -> None:
        self._store.finish(number, state, reason, last)
        if last is not None:
            self._note(number, last)
        result = TrialResult.model_validate(
            {"state": state, "reports": tuple(self._reports[number]), "reason": reason}
        )
        change = {"state": state, "reason": reason, "result": result}
        self._trials[number] = self._trials[number].model_copy(update=change)
        self._under_way.discard(number)
        self._finished(self._trials[number])

    def _started(self, trial: Trial) -> Trial:
        self._under_way.add(trial.number)
        self._late.discard(trial.number)
        self.count_time()
        for observer in self._observers:
            observer.trial_started(trial)
        return trial

    def _note(self, number: int, report: Report) -> None:
        self.count_time()
        self._reports[number].append(report)
        self._deadline.learn(self._trials[number], self._reports[number])
        for observer in self._observers:
            observer.trial_reported(self._trials[number], report)

    def _finished(self, trial: Trial) -> None:
        self._strategy.observe(trial, self._reports[trial.number])
        for observer in self._observers:
            observer.trial_finished(trial)
