"""Study: one search, with every trial it made."""

from __future__ import annotations

import math
from typing import Literal, get_args

from autopeft.cost.estimate import CostEstimate, Objective
from autopeft.message import Message
from autopeft.plan.budget import Preference
from autopeft.search.choosing import noise_variance, shrunk_means
from autopeft.search.front import (
    Leader,
    Point,
    choose,
    front,
    within_noise,
)
from autopeft.space.candidate import Candidate
from autopeft.train.result import TrialResult
from autopeft.workload.dataset import Metric

Role = Literal["baseline", "candidate"]
_Z = 1.96
TrialState = Literal["running", "paused", "complete", "stopped", "failed", "rejected"]


class Trial(Message):
    """A candidate tried, or refused before it started.

    Attributes:
        number: counts from 0 in the order of proposal.
        role: "baseline" is the default everyone copies; it is trained first, to its end unless that is a
            minute past the time, for comparison.
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
        id: tells it from others of its name; empty where it was begun before studies had one.
        folder: directory that holds the study's files.
        seconds: wall time spent so far, over all resumptions.
        prefer: which of several equally good configurations is the best.
        front_of: the cost whose front of scores was searched for; None where the best score alone was.
        validation_rows: rows that a score is a mean over; 0 where that does not count.
    """

    name: str
    id: str = ""
    folder: str
    metric: Metric
    seed: int
    trials: tuple[Trial, ...] = ()
    seconds: float = 0.0
    prefer: Preference = "quality"
    front_of: Objective | None = None
    validation_rows: int = 0

    @property
    def best(self) -> Trial | None:
        """The best complete trial of the configuration of which most is expected (see `choosing`).

        With another preference than quality: of the smallest or the fastest configuration whose expected
        score lies within noise of that one's, as far as noise is known. Ties go to fewer parameters. Where
        nothing was repeated the expected score is the score.
        """
        leaders = self._leaders()
        chosen = choose(leaders, self.prefer, self.metric)
        return None if chosen is None else next(one for one in self.trials if one.number == chosen.number)

    @property
    def equals(self) -> int:
        """How many configurations lie within noise of the one of which most is expected, it included."""
        leaders = self._leaders()
        top = choose(leaders, "quality", self.metric)
        return sum(top is not None and within_noise(top, each, self.metric) for each in leaders)

    @property
    def knows_noise(self) -> bool:
        """Whether anything tells how far scores are noise: a repetition, or the rows that a share is of.

        Rows tell nothing of a loss, an error or F1, whose spread between rows is not recorded.
        """
        return noise_variance(self._scores()) is not None or self._is_share

    @property
    def _is_share(self) -> bool:
        return self.metric.interval == "proportion" and self.validation_rows > 0

    def _scores(self) -> list[list[float]]:
        """Return the scores of each completely trained configuration, turned so that more is better."""
        sign = 1 if self.metric.direction == "maximize" else -1
        return [[sign * _score(trial) for trial in group] for group in self._groups()]

    def _groups(self) -> list[list[Trial]]:
        """Return the trials of each completely trained configuration."""
        runs: dict[str, list[Trial]] = {}
        for trial in self.trials:
            if trial.state == "complete" and trial.result and math.isfinite(trial.result.score):
                runs.setdefault(trial.candidate.key, []).append(trial)
        return list(runs.values())

    def _leaders(self) -> list[Leader]:
        """Return each completely trained configuration by its best trial, with what is expected of it."""
        sign = 1 if self.metric.direction == "maximize" else -1
        scores, found = self._scores(), []
        noise = noise_variance(scores) or 0.0
        for expected, group in zip(shrunk_means(scores) if scores else (), self._groups(), strict=True):
            score = sign * expected
            variance = noise / len(group)
            if self._is_share:
                variance += max(0.0, score * (1 - score)) / self.validation_rows
            half = _Z * math.sqrt(variance)
            first = max(group, key=lambda trial: sign * _score(trial))
            costs = {
                name: first.predicted.amount(name) if first.predicted else None
                for name in get_args(Objective)
            }
            found.append(Leader(first.number, score, score - half, score + half, costs))
        return found

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
            if (cost := trial.predicted.amount(objective)) is not None
        ]
        by_number = {trial.number: trial for trial in self.trials}
        return tuple(by_number[point.number] for point in front(points, self.metric))


def _score(trial: Trial) -> float:
    return trial.result.score if trial.result else math.nan
