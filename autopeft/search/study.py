"""Study: one search, with every trial it made."""

from __future__ import annotations

import math
from typing import Literal

from autopeft.cost.estimate import CostEstimate
from autopeft.message import Message
from autopeft.search.choosing import shrunk_means
from autopeft.search.front import OBJECTIVES, Objective, Point, front
from autopeft.space.candidate import Candidate
from autopeft.train.result import TrialResult
from autopeft.workload.dataset import Metric

Role = Literal["baseline", "candidate"]
TrialState = Literal["running", "paused", "complete", "stopped", "failed", "rejected"]


class Trial(Message):
    """A candidate tried, or refused before it started.

    Attributes:
        number: counts from 0 in the order of proposal.
        role: "baseline" is the default everyone copies; it is trained to the end for comparison.
        predicted: the cost model's estimate; None for a refused candidate it could not cost.
        state: "rejected" never started and says why; "running" includes one that a crash cut off, and one
            that is set aside for now; "paused" is one that was set aside for want of time, or when the
            search ended, and may go on when the study does.
        note: what a person should know of its start.
        repetition: 0 trains from the study's seed, n from the n-th after it.
    """

    number: int
    role: Role
    candidate: Candidate
    state: TrialState
    predicted: CostEstimate | None = None
    result: TrialResult | None = None
    reason: str = ""
    note: str = ""
    repetition: int = 0

    @property
    def label(self) -> str:
        """A line for people; the default and repetitions are told apart."""
        if self.repetition:
            return f"{self.candidate.label}, once more"
        return f"{self.candidate.label} (default)" if self.role == "baseline" else self.candidate.label

    @property
    def finished(self) -> bool:
        """Whether nothing more will come of this trial."""
        return self.state not in ("running", "paused")


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
        """The best complete trial of the configuration of which most is expected (see `choosing`).

        Ties go to fewer parameters. Where nothing was repeated it is the trial with the best score.
        """
        runs: dict[str, list[Trial]] = {}
        for trial in self.trials:
            if trial.state == "complete" and trial.result and math.isfinite(trial.result.score):
                runs.setdefault(trial.candidate.key, []).append(trial)
        if not runs:
            return None
        sign = 1 if self.metric.direction == "maximize" else -1
        groups = list(runs.values())
        expected = shrunk_means([[sign * _score(trial) for trial in group] for group in groups])
        _, group = max(
            zip(expected, groups, strict=True), key=lambda pair: (pair[0], -_parameters(pair[1][0]))
        )
        return max(group, key=lambda trial: sign * _score(trial))

    def seed_of(self, trial: Trial) -> int:
        """Return the seed that a trial was trained from."""
        return self.seed + trial.repetition

    def runs_of(self, candidate: Candidate) -> tuple[Trial, ...]:
        """Return the complete trials of a configuration: one, or several from different seeds."""
        return tuple(
            trial
            for trial in self.trials
            if trial.state == "complete" and trial.candidate.key == candidate.key
        )

    def is_default(self, trial: Trial) -> bool:
        """Say whether a trial's configuration is the default's, from whatever seed."""
        return self.baseline is not None and self.baseline.candidate.key == trial.candidate.key

    @property
    def baseline(self) -> Trial | None:
        """The default configuration's trial, the last one where it was tried again in smaller pieces."""
        return next((trial for trial in reversed(self.trials) if trial.role == "baseline"), None)

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


def _score(trial: Trial) -> float:
    return trial.result.score if trial.result else math.nan


def _parameters(trial: Trial) -> int:
    return trial.predicted.trainable_params if trial.predicted else 0
