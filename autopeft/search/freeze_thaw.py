"""FreezeThaw: begins, sets aside and takes up trainings by what their curves promise.

Every training stops at its first evaluation. Whenever the machine is free, the search takes the step that
promises most for its cost: one more piece of a training that was set aside, or a new candidate. What each
promises is the expected improvement of its final score by a model of all curves (see `surrogate`). After
Swersky, Snoek and Adams 2014 (arXiv:1406.3896); that pieces of training are the unit of choice also after
Wistuba et al. 2022 (DyHPO, arXiv:2202.09774).
"""

from __future__ import annotations

import itertools
import random
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from autopeft.search.choosing import shrunk_means
from autopeft.search.encoding import LENGTHS, Encoding
from autopeft.search.evidence import LOSS, are_near, on_one_scale, tell
from autopeft.search.experience import Experience
from autopeft.search.frontier import Frontier
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
_PATIENCE, _INFORMED_PATIENCE = 0.5, 1.0
"""How far the rest of a training counts, see `FreezeThaw`; chosen on experiments/012-benchmark."""

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
    """A candidate that was begun.

    Attributes:
        shares: of its own training at its evaluations.   scores: there, more is better.
        told: what the evaluations say, see `evidence`.
        lost_at: share at which it diverged or failed.
    """

    candidate: Candidate
    state: _State
    again: bool = False
    shares: tuple[float, ...] = ()
    scores: tuple[float, ...] = ()
    told: tuple[float, ...] = ()
    lost_at: float | None = None

    @property
    def is_whole(self) -> bool:
        """Whether it was trained to its end and has a score there."""
        return self.state == "complete" and bool(self.scores) and self.lost_at is None


