"""FreezeThaw: begins, sets aside and takes up trainings by what their curves promise.

Every training stops at its first evaluation. Whenever the machine is free, the search takes the step that
promises most for its cost: one more piece of a training that was set aside, or a new candidate. What each
promises is the expected improvement of its final score by a model of all curves (see `surrogate`). After
Swersky, Snoek and Adams 2014 (arXiv:1406.3896); that pieces of training are the unit of choice also after
Wistuba et al. 2022 (DyHPO, arXiv:2202.09774).
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from autopeft.search.choosing import shrunk_means
from autopeft.search.encoding import LENGTHS, Encoding
from autopeft.search.halving import Rungs
from autopeft.search.pool import Pool
from autopeft.search.strategy import Begin, Decision, GoOn, Move, Repeat
from autopeft.search.study import Trial, TrialState
from autopeft.search.surrogate import Array, Curve, Surrogate, expected_improvement
from autopeft.space.candidate import Candidate
from autopeft.space.search_space import SearchSpace
from autopeft.train.result import Report
from autopeft.workload.dataset import Metric

_FEWEST_CURVES = 2
"""Before so many candidates have a score, the usual ones are tried."""
_TUNED_EVERY = 8
"""Reports after which the model's parameters are fitted anew."""
_BLIND_EVERY = 4
"""One in so many new candidates is drawn blindly, whatever the model believes."""
_TOO_NEAR = 0.1
"""Two candidates whose features differ by less are one; a tenth of a decade of the learning rate, for one."""
_RATE_PENALTY = 0.5
"""A learning rate one decade from the usual one is believed to cost so many standard deviations of scores."""

_LAST_SHARE = 0.3
"""Share of the budget that is kept for finishing the leaders and for repeating them from other seeds."""
_REPEATED = 2
"""So many leaders are trained again from other seeds, to tell merit from luck."""
_RUNS = 3
"""Trainings of such a leader, its first one included."""
REPETITIONS = _REPEATED * (_RUNS - 1)
"""Trainings from other seeds that a search ends with, if it has the time."""
_MOST_REPEATED = 3
"""As leaders change while they are repeated, so many may be in all."""
_FINISHED = 3
"""Nothing is repeated before so many candidates were trained to the end, the default among them."""
_WORTHWHILE = 0.05
"""Where a search may begin no more, it ends when no step promises this share of the scores' spread."""

_State = Literal["running", "paused", "complete", "out"]


@dataclass
class _Arm:
    """A candidate that was begun."""

    candidate: Candidate
    state: _State
    again: bool = False
    shares: tuple[float, ...] = ()
    scores: tuple[float, ...] = ()


