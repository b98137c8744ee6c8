"""Searchers that let Optuna propose: TPE, NSGA-II, and random sampling as the yardstick."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal

from autopeft.cost.estimate import Objective
from autopeft.search.ledger import Ledger
from autopeft.search.optuna_study import OptunaStudy, score_of
from autopeft.search.study import Trial
from autopeft.space.candidate import Candidate
from autopeft.space.search_space import SearchSpace
from autopeft.workload.dataset import Metric

_STARTUP_TRIALS = 4
_POPULATION = 20


_MOST_DRAWN_AGAIN = 1000


class OptunaSearcher:
    """Proposes `warm` candidates first, then what Optuna's sampler finds promising, nothing twice.

    Optuna's study lives in memory: after a resumption `observe` tells it what was tried before.
    A rejected trial counts as worse than any trained one, so the sampler leaves its region; what
    costs the same as a rejected candidate and trains at least as long is not proposed again.

    Args:
        warm: good first tries, best first (see `warm_start`).
        sampler: "tpe" (multivariate, grouped by condition, running trials counted as poor ones),
            or "random".
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int,
        metric: Metric,
        warm: Sequence[Candidate] = (),
        sampler: Literal["tpe", "random"] = "tpe",
    ) -> None:
        import optuna

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            proposing: optuna.samplers.BaseSampler
            if sampler == "random":
                proposing = optuna.samplers.RandomSampler(seed=seed)
            else:
                proposing = optuna.samplers.TPESampler(
                    seed=seed, multivariate=True, group=True, constant_liar=True,
                    n_startup_trials=_STARTUP_TRIALS,
                )  # fmt: skip
        self._study = OptunaStudy(space, proposing, [metric.direction])
        # A random search that goes on draws all again that it has drawn before.
        draws = {"draws": _MOST_DRAWN_AGAIN} if sampler == "random" else {}
        self._ledger = Ledger(space, seed=seed, warm=warm, **draws)

    def propose(self) -> Candidate | None:
        """Return the next candidate; None when the space is exhausted."""
        candidate = self._ledger.next([(self._study.space, self._study.draw)])
        if candidate is not None:
            self._study.begin(candidate)
        return candidate

    def observe(self, trial: Trial) -> None:
        """Learn from a finished trial, rejected ones included (also from earlier sessions)."""
        self._ledger.note(trial)
        score = score_of(trial)
        self._study.learn(trial, None if score is None else [score])


class Nsga2Searcher:
    """NSGA-II (Deb et al. 2002) over two objectives: validation score, and a cost.

    The cost is the cost model's, known before a trial. Optuna crosses only parameters that all trials have,
    so every trial gets a value of every domain, and those that do not count are genes that lie dormant. A
    trial stopped early stands with its last score. Of 200 trials Optuna's usual population of 50 makes four
    generations; 20 make ten.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int,
        metric: Metric,
        warm: Sequence[Candidate] = (),
        objective: Objective = "share",
    ) -> None:
        import optuna

        self._objective: Objective = objective
        sampler = optuna.samplers.NSGAIISampler(seed=seed, population_size=_POPULATION)
        directions = [metric.direction, "minimize"]
        self._study = OptunaStudy(space, sampler, directions, flat=True, prunes=False)
        self._ledger = Ledger(space, seed=seed, warm=warm)

    def propose(self) -> Candidate | None:
        """Return the next candidate; None when the space is exhausted."""
        candidate = self._ledger.next([(self._study.space, self._study.draw)])
        if candidate is not None:
            self._study.begin(candidate)
        return candidate

    def observe(self, trial: Trial) -> None:
        """Learn from a finished trial, rejected ones included (also from earlier sessions)."""
        self._ledger.note(trial)
        score, cost = score_of(trial), trial.predicted.amount(self._objective) if trial.predicted else None
        self._study.learn(trial, None if score is None or cost is None else [score, cost])