class FreezeThaw:
    """Spends each piece of training where most is expected of it.

    Args:
        rungs: when trainings are evaluated.
        warm: candidates to begin with, best first.
        experience: what earlier studies say; None where there are none.
        share_left: how much of the budget is left, from 0 to 1; the last `_LAST_SHARE` is spent on the
        leaders.
        frontier: what is to grow, the front of score against a cost; None looks for the best score alone.
        patience: 0 counts the next piece's cost alone, 1 that of the whole rest of a training. None is
            half-way, and 1 with deep experience, beside which a first piece tells little.
    """

    def __init__(
        self,
        space: SearchSpace,
        rungs: Rungs,
        *,
        seed: int,
        metric: Metric,
        warm: Sequence[Candidate],
        experience: Experience | None = None,
        share_left: Callable[[], float] = lambda: 1.0,
        frontier: Frontier | None = None,
        runs: int = _RUNS,
        patience: float | None = None,
    ) -> None:
        self._rungs = rungs
        self._metric = metric
        self._warm = list(warm)
        self._experience = experience or Experience((), space, "")
        usual_patience = _INFORMED_PATIENCE if self._experience.deep else _PATIENCE
        self._patience = usual_patience if patience is None else patience
        self._runs = runs
        self._repeated: list[str] = []
        self._share_left = share_left
        self._frontier = frontier
        self._pool = Pool(space, random.Random(seed))
        self._encoding = Encoding(space)
        self._surrogate = Surrogate(self._encoding.groups, LENGTHS)
        self._arms: dict[int, _Arm] = {}
        self._epoch_seconds: dict[str, float] = {}
        self._has_loss = False
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
            if trial.repetition and trial.candidate.key not in self._repeated:
                self._repeated.append(trial.candidate.key)
        if self._frontier is not None and trial.predicted is not None:
            self._frontier.know(trial.candidate, trial.predicted)
        seconds = trial.predicted.run_seconds if trial.predicted else None
        if seconds:
            self._epoch_seconds[trial.candidate.footprint] = seconds / trial.candidate.training.epochs

    def judge(self, trial: Trial, reports: Sequence[Report]) -> tuple[Decision, str]:
        """Go on while nothing else promises more."""
        self._learn(trial.number, reports)
        if not reports[-1].is_finite:
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
        if trial.state == "failed":
            arm.lost_at = self._following(arm.candidate, arm.shares[-1] if arm.shares else 0.0)

    def _learn(self, number: int, reports: Sequence[Report]) -> None:
        arm = self._arms[number]
        known = [report for report in reports if report.is_finite]
        if len(known) > len(arm.shares):
            self._reports_since_tuned += 1
        arm.shares = tuple(self._share(arm.candidate, report.samples) for report in known)
        if len(known) < len(reports):
            arm.lost_at = self._share(arm.candidate, reports[-1].samples)
        sign = 1.0 if self._metric.direction == "maximize" else -1.0
        arm.scores = tuple(sign * report.score for report in known)
        self._has_loss = self._has_loss or any(LOSS in report.extra for report in known)
        arm.told = tuple(
            tell(share, score, report.extra)
            for share, score, report in zip(arm.shares, arm.scores, known, strict=True)
        )

    def _share(self, candidate: Candidate, samples: int) -> float:
        """Return how much of a candidate's own training is over after so many rows."""
        return min(1.0, samples / self._rungs.length(candidate))

    def _following(self, candidate: Candidate, share: float) -> float:
        """Return the share at the evaluation after `share`; 1 after the last."""
        shares = (self._share(candidate, samples) for samples in self._rungs.samples)
        return next((each for each in shares if each > share), 1.0)

    def _told(self) -> dict[int, list[tuple[float, float]]]:
        """Return what is known of each training; what was lost counts as the worst that got as far."""
        found = {number: list(zip(arm.shares, arm.told, strict=True)) for number, arm in self._arms.items()}
        worst: dict[float, float] = {}
        for share, value in itertools.chain.from_iterable(found.values()):
            worst[share] = min(value, worst.get(share, value))
        for number, arm in self._arms.items():
            at = next((share for share in worst if arm.lost_at and are_near(share, arm.lost_at)), None)
            if at is not None and at not in arm.shares:
                found[number].append((at, worst[at]))
        return {number: points for number, points in found.items() if points}

    def _most_promising(self) -> Move | None:
        cut_off = (number for number, arm in self._arms.items() if arm.state == "paused" and not arm.scores)
        if (number := next(cut_off, None)) is not None:
            return GoOn(number)
        told = self._told()
        arms = {number: self._arms[number] for number in told}
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
        values = self._promises(arms, told, paused, fresh)
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
        if offered and self._experience.deep and len(arms) < _FEWEST_CURVES:
            believed = self._experience.believed(self._encoding.features(offered))
            return offered[int(np.argmax(believed.mean))]
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
            if arm.is_whole:
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

    def _promises(
        self,
        arms: dict[int, _Arm],
        told: dict[int, list[tuple[float, float]]],
        paused: Sequence[int],
        fresh: Sequence[Candidate],
    ) -> Array:
        """Return the expected improvement for the cost of each option, the paused ones first."""
        order = list(arms)
        known = self._encoding.features([arm.candidate for arm in arms.values()])
        points = list(told.values())
        values = on_one_scale(points) if self._has_loss else [tuple(v for _, v in each) for each in points]
        curves = [
            Curve(features, tuple(share for share, _ in each), value)
            for features, each, value in zip(known, points, values, strict=True)
        ]
        tune = self._reports_since_tuned >= _TUNED_EVERY
        self._surrogate.fit(curves, prior=self._experience.believed(known), tune=tune)
        self._reports_since_tuned = 0 if tune else self._reports_since_tuned
        done = [place for place, arm in enumerate(arms.values()) if arm.is_whole]
        held = [order.index(number) for number in paused]
        features = np.concatenate((known[held], self._encoding.features(fresh)))
        prior = self._experience.believed(features)
        belief = self._surrogate.final(features, [*held, *(None for _ in fresh)], prior)
        costs = np.array(
            [
                *(self._cost(arms[number].candidate, arms[number].shares[-1]) for number in paused),
                *(self._cost(candidate, 0.0) for candidate in fresh),
            ]
        )
        # What is to be surpassed is what the best are worth, not what luck gave them.
        best = done or list(range(len(known)))
        worth = self._surrogate.final(known[best], best, self._experience.believed(known[best])).mean
        if self._frontier is None:
            level = worth.max() if done else belief.mean.max()
            return np.asarray(expected_improvement(belief, float(level)) / costs)
        candidates = [arm.candidate for arm in arms.values()]
        options = [*(arms[number].candidate for number in paused), *fresh]
        leaders = [candidates[place] for place in best]
        return self._frontier.weigh(leaders, worth.tolist(), options, belief, costs)

    def _cost(self, candidate: Candidate, share: float) -> float:
        """Return what going on costs, in trainings of the usual speed and the greatest length."""
        following = self._following(candidate, share)
        part = (following - share) ** (1 - self._patience) * (1 - share) ** self._patience
        return float(
            part * self._slowness(candidate) * self._rungs.length(candidate) / self._rungs.samples[-1]
        )

    def _slowness(self, candidate: Candidate) -> float:
        """Return the predicted time of a row over the usual one; 1 where nothing like it was predicted."""
        known = self._epoch_seconds.get(candidate.footprint)
        return 1.0 if known is None else known / statistics.median(self._epoch_seconds.values())

    def _leaders(self, arms: dict[int, _Arm]) -> list[_Arm]:
        scored = [arm for arm in arms.values() if arm.told]
        return sorted(scored, key=lambda arm: (len(arm.told), arm.told[-1]))[-3:]
