"""OptunaStudy: a search space and the trials of it as Optuna's samplers see them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from autopeft.search.study import Trial
from autopeft.space.candidate import Candidate, Scalar
from autopeft.space.domain import Allowed, Choice, Domain, Switches
from autopeft.space.search_space import SearchSpace, active, assignment_of, candidate_from

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution


class OptunaStudy:
    """A study of Optuna's in memory, told what is being tried and what came of it.

    Args:
        sampler: what proposes.   directions: of the values that a trial is told with.
        flat: ask for a value of every domain, also where it does not count: a fixed set of parameters, for
            samplers that draw all others at random without saying so.
        prunes: a trial without a whole training is told as pruned, with its curve; else with its last score.
    """

    def __init__(
        self,
        space: SearchSpace,
        sampler: optuna.samplers.BaseSampler,
        directions: Sequence[Literal["maximize", "minimize"]],
        *,
        flat: bool = False,
        prunes: bool = True,
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space = space
        self._study = optuna.create_study(directions=list(directions), sampler=sampler)
        self._flat = flat
        self._prunes = prunes
        self._drawn: tuple[optuna.Trial, Candidate] | None = None
        self._asked: dict[str, optuna.Trial] = {}

    def draw(self) -> Candidate:
        """Return what the sampler proposes; a draw that `begin` was not told of is forgotten at the next."""
        self._drop()
        self._drawn = self._ask()
        return self._drawn[1]

    def begin(self, candidate: Candidate) -> bool:
        """Tell the sampler that a candidate is being tried; False where it lies outside the space."""
        if self._drawn is None or self._drawn[1] != candidate:
            self._drop()
            from optuna.samplers import BaseGASampler

            values = assignment_of(self.space, candidate)
            if values is None:
                return False
            self._study.enqueue_trial(self._params(values))
            self._drawn = self._ask()
            if isinstance(self._study.sampler, BaseGASampler):
                # A trial without a generation, as one whose values are given, would be no parent.
                trials = self._study.get_trials(deepcopy=False)
                self._study.sampler.get_trial_generation(self._study, trials[self._drawn[0].number])
        self._asked[candidate.key], self._drawn = self._drawn[0], None
        return True

    def learn(self, trial: Trial, values: Sequence[float] | None) -> bool:
        """Tell the sampler how a trial ended; False where it lies outside the space.

        Args:
            values: one for each direction; None for a trial that has none.
        """
        import optuna

        candidate, state = trial.candidate, optuna.trial.TrialState
        assigned = assignment_of(self.space, candidate)
        if assigned is None or not trial.finished:
            return assigned is not None
        if not self._prunes and candidate.key not in self._asked:
            self.begin(candidate)
        asked = self._asked.pop(candidate.key, None)
        if asked is not None and not self._prunes:
            self._study.tell(asked, values, state.FAIL if values is None else state.COMPLETE)
            return True
        if asked is not None:
            self._study.tell(asked, state=state.FAIL)
        whole = values is not None and trial.state == "complete"
        reports = trial.result.reports if trial.result else ()
        self._study.add_trial(
            optuna.trial.create_trial(
                state=state.COMPLETE if whole else state.PRUNED,
                values=values if whole else None,
                params=self._params(assigned),
                distributions=self._distributions(assigned),
                intermediate_values={
                    report.samples: report.score for report in reports if not math.isnan(report.score)
                },
            )
        )
        return True

    def _ask(self) -> tuple[optuna.Trial, Candidate]:
        trial = self._study.ask()
        if self._flat:
            for domain in self.space.domains:
                _suggest(trial, self._name(domain), domain.allowed)
        values: dict[str, Scalar] = {}
        while left := [each for each in active(self.space, values) if each.field not in values]:
            values[left[0].field] = _suggest(trial, self._name(left[0]), left[0].allowed)
        return trial, candidate_from(self.space, values)

    def _drop(self) -> None:
        import optuna

        if self._drawn is not None:
            self._study.tell(self._drawn[0], state=optuna.trial.TrialState.FAIL)
            self._drawn = None

    def _name(self, domain: Domain) -> str:
        """Name Optuna's parameter: one per domain, since one name can have but one distribution."""
        same = [each for each in self.space.domains if each.field == domain.field]
        return domain.field if len(same) == 1 else f"{domain.field}#{same.index(domain)}"

    def _valued(self, values: Mapping[str, Scalar]) -> list[tuple[Domain, Scalar]]:
        counting = active(self.space, values)
        valued = [(each, values[each.field]) for each in counting]
        if self._flat:
            valued += [(each, each.allowed.typical) for each in self.space.domains if each not in counting]
        return valued

    def _params(self, values: Mapping[str, Scalar]) -> dict[str, Any]:
        return {
            part: value
            for each, chosen in self._valued(values)
            for part, value in _split(self._name(each), each.allowed, chosen).items()
        }

    def _distributions(self, values: Mapping[str, Scalar]) -> dict[str, BaseDistribution]:
        return {
            part: distribution
            for each, _ in self._valued(values)
            for part, distribution in _drawn_from(self._name(each), each.allowed).items()
        }


def score_of(trial: Trial) -> float | None:
    """Return the last score of a trial; None where it has none to learn from."""
    score = trial.result.score if trial.result else math.nan
    return None if math.isnan(score) else score


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
