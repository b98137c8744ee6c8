"""The contest on the test rows: the winner against the baselines, each scored once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from autopeft.message import Message
from autopeft.report.decide import DEFAULT, PROBE, UNTRAINED, WINNER
from autopeft.report.facts import TestScore
from autopeft.report.intervals import bootstrap_interval, mean_interval, paired_difference, wilson
from autopeft.search.study import Study, Trial
from autopeft.workload.base_model import BaseModel
from autopeft.workload.dataset import Dataset
from autopeft.workload.tasks import TASKS, Metric

if TYPE_CHECKING:
    from autopeft.train.evaluate import Evaluation


class Scores(Message):
    """The test scores of a study, the winner first.

    Attributes:
        trial: number of the winning trial; None where nothing was trained to the end.
    """

    trial: int | None
    scores: tuple[TestScore, ...]


def hold_contest(
    study: Study, base: BaseModel, dataset: Dataset, checkpoint: Callable[[int], Path], device: str
) -> Scores:
    """Score the winner, the default and the simplest baseline on the test rows.

    Args:
        checkpoint: where a trial left its trained weights.
    """
    from autopeft.train.trainer import TrainerFactory, evaluate_base

    best = study.best
    if best is None:
        return Scores(trial=None, scores=())

    make = TrainerFactory(base=base, dataset=dataset, device=device)

    def trained(trial: Trial) -> Evaluation:
        trainer = make(trial.candidate, study.seed_of(trial))
        trainer.restore(checkpoint(trial.number))
        return trainer.evaluate("test")

    winner = trained(best)
    scores = [_score(WINNER, best.candidate.label, winner, dataset, trial=best)]
    baseline = study.baseline
    if baseline is not None and baseline.state == "complete":
        other = winner if study.is_default(best) else trained(baseline)
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
    return Scores(trial=best.number, scores=tuple(scores))


def _score(
    contender: str,
    label: str,
    evaluation: Evaluation,
    dataset: Dataset,
    *,
    trial: Trial | None = None,
    against: Evaluation | None = None,
) -> TestScore:
    low, high = _interval(dataset.metric, evaluation)
    lead: Mapping[str, float] = {}
    if against is not None:
        lead = dict(
            zip(("lead", "lead_low", "lead_high"), _lead(dataset.metric, against, evaluation), strict=True)
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
        **lead,
    )


def _interval(metric: Metric, evaluation: Evaluation) -> tuple[float, float]:
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


def _lead(metric: Metric, one: Evaluation, other: Evaluation) -> tuple[float, float, float]:
    """Return how much more the first scores on the same rows, with its paired interval."""
    match metric.interval:
        case "proportion":
            return paired_difference([value > 0 for value in one.values], [v > 0 for v in other.values])
        case "mean":
            differences = [mine - its for mine, its in zip(one.values, other.values, strict=True)]
            return (sum(differences) / len(differences), *mean_interval(differences))
        case "bootstrap":
            lead = one.score - other.score
            low, high = bootstrap_interval(
                len(one.facts),
                lambda rows: one.scoring.score(one.facts[rows]) - other.scoring.score(other.facts[rows]),
            )
            return lead, min(low, lead), max(high, lead)
        case _:
            assert_never(metric.interval)
