"""Why this winner: which fields decided, and what was never tried and why; facts before pictures."""

from __future__ import annotations

import math
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from autopeft.plan.plan import Plan
from autopeft.report.facts import Importance, Importances, Untried
from autopeft.search.study import Study, Trial
from autopeft.space.candidate import Candidate, Scalar

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

LEAST_TRIALS = 10
_DEEPEST = 8
"""Levels of fANOVA's trees; its time grows with the square of their leaves (minutes for 1,000 trials)."""
_TOP_TRIALS = 5
_FIELDS = ("method", "rank", "targets", "layers", "quantization")
_NUMBER = re.compile(r"\d[\d,.]*(?:e[-+]?\d+)?")


def importances(study: Study) -> Importances | None:
    """Return how much each searched field decided; None below 10 scored trials, or where none differ.

    Trials stop at different places, so they are compared at the evaluation that most of them have reached,
    the latest of those. PED-ANOVA (Watanabe et al. 2023, arXiv:2304.10255) asks what sets the best trials
    apart from the rest, each conditional field among the trials that have it (arXiv:2601.20800); fANOVA
    (Hutter et al. 2014) says how the variance of scores divides among the fields that all trials have. Both
    say what mattered within what was tried, not what would elsewhere.
    """
    samples, scored = _comparable(study)
    if len(scored) < LEAST_TRIALS or len({score for _, score in scored}) < 2:
        return None
    import optuna

    fields = _varying(trial.candidate for trial, _ in scored)
    if not fields:
        return None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    told = optuna.create_study(direction=study.metric.direction)
    for trial, score in scored:
        values = {name: value for name, value in _values(trial.candidate).items() if name in fields}
        distributions = {name: fields[name] for name in values}
        told.add_trial(optuna.trial.create_trial(value=score, params=values, distributions=distributions))
    top = min(0.5, max(0.1, _TOP_TRIALS / len(scored)))
    common = [name for name in fields if all(name in _values(trial.candidate) for trial, _ in scored)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ped = optuna.importance.get_param_importances(
            told, evaluator=optuna.importance.PedAnovaImportanceEvaluator(target_quantile=top)
        )
        variance = optuna.importance.get_param_importances(
            told,
            evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0, max_depth=_DEEPEST),
            params=common,
        )
    rows = tuple(
        Importance(
            field=name,
            share=ped[name],
            variance=variance.get(name),
            trials=sum(name in _values(trial.candidate) for trial, _ in scored),
        )
        for name in sorted(ped, key=lambda name: -ped[name])
    )
    return Importances(samples=samples, trials=len(scored), top=math.ceil(top * len(scored)), rows=rows)


def untried(study: Study, plan: Plan) -> tuple[Untried, ...]:
    """Return what was refused before it was trained, counted by reason, the most frequent first.

    Reasons that differ in their numbers alone are one. What the plan refused and what the search did is
    counted once for each configuration that costs differently.
    """
    refused = [(one.candidate, one.reason) for one in plan.rejected]
    refused += [(trial.candidate, trial.reason) for trial in study.trials if trial.state == "rejected"]
    groups: dict[str, dict[str, tuple[Candidate, str]]] = defaultdict(dict)
    for candidate, reason in refused:
        groups[_NUMBER.sub("#", reason)].setdefault(candidate.footprint, (candidate, reason))
    ranked = sorted(groups.values(), key=len, reverse=True)
    found = []
    for group in ranked:
        candidate, reason = next(iter(group.values()))
        methods = tuple(dict.fromkeys(each.method for each, _ in group.values()))
        found.append(Untried(reason=reason, count=len(group), example=candidate.label, methods=methods))
    return tuple(found)


def _comparable(study: Study) -> tuple[int, list[tuple[Trial, float]]]:
    """Return the evaluation that most trials reached, the latest of those, and their scores there."""
    curves = {
        trial.number: {report.samples: report.score for report in trial.result.reports if report.is_finite}
        for trial in study.trials
        if trial.result and trial.result.reports
    }
    reached = Counter(samples for curve in curves.values() for samples in curve)
    at = max(reached, key=lambda samples: (reached[samples], samples), default=0)
    return at, [
        (trial, curves[trial.number][at]) for trial in study.trials if at in curves.get(trial.number, {})
    ]


def _values(candidate: Candidate) -> Mapping[str, Scalar]:
    """Return what a candidate sets, by field; lists as words."""
    fields: dict[str, object] = {name: getattr(candidate, name) for name in _FIELDS}
    fields |= {f"knobs.{name}": value for name, value in candidate.knobs.items()}
    fields |= {f"training.{name}": value for name, value in candidate.training.model_dump().items()}
    return {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in fields.items()
        if value is not None
    }


def _varying(candidates: Iterable[Candidate]) -> dict[str, BaseDistribution]:
    """Return the fields that differ between candidates, with the range of what they were."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    seen: dict[str, set[Scalar]] = defaultdict(set)
    for candidate in candidates:
        for name, value in _values(candidate).items():
            seen[name].add(value)
    found: dict[str, BaseDistribution] = {}
    for name, values in seen.items():
        if len(values) < 2:
            continue
        numbers = [
            value for value in values if isinstance(value, int | float) and not isinstance(value, bool)
        ]
        if len(numbers) == len(values) and len(values) > 4 and min(numbers) > 0:
            found[name] = FloatDistribution(min(numbers), max(numbers), log=True)
        else:
            found[name] = CategoricalDistribution(sorted(values, key=str))
    return found
