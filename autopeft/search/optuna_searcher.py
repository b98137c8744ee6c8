"""Searchers that let Optuna propose: TPE, or plain random sampling as the yardstick."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from autopeft.search.study import Trial
from autopeft.space.candidate import Candidate, Scalar
from autopeft.space.domain import Allowed, Choice, Domain, Switches, assemble
from autopeft.space.search_space import (
    SearchSpace,
    active,
    assignment_of,
    assignments,
    candidate_from,
    size,
)
from autopeft.workload.dataset import Metric

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

_RETRIES = 30
_MOST_LISTED = 20_000
_STARTUP_TRIALS = 4


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

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study = optuna.create_study(direction=metric.direction, sampler=_sampler(sampler, seed))
        self._space = space
        self._warm = list(warm)
        self._random = random.Random(seed)
        self._known: set[str] = set()
        self._asked: dict[str, optuna.Trial] = {}
        self._too_long: dict[str, float] = {}

    def propose(self) -> Candidate | None:
        """Return the next candidate; None when the space is exhausted."""
        while self._warm:
            candidate = self._warm.pop(0)
            if not self._pointless(candidate):
                values = assignment_of(self._space, candidate)
                if values is not None:
                    self._study.enqueue_trial(self._params(values))
                    return self._take(*self._ask())
                self._known.add(candidate.key)
                return candidate
        for _ in range(_RETRIES):
            trial, candidate = self._ask()
            if not self._pointless(candidate):
                return self._take(trial, candidate)
            self._forget(trial)
        return self._any_untried()

    def observe(self, trial: Trial) -> None:
        """Learn from a finished trial, rejected ones included (also from earlier sessions)."""
        import optuna

        candidate = trial.candidate
        self._known.add(candidate.key)
        if trial.state == "rejected":
            epochs = candidate.training.epochs
            self._too_long[candidate.footprint] = min(epochs, self._too_long.get(candidate.footprint, epochs))
        asked = self._asked.pop(candidate.key, None)
        if asked is not None:
            self._forget(asked)
        values = assignment_of(self._space, candidate)
        state = _state(trial)
        if values is None or state is None:
            return
        scores = trial.result.reports if trial.result else ()
        self._study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState[state],
                value=trial.result.score if trial.result and state == "COMPLETE" else None,
                params=self._params(values),
                distributions=self._distributions(values),
                intermediate_values={
                    report.samples: report.score for report in scores if not math.isnan(report.score)
                },
            )
        )

    def _ask(self) -> tuple[optuna.Trial, Candidate]:
        trial = self._study.ask()
        values: dict[str, Scalar] = {}
        while open_domains := [each for each in active(self._space, values) if each.field not in values]:
            domain = open_domains[0]
            values[domain.field] = _suggest(trial, self._name(domain), domain.allowed)
        return trial, candidate_from(self._space, values)

    def _take(self, trial: optuna.Trial, candidate: Candidate) -> Candidate:
        self._known.add(candidate.key)
        self._asked[candidate.key] = trial
        return candidate

    def _forget(self, trial: optuna.Trial) -> None:
        """Close a trial of Optuna's that is not to be learnt from."""
        import optuna

        self._study.tell(trial, state=optuna.trial.TrialState.FAIL)

    def _any_untried(self) -> Candidate | None:
        """Return any combination not tried yet, where they can be listed."""
        if size(self._space) > _MOST_LISTED:
            return None
        rest = [assemble({**self._space.fixed, **values}) for values in assignments(self._space)]
        rest = [candidate for candidate in rest if not self._pointless(candidate)]
        if not rest:
            return None
        candidate = self._random.choice(rest)
        self._known.add(candidate.key)
        return candidate

    def _pointless(self, candidate: Candidate) -> bool:
        rejected_epochs = self._too_long.get(candidate.footprint, math.inf)
        return candidate.key in self._known or candidate.training.epochs >= rejected_epochs

    def _name(self, domain: Domain) -> str:
        """Name Optuna's parameter: one per domain, since one name can have but one distribution."""
        same = [each for each in self._space.domains if each.field == domain.field]
        return domain.field if len(same) == 1 else f"{domain.field}#{same.index(domain)}"

    def _params(self, values: dict[str, Scalar]) -> dict[str, Any]:
        named = ((self._name(each), each) for each in active(self._space, values))
        return {
            part: value
            for name, each in named
            for part, value in _split(name, each.allowed, values[each.field]).items()
        }

    def _distributions(self, values: dict[str, Scalar]) -> dict[str, BaseDistribution]:
        named = ((self._name(each), each) for each in active(self._space, values))
        return {
            part: distribution
            for name, each in named
            for part, distribution in _drawn_from(name, each.allowed).items()
        }


def _sampler(kind: Literal["tpe", "random"], seed: int) -> optuna.samplers.BaseSampler:
    import optuna

    if kind == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(
        seed=seed, multivariate=True, group=True, constant_liar=True, n_startup_trials=_STARTUP_TRIALS
    )


def _state(trial: Trial) -> Literal["COMPLETE", "PRUNED"] | None:
    """Translate a trial's end for Optuna; None where it has no value to learn from.

    A pruned trial without intermediate values ranks last, which is what rejected and failed ones deserve.
    """
    if trial.state == "complete" and trial.result and not math.isnan(trial.result.score):
        return "COMPLETE"
    return "PRUNED" if trial.finished else None


def _suggest(trial: optuna.Trial, name: str, allowed: Allowed) -> Scalar:
    if isinstance(allowed, Switches):
        parts = (f"{name}.{place}" for place in range(allowed.switches))
        drawn = [bool(trial.suggest_categorical(part, (True, False))) for part in parts]
        # All off is no candidate; all on stands for it, and is what the sampler is told of.
        return allowed.turned(drawn if any(drawn) else [True] * len(drawn))
    if isinstance(allowed, Choice):
        chosen: Scalar = trial.suggest_categorical(name, allowed.choices)  # type: ignore[assignment]
        return chosen
    if allowed.whole:
        step = 1 if allowed.step is None else int(allowed.step)
        return trial.suggest_int(name, int(allowed.low), int(allowed.top), log=allowed.log, step=step)
    return trial.suggest_float(name, allowed.low, allowed.top, log=allowed.log, step=allowed.step)


def _split(name: str, allowed: Allowed, value: Scalar) -> dict[str, Any]:
    """Return a value as Optuna's parameters: one, or one for each switch."""
    if isinstance(allowed, Switches):
        return {f"{name}.{place}": each for place, each in enumerate(allowed.switched(value))}
    return {name: value}


def _drawn_from(name: str, allowed: Allowed) -> dict[str, BaseDistribution]:
    """Return the distributions that `_suggest` draws from: one, or one for each switch."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(allowed, Switches):
        return {
            f"{name}.{place}": CategoricalDistribution((True, False)) for place in range(allowed.switches)
        }
    if isinstance(allowed, Choice):
        return {name: CategoricalDistribution(allowed.choices)}
    if allowed.whole:
        step = 1 if allowed.step is None else int(allowed.step)
        return {name: IntDistribution(int(allowed.low), int(allowed.top), log=allowed.log, step=step)}
    return {
        name: FloatDistribution(float(allowed.low), float(allowed.top), log=allowed.log, step=allowed.step)
    }
