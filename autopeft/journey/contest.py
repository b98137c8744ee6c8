"""The contest on the test rows: the winner against the baselines; a trial is scored once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

import numpy as np

from autopeft.export.bundle import Evaluated
from autopeft.journey.pairing import lead
from autopeft.message import Message
from autopeft.report.facts import TestScore
from autopeft.report.intervals import bootstrap_interval, mean_interval, wilson
from autopeft.report.leads import DEFAULT, PROBE, UNTRAINED, WINNER
from autopeft.search.study import Study, Trial
from autopeft.workload.base_model import BaseModel
from autopeft.workload.dataset import Dataset
from autopeft.workload.splits import rows_fingerprint
from autopeft.workload.tasks import TASKS, Metric

if TYPE_CHECKING:
    from autopeft.train.evaluate import Evaluation


class Scores(Message):
    """The test scores of a study, the winner first.

    Attributes:
        trial: number of the winning trial; None where nothing was trained to the end.
        evaluated: of all trials that were ever scored, with what each test row contributed.
    """

    trial: int | None
    scores: tuple[TestScore, ...]
    evaluated: tuple[Evaluated, ...] = ()

    def configurations(self, study: Study) -> int:
        """Count the configurations that the test rows were used for, a probe or the base alone as one."""
        numbers = {each.trial for each in self.evaluated}
        keys = {trial.candidate.key for trial in study.trials if trial.number in numbers}
        return len(keys) + sum(score.contender in (PROBE, UNTRAINED) for score in self.scores)

    def cover(self, study: Study) -> bool:
        """Say whether these are of a study's winner, and of its default if that was trained to the end."""
        best, baseline = study.best, study.baseline
        if best is None or self.trial != best.number or self.of(best.number) is None:
            return best is None and self.trial is None
        scored = any(score.contender == DEFAULT for score in self.scores)
        return scored == (baseline is not None and baseline.state == "complete")

    def of(self, trial: int) -> Evaluated | None:
        """Return what a trial earned; None where it was not scored."""
        return next((each for each in self.evaluated if each.trial == trial), None)


def hold_contest(
    study: Study,
    base: BaseModel,
    dataset: Dataset,
    checkpoint: Callable[[int], Path],
    device: str,
    before: Scores,
) -> Scores:
    """Score the winner, the default and the simplest baseline on the test rows.

    Args:
        checkpoint: where a trial left its trained weights.
        before: what was scored earlier; it stays, and trials in it are not scored again on the same rows.
    """
    from autopeft.train.evaluate import Evaluation
    from autopeft.train.scoring import make_scoring
    from autopeft.train.trainer import TrainerFactory, evaluate_base

    best = study.best
    if best is None:
        return before.model_copy(update={"trial": None, "scores": ()})

    make, kept = TrainerFactory(base=base, dataset=dataset, device=device), list(before.evaluated)
    fingerprint = rows_fingerprint(dataset.test)

    def trained(trial: Trial) -> Evaluation:
        known = before.of(trial.number)
        if known is not None and known.rows == fingerprint:
            scoring = make_scoring(base, dataset, trial.candidate.training)
            return Evaluation(facts=np.array(known.facts, dtype=np.float64), scoring=scoring)
        trainer = make(trial.candidate, study.seed_of(trial))
        trainer.restore(checkpoint(trial.number))
        found = trainer.evaluate("test")
        kept[:] = [each for each in kept if each.trial != trial.number]  # of other test rows
        kept.append(evaluated(trial.number, found, dataset))
        return found

    winner = trained(best)
    scores = [_score(WINNER, best.candidate.label, winner, dataset, trial=best)]
    baseline = study.baseline
    if baseline is not None and baseline.state == "complete":
        other = winner if best.number == baseline.number else trained(baseline)
        scores.append(
            _score(DEFAULT, baseline.candidate.label, other, dataset, trial=baseline, against=winner)
        )
    if TASKS[dataset.task].baseline == "probe":
        from autopeft.train.probe import linear_probe

        validation, test = linear_probe(
            *(base, dataset, best.candidate.training),
            quantization=best.candidate.quantization,
            device=device,
        )
        number = TASKS[dataset.task].outputs == "number"
        label = f"{'ridge' if number else 'logistic'} regression on frozen features"
        probe = _score(PROBE, label, test, dataset, against=winner)
        scores.append(probe.model_copy(update={"validation_score": validation.score}))
    elif TASKS[dataset.task].baseline == "untrained":
        untrained = evaluate_base(base, dataset, best.candidate, device=device)
        scores.append(_score(UNTRAINED, "the base model as it is", untrained, dataset, against=winner))
    return Scores(trial=best.number, scores=tuple(scores), evaluated=tuple(kept))


def evaluated(trial: int, evaluation: Evaluation, dataset: Dataset) -> Evaluated:
    """Return what a trial earned on the test rows, to be kept."""
    low, high = interval_of(dataset.metric, evaluation)
    return Evaluated(
        trial=trial,
        metric=dataset.metric,
        score=evaluation.score,
        low=low,
        high=high,
        further=evaluation.extra,
        rows=rows_fingerprint(dataset.test),
        facts=tuple(tuple(row) for row in evaluation.facts.tolist()),
    )


def _score(
    contender: str,
    label: str,
    evaluation: Evaluation,
    dataset: Dataset,
    *,
    trial: Trial | None = None,
    against: Evaluation | None = None,
) -> TestScore:
    low, high = interval_of(dataset.metric, evaluation)
    gains: Mapping[str, float] = {}
    if against is not None:
        gains = dict(
            zip(
                ("lead", "lead_low", "lead_high"),
                lead(dataset.metric, against.facts, evaluation.facts),
                strict=True,
            )
        )
    result, predicted = (trial.result, trial.predicted) if trial else (None, None)
    return TestScore(
        contender=contender,
        label=label,
        test_score=evaluation.score,
        low=low,
        high=high,
        validation_score=result.score if result else None,
        trainable_params=predicted.trainable_params if predicted else None,
        train_seconds=result.reports[-1].seconds if result and result.reports else None,
        extra=evaluation.extra,
        **gains,
    )


def interval_of(metric: Metric, evaluation: Evaluation) -> tuple[float, float]:
    """Return the interval of a score, made as its metric says."""
    match metric.interval:
        case "proportion":
            return wilson(round(sum(evaluation.values)), len(evaluation.values))
        case "mean":
            return mean_interval(evaluation.values)
        case "bootstrap":
            low, high = bootstrap_interval(
                len(evaluation.facts), lambda rows: evaluation.scoring.score(evaluation.facts[rows])
            )
            return min(low, evaluation.score), max(high, evaluation.score)
        case _:
            assert_never(metric.interval)
