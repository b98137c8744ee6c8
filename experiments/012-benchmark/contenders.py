"""Contenders: the searches that are held against autopeft's, on the same recordings."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import cache
from typing import Any

from record import MAIN
from replay import Table, Trace

from autopeft.search.encoding import Encoding
from autopeft.search.experience import Experience, recorded_studies
from autopeft.space.candidate import Candidate, Scalar
from autopeft.space.domain import Domain, assemble
from autopeft.space.reader import load_space
from autopeft.space.search_space import SearchSpace, active

_MOST_ASKED = 1000
_WORST_LOSS = 100.0
"""Log loss of a training that failed."""
_RATE = "training.learning_rate"


def random_search(table: Table, seed: int, trials: int) -> Trace:
    """Train `trials` candidates, drawn without replacement, each to its end."""
    every = table.candidates()
    trace = Trace()
    for candidate in random.Random(seed).sample(every, min(trials, len(every))):
        train(trace, table, candidate)
    return trace


@cache
def others_of(dataset: str) -> Experience:
    """Return what autopeft brings along but for what was recorded on this dataset."""
    studies = [each for each in recorded_studies("encoder", "classification") if each.name != dataset]
    return Experience(studies, load_space(str(MAIN.space)), studies[0].model)


def in_order(table: Table, known: Experience, budget_samples: float) -> Trace:
    """Train candidates to their ends, in the order of what is believed of them from the start."""
    every = table.candidates()
    believed = known.believed(Encoding(table.space).features(every))
    trace = Trace()
    for place in (-believed.mean).argsort():
        if trace.samples and trace.samples[-1] >= budget_samples:
            break
        train(trace, table, every[place])
    return trace


def tpe_with_asha(
    table: Table,
    seed: int,
    *,
    reduction: int,
    budget_samples: float,
    enough: float = math.inf,
    by_loss: bool = False,
) -> Trace:
    """Run Ray Tune's `OptunaSearch` (TPE) under its `ASHAScheduler`, one trial after the other.

    The two are Ray's own; what is left out is the training and Tune's event loop between them. The space is
    handed over as a define-by-run function, which is Ray's way for spaces with conditions; learning rates are
    drawn from a log-uniform range, as everybody does, and rounded to the nearest recorded one. One
    that comes again has its known curve and costs nothing.

    Args:
        by_loss: both judge by the log loss of the validation rows instead of their accuracy.
    """
    import optuna
    from ray.tune.schedulers import ASHAScheduler, TrialScheduler
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rungs = table.rungs.samples
    searcher = OptunaSearch(
        space=lambda trial: suggest(table.space, trial), metric="judged", mode="max", seed=seed
    )
    scheduler = ASHAScheduler(
        *("samples", "judged", "max"), max_t=rungs[-1], grace_period=rungs[0], reduction_factor=reduction
    )
    trace = Trace()
    tried: set[str] = set()
    number = 0
    while (
        number < _MOST_ASKED
        and (not trace.samples or trace.samples[-1] < budget_samples)
        and not (trace.best and trace.best[-1] >= enough)
    ):
        trial = _Trial(f"{number}")
        number += 1
        config = searcher.suggest(trial.trial_id)
        candidate = candidate_of(table.space, config)
        if (candidate.key, 0) not in table.recordings:
            searcher.on_trial_complete(trial.trial_id, error=True)
            continue
        recording = table.recordings[candidate.key, 0]
        known = candidate.key in tried
        tried.add(candidate.key)
        scheduler.on_trial_add(None, trial)
        seen, result, setup = 0, {}, recording.setup_seconds
        for point in recording.points:
            judged = -min(point.log_loss, _WORST_LOSS) if by_loss else point.score
            result = {"samples": point.samples, "judged": judged, "training_iteration": point.samples}
            last = point.samples == rungs[-1]
            paid = 0 if known else 1
            seconds, setup = point.seconds + setup, 0.0
            done = (point.score, candidate.key) if last else None
            _step(trace, paid * (point.samples - seen), paid * seconds, done)
            seen = point.samples
            if not last:
                searcher.on_trial_result(trial.trial_id, result)
            if scheduler.on_trial_result(None, trial, result) != TrialScheduler.CONTINUE:
                break
        scheduler.on_trial_complete(None, trial, result)
        searcher.on_trial_complete(trial.trial_id, result)
    return trace


@dataclass
class _Trial:
    """As much of Tune's trial as its scheduler looks at."""

    trial_id: str


def train(trace: Trace, table: Table, candidate: Candidate) -> None:
    """Train a candidate to its end."""
    recording = table.recordings[candidate.key, 0]
    seen, setup = 0, recording.setup_seconds
    for point in recording.points:
        done = (point.score, candidate.key) if point is recording.points[-1] else None
        _step(trace, point.samples - seen, point.seconds + setup, done)
        setup = 0.0
        seen = point.samples


def _step(trace: Trace, samples: int, seconds: float, done: tuple[float, str] | None) -> None:
    before = trace.seconds[-1] if trace.seconds else 0.0
    trace.add(samples, before + seconds, done)


def suggest(space: SearchSpace, trial: Any) -> None:
    """Ask an Optuna trial for a value of every field that counts, learning rates from a range."""
    values: dict[str, Scalar] = {}
    while (domain := _open(space, values)) is not None:
        listed = domain.allowed.values
        name = _name(space, domain)
        if domain.field == _RATE:
            drawn = trial.suggest_float(name, min(listed), max(listed), log=True)
        else:
            drawn = trial.suggest_categorical(name, list(listed))
        values[domain.field] = _listed(domain, drawn)


def candidate_of(space: SearchSpace, config: dict[str, Any]) -> Candidate:
    """Return the candidate of what was suggested, with the nearest listed learning rate."""
    values: dict[str, Scalar] = {}
    while (domain := _open(space, values)) is not None:
        values[domain.field] = _listed(domain, config[_name(space, domain)])
    return assemble({**space.fixed, **values})


def _open(space: SearchSpace, values: dict[str, Scalar]) -> Domain | None:
    return next((each for each in active(space, values) if each.field not in values), None)


def _name(space: SearchSpace, domain: Domain) -> str:
    same = [each for each in space.domains if each.field == domain.field]
    return domain.field if len(same) == 1 else f"{domain.field}#{same.index(domain)}"


def _listed(domain: Domain, value: Any) -> Scalar:
    if domain.field != _RATE:
        return value
    return min(domain.allowed.values, key=lambda each: abs(math.log(each / value)))
