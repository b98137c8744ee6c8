"""Study: one search, with every trial it made."""

from __future__ import annotations

from typing import Literal

from autopeft.cost.estimate import CostEstimate
from autopeft.message import Message
from autopeft.search.front import OBJECTIVES, Objective, Point, front
from autopeft.space.candidate import Candidate
from autopeft.train.result import TrialResult
from autopeft.workload.dataset import Metric

Role = Literal["baseline", "candidate"]
TrialState = Literal["running", "complete", "stopped", "failed", "rejected"]


class Trial(Message):
    """A candidate tried, or refused before it started.

    Attributes:
        number: counts from 0 in the order of proposal.
        role: "baseline" is the default everyone copies; it is trained to the end for comparison.
        predicted: the cost model's estimate; None for a refused candidate it could not cost.
        state: "rejected" never started and says why; "running" includes one that a crash cut off.
    """

    number: int
    role: Role
    candidate: Candidate
    state: TrialState
    predicted: CostEstimate | None = None
    result: TrialResult | None = None
    reason: str = ""

    @property
    def finished(self) -> bool:
        """Whether nothing more will come of this trial."""
        return self.state != "running"


class Study(Message):
    """A search and its trials so far.

    Attributes:
        folder: directory that holds the study's files.
        seconds: wall time spent so far, over all resumptions.
    """

    name: str
    folder: str
    metric: Metric
    seed: int
    trials: tuple[Trial, ...] = ()
    seconds: float = 0.0

    @property
    def best(self) -> Trial | None:
        """The completely trained trial with the best validation score; ties go to fewer parameters."""
        ranked = [trial for trial in self.trials if trial.state == "complete" and trial.result]
        winner: Trial | None = None
        for trial in ranked:
            if winner is None or self._beats(trial, winner):
                winner = trial
        return winner

    @property
    def baseline(self) -> Trial | None:
        """The default configuration's trial."""
        return next((trial for trial in self.trials if trial.role == "baseline"), None)

    def front(self, objective: Objective) -> tuple[Trial, ...]:
        """Return the completely trained trials that no other beats at no higher cost, by rising cost."""
        points = [
            Point(trial.number, trial.result.score, cost)
            for trial in self.trials
            if trial.state == "complete" and trial.result and trial.predicted
            if (cost := OBJECTIVES[objective](trial.predicted)) is not None
        ]
        by_number = {trial.number: trial for trial in self.trials}
        return tuple(by_number[point.number] for point in front(points, self.metric))

    def _beats(self, one: Trial, other: Trial) -> bool:
        mine = one.result.score if one.result else float("nan")
        theirs = other.result.score if other.result else float("nan")
        if mine == theirs and one.predicted and other.predicted:
            return one.predicted.trainable_params < other.predicted.trainable_params
        return self.metric.better(mine, theirs)