class FreezeThaw:
    """Spends each piece of training where most is expected of it.

    Args:
        rungs: when trainings are evaluated.
        warm: candidates to begin with, best first.
        share_left: how much of the budget is left, from 0 to 1; the last `_LAST_SHARE` is spent on the
        leaders. patience: 0 counts the next piece's cost alone, 1 that of the whole rest of a training.
    """

    def __init__(
        self,
        space: SearchSpace,
        rungs: Rungs,
        *,
        seed: int,
        metric: Metric,
        warm: Sequence[Candidate],
        share_left: Callable[[], float] = lambda: 1.0,
        runs: int = _RUNS,
        luck: float = 0.3,
        patience: float = 0.5,
    ) -> None:
        self._rungs = rungs
        self._metric = metric
        self._warm = list(warm)
        self._patience = patience
        self._luck = luck
        self._runs = runs
        self._repeated: list[str] = []
        self._share_left = share_left
        self._pool = Pool(space, random.Random(seed))
        self._encoding = Encoding(space)
        self._surrogate = Surrogate(self._encoding.groups, LENGTHS)
        self._arms: dict[int, _Arm] = {}
        self._enough = False
        self._reports_since_tuned = _TUNED_EVERY
        self._planned: Move | None = None

    def propose(self) -> Move | None:
        """Return the most promising step."""
        move, self._planned = self._planned or self._most_promising(), None
        match move:
            case GoOn(number):
                self._arms[number].state = "running"
            case Repeat(number) if (key := self._arms[number].candidate.key) not in self._repeated:
                self._repeated.append(key)
        return move

    def begin_no_more(self) -> None:
        """Only go on with what is under way."""
        self._enough = True
        if isinstance(self._planned, Begin):
            self._planned = None

    def started(self, trial: Trial) -> None:
        """Know the trial."""
        if trial.number not in self._arms:
            self._arms[trial.number] = _Arm(trial.candidate, "running", again=trial.repetition > 0)
            self._pool.take(trial.candidate)

    def judge(self, trial: Trial, reports: Sequence[Report]) -> tuple[Decision, str]:
        """Go on while nothing else promises more."""
        self._learn(trial.number, reports)
        if not math.isfinite(reports[-1].score):
            return Decision.STOP, "diverged"
        if trial.repetition:
            return Decision.CONTINUE, ""
        arm = self._arms[trial.number]
        arm.state = "paused"
        self._planned = self._most_promising()
        if self._planned != GoOn(trial.number):
            return Decision.PAUSE, ""
        arm.state, self._planned = "running", None
        return Decision.CONTINUE, ""

    def observe(self, trial: Trial, reports: Sequence[Report]) -> None:
        """Learn from a trial that is finished, set aside for now or for this session, or rejected."""
        if trial.state == "rejected":
            self._pool.refuse(trial.candidate)
            return
        self._learn(trial.number, reports)
        arm = self._arms[trial.number]
        states: dict[TrialState, _State] = {"running": "paused", "complete": "complete"}
        arm.state = states.get(trial.state, "out")
        if trial.state == "failed" and not reports:
            worst = min((each.scores[0] for each in self._arms.values() if each.scores), default=None)
            if worst is not None:
                arm.shares, arm.scores = (self._share(self._rungs.samples[0]),), (worst,)

    def _learn(self, number: int, reports: Sequence[Report]) -> None:
        arm = self._arms[number]
        known = [report for report in reports if math.isfinite(report.score)]
        if len(known) > len(arm.shares):
            self._reports_since_tuned += 1
        arm.shares = tuple(self._share(report.samples) for report in known)
        sign = 1.0 if self._metric.direction == "maximize" else -1.0
        arm.scores = tuple(sign * report.score for report in known)

    def _share(self, samples: int) -> float:
        return min(1.0, samples / self._rungs.samples[-1])

    def _most_promising(self) -> Move | None:
        cut_off = (number for number, arm in self._arms.items() if arm.state == "paused" and not arm.scores)
        if (number := next(cut_off, None)) is not None:
            return GoOn(number)
        arms = {number: arm for number, arm in self._arms.items() if arm.scores}
        last = len(arms) >= _FEWEST_CURVES and self._share_left() < _LAST_SHARE
        paused = [number for number, arm in arms.items() if arm.state == "paused"]
        fresh = [] if self._enough or last else self._fresh(arms)
        if isinstance(fresh, Candidate):
            return Begin(fresh)
        if len(arms) < _FEWEST_CURVES:
            return Begin(fresh[0]) if fresh else GoOn(paused[0]) if paused else None
        fresh = self._unlike(fresh, [arm.candidate for arm in arms.values()])
        if not paused and not fresh:
            return self._repetition(arms)
        values = self._promises(arms, paused, fresh)
        chosen = int(np.argmax(values))
        if not fresh and values[chosen] < _WORTHWHILE * self._surrogate.spread and self._finished(arms):
            # With time left, what promises little is better than nothing.
            return self._repetition(arms) or (GoOn(paused[chosen]) if last else None)
        return GoOn(paused[chosen]) if chosen < len(paused) else Begin(fresh[chosen - len(paused)])

    def _fresh(self, arms: dict[int, _Arm]) -> Candidate | list[Candidate]:
        """Return the candidate to begin whatever the model believes, or else those to choose from."""
        self._warm = [candidate for candidate in self._warm if self._pool.takes(candidate)]
        if self._warm:
            return self._warm[0]
        offered = self._pool.offer([arm.candidate for arm in self._leaders(arms)])
        return offered[0] if offered and len(self._arms) % _BLIND_EVERY == 0 else offered

    def _finished(self, arms: dict[int, _Arm]) -> bool:
        """Say whether enough candidates were trained to the end that leaders can be told."""
        complete = {arm.candidate.key for arm in arms.values() if arm.state == "complete"}
        return len(complete) >= _FINISHED

    def _unlike(self, fresh: list[Candidate], known: Sequence[Candidate]) -> list[Candidate]:
        """Return those that are not nearly what was tried."""
        if not fresh:
            return fresh
        apart = np.abs(self._encoding.features(fresh)[:, None] - self._encoding.features(known)[None]).max(2)
        return [candidate for candidate, near in zip(fresh, apart.min(1), strict=True) if near > _TOO_NEAR]

    def _repetition(self, arms: dict[int, _Arm]) -> Move | None:
        """Return the leader that was trained the fewest times.

        None when all were trained often enough, and while a candidate that may yet lead is running.
        """
        begun = Counter(arm.candidate.key for arm in self._arms.values())
        runs: dict[str, list[int]] = {}
        for number, arm in arms.items():
            if arm.state == "complete":
                runs.setdefault(arm.candidate.key, []).append(number)
        if not runs or any(arm.state == "running" and not arm.again for arm in self._arms.values()):
            return None
        expected = shrunk_means([[arms[each].scores[-1] for each in group] for group in runs.values()])
        ranked = [key for _, key in sorted(zip(expected, runs, strict=True), reverse=True)]
        # A leader that falls behind when it is repeated hands its place on, but not without end.
        if len(self._repeated) >= _MOST_REPEATED:
            ranked = [key for key in ranked if key in self._repeated]
        leader = min(ranked[:_REPEATED], key=lambda key: begun[key], default=None)
        return Repeat(runs[leader][0]) if leader is not None and begun[leader] < self._runs else None

    def _promises(self, arms: dict[int, _Arm], paused: Sequence[int], fresh: Sequence[Candidate]) -> Array:
        """Return the expected improvement for the cost of each option, the paused ones first."""
        order = list(arms)
        known = self._encoding.features([arm.candidate for arm in arms.values()])
        curves = [
            Curve(features, arm.shares, arm.scores)
            for features, arm in zip(known, arms.values(), strict=True)
        ]
        tune = self._reports_since_tuned >= _TUNED_EVERY
        self._surrogate.fit(curves, prior_mean=_believed(known), tune=tune)
        self._reports_since_tuned = 0 if tune else self._reports_since_tuned
        owners = [order.index(number) for number in paused]
        done = [place for place, arm in enumerate(arms.values()) if arm.state == "complete"]
        features = np.concatenate((known[owners], self._encoding.features(fresh)))
        belief = self._surrogate.final(
            *(features, [*owners, *(None for _ in fresh)], _believed(features)), luck=self._luck
        )
        # What is to be surpassed is what the best is worth, not what luck gave it.
        best = float(belief.mean.max())
        if done:
            best = float(self._surrogate.final(known[done], done, _believed(known[done])).mean.max())
        costs = [self._cost(arms[number].shares[-1]) for number in paused] + [self._cost(0.0)] * len(fresh)
        return np.asarray(expected_improvement(belief, best) / costs)

    def _cost(self, share: float) -> float:
        """Return what going on costs, as a share of a training."""
        following = next(each for each in map(self._share, self._rungs.samples) if each > share)
        return float((following - share) ** (1 - self._patience) * (1 - share) ** self._patience)

    def _leaders(self, arms: dict[int, _Arm]) -> list[_Arm]:
        return sorted(arms.values(), key=lambda arm: (len(arm.scores), arm.scores[-1]))[-3:]


def _believed(features: Array) -> Sequence[float]:
    """Return what is believed before any trial, in standard deviations of scores: rates far off do worse."""
    return list(-_RATE_PENALTY * np.minimum(features[:, 0] ** 2, 4.0))
