"""A Gaussian process for each branch of a space, and a bandit that chooses the branch."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

from autopeft.search.ledger import Ledger, Source
from autopeft.search.optuna_study import OptunaStudy, score_of
from autopeft.search.study import Trial
from autopeft.space.candidate import Candidate
from autopeft.space.search_space import SearchSpace, branches, fix, size
from autopeft.workload.dataset import Metric

_STARTUP_TRIALS = 3


class GpSearcher:
    """Optuna's GPSampler, one for each way to settle the fields that conditions look at.

    Optuna 5's GPSampler models the parameters that all trials share and draws the others at random without
    saying so; within a branch every parameter counts always. The branch is that of the highest upper
    confidence bound (UCB1, Auer et al. 2002, on the best score of a branch instead of its mean, since one
    good candidate is enough), each branch once first. A trial stopped early stands with its last score.
    """

    def __init__(
        self, space: SearchSpace, *, seed: int, metric: Metric, warm: Sequence[Candidate] = ()
    ) -> None:
        import optuna

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._branches = [
                _Branch(
                    OptunaStudy(
                        fix(space, chosen),
                        optuna.samplers.GPSampler(seed=seed + place, n_startup_trials=_STARTUP_TRIALS),
                        [metric.direction],
                        prunes=False,
                    )
                )
                for place, (chosen, _) in enumerate(branches(space))
            ]
        self._sign = 1 if metric.direction == "maximize" else -1
        self._ledger = Ledger(space, seed=seed, warm=warm)

    def propose(self) -> Candidate | None:
        """Return the next candidate; None when the space is exhausted."""
        candidate = self._ledger.next(self._by_promise())
        if candidate is not None:
            for branch in self._branches:
                branch.pulls += branch.study.begin(candidate)
        return candidate

    def observe(self, trial: Trial) -> None:
        """Learn from a finished trial, rejected ones included (also from earlier sessions)."""
        new = not self._ledger.knows(trial.candidate)
        self._ledger.note(trial)
        score = score_of(trial)
        for branch in self._branches:
            if branch.study.learn(trial, None if score is None else [score]):
                branch.pulls += new
                if score is not None:
                    branch.best = max(branch.best, self._sign * score)

    def _by_promise(self) -> list[Source]:
        """Return the branches as sources, by falling upper confidence bound; untried ones first, in order."""
        scored = [branch.best for branch in self._branches if branch.best > -math.inf]
        low, span = (min(scored), (max(scored) - min(scored)) or 1.0) if scored else (0.0, 1.0)
        pulls = sum(branch.pulls for branch in self._branches)

        def bound(branch: _Branch) -> float:
            if branch.pulls == 0:
                return math.inf
            known = (branch.best - low) / span if branch.best > -math.inf else 0.0
            return known + math.sqrt(2 * math.log(pulls) / branch.pulls)

        ranked = sorted((each for each in self._branches if each.left), key=bound, reverse=True)
        return [(branch.study.space, branch.study.draw) for branch in ranked]


class _Branch:
    """One branch: its study, how often it was chosen, and its best score, larger being better."""

    def __init__(self, study: OptunaStudy) -> None:
        self.study = study
        self.pulls = 0
        self.best = -math.inf
        self._most = math.inf if study.space.continuous else size(study.space)

    @property
    def left(self) -> bool:
        """Whether it may hold a candidate that was not chosen yet."""
        return self.pulls < self._most
