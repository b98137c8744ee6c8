"""Comparing: two studies or bundles, row by row where they were scored on the same rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autopeft.errors import InputError, UnscoredError
from autopeft.export.bundle import Bundle, Evaluated
from autopeft.export.names import EVALUATION, MANIFEST
from autopeft.export.opening import open_bundle
from autopeft.journey.concluding import Finished, open_scored
from autopeft.journey.pairing import lead
from autopeft.journey.workspace import existing_study
from autopeft.methods.registry import complete
from autopeft.report.comparison import Comparison, Side
from autopeft.report.intervals import mean_interval, separate_difference
from autopeft.request import Request
from autopeft.search.study import Trial
from autopeft.space.candidate import Candidate
from autopeft.workload.tasks import HELD_OUT_LOSS, RELATIVE_ERROR, Metric

_PAIRED = {
    "proportion": "the same rows, paired: Bonett and Price's interval, McNemar's exact test",
    "mean": "the same rows, paired: Student's t on the differences",
    "bootstrap": "the same rows, drawn again together 1,000 times",
}
_ABSOLUTE_ERROR = Metric(name="mean absolute error", direction="minimize")
"""Of studies whose relative errors are shares of different numbers."""
_APART = "other rows, so not paired: Newcombe's interval from the two intervals, wider than a paired one"


def compare(one: str, other: str, workspace: str, storage: str | None = None) -> Comparison:
    """Hold two results side by side.

    Args:
        one, other: a directory that holds a bundle, or the name of a study.
        storage: URL of the database, for studies that are in one; None is where they were begun.

    Raises:
        InputError: there is no such thing, or they have different metrics.
        BundleError: a bundle is not as it was exported.
        ClaimedError: a study has to be scored, and another process searches or exports it.
    """
    return _held(_side(one, workspace, storage), _side(other, workspace, storage))


def compare_studies(one: str, other: str, workspace: str) -> Comparison:
    """Hold two studies side by side by the test scores that are kept of them; nothing is scored now.

    Raises:
        InputError: there is no such study, or they have different metrics.
        UnscoredError: the winner of one of them was not scored yet.
    """
    return _held(*(_kept_side(Request(study=each, workspace=workspace)) for each in (one, other)))


def _held(one: tuple[Side, Evaluated], other: tuple[Side, Evaluated]) -> Comparison:
    """Hold two results side by side."""
    (left, first), (right, second) = one, other
    if first.metric != second.metric:
        raise InputError(
            f"two results must have the same metric, but got {first.metric.name} ({left.place}) and "
            f"{second.metric.name} ({right.place})."
        )
    if first.metric == RELATIVE_ERROR and not _same_spread(first, second):
        (left, first), (right, second) = _in_own_unit(left, first), _in_own_unit(right, second)
    metric = first.metric
    if first.rows != second.rows or len(first.facts) != len(second.facts):
        found = separate_difference(
            (first.score, first.low, first.high), (second.score, second.low, second.high)
        )
        return _compared(metric, left, right, found, paired=False)
    mine, its = np.array(first.facts), np.array(second.facts)
    made = _compared(metric, left, right, lead(metric, mine, its), paired=True)
    if metric.interval != "proportion":
        return made
    from scipy.stats import binomtest

    only_one = int(((mine[:, 0] > 0) & (its[:, 0] <= 0)).sum())
    only_other = int(((its[:, 0] > 0) & (mine[:, 0] <= 0)).sum())
    apart = only_one + only_other
    p_value = float(binomtest(only_one, apart, 0.5).pvalue) if apart else 1.0
    return made.model_copy(update={"p_value": p_value, "only_one": only_one, "only_other": only_other})


def _compared(
    metric: Metric, one: Side, other: Side, found: tuple[float, float, float], *, paired: bool
) -> Comparison:
    difference, low, high = found
    sign = 1 if metric.direction == "maximize" else -1
    if metric == HELD_OUT_LOSS and one.model != other.model:
        verdict = (
            f"No verdict: the losses are of {one.model} and {other.model}, whose tokens need not be the "
            "same, so that a lower one need not be better."
        )
    elif not (low > 0 or high < 0):
        verdict = f"No difference beyond noise: {difference:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}."
    else:
        better = one if sign * difference > 0 else other
        verdict = (
            f"{better.place} is better, by {abs(difference):.4f} in {metric.name} (95 % interval of the "
            f"difference {low:+.4f} to {high:+.4f})."
        )
    return Comparison(
        metric=metric,
        one=one,
        other=other,
        paired=paired,
        test=_PAIRED[metric.interval] if paired else _APART,
        difference=difference,
        low=low,
        high=high,
        verdict=verdict,
    )


def _same_spread(one: Evaluated, other: Evaluated) -> bool:
    """Say whether two studies' errors are shares of the same number, the spread of their training rows."""
    mine, its = (np.array(each.facts, dtype=np.float64)[:, 0].sum() for each in (one, other))
    return bool(np.isclose(_errors(one).sum() * its, _errors(other).sum() * mine, rtol=1e-6))


def _errors(earned: Evaluated) -> NDArray[np.float64]:
    _, predicted, right = np.array(earned.facts, dtype=np.float64).T
    errors: NDArray[np.float64] = np.abs(predicted - right)
    return errors


def _in_own_unit(side: Side, earned: Evaluated) -> tuple[Side, Evaluated]:
    """Return a result whose score is the mean absolute error in the unit of the numbers themselves."""
    errors = _errors(earned)
    low, high = mean_interval(errors.tolist())
    found = {"score": float(errors.mean()), "low": low, "high": high}
    facts = tuple((float(error), *row[1:]) for error, row in zip(errors, earned.facts, strict=True))
    return (
        side.model_copy(update=found),
        earned.model_copy(update={**found, "metric": _ABSOLUTE_ERROR, "facts": facts}),
    )


def _side(name: str, workspace: str, storage: str | None) -> tuple[Side, Evaluated]:
    """Return one result with what each of its test rows contributed."""
    if (Path(name) / MANIFEST).exists():
        return _of_bundle(open_bundle(Path(name)))
    in_file = not existing_study(workspace, name).storage.exists()
    request = Request(study=name, workspace=workspace, storage=None if in_file else storage)
    Finished(request).trial(None)  # where nothing was trained to the end there is nothing to score
    open_scored(request)
    return _kept_side(request)


def _kept_side(request: Request) -> tuple[Side, Evaluated]:
    """Return a study with what each of its test rows contributed, as it was kept."""
    done = Finished(request)
    name, best = done.folder.path.name, done.trial(None)
    earned = done.kept_scores().of(best.number)
    if earned is None:
        raise UnscoredError(
            f"a comparison needs test scores, but the winner of study {name!r} (trial {best.number}) has "
            "none: autopeft run and autopeft report score it."
        )
    return _of_study(name, best, earned, done), earned


def _of_bundle(bundle: Bundle) -> tuple[Side, Evaluated]:
    file = Path(bundle.path) / EVALUATION
    if not file.exists():
        raise InputError(f"{bundle.path} does not hold what its test rows contributed: export it anew.")
    earned, last = Evaluated.read(file), bundle.measured.reports[-1] if bundle.measured.reports else None
    predicted = bundle.predicted
    side = _made(bundle.path, bundle.candidate, earned).model_copy(
        update={
            "model": bundle.model,
            "data": bundle.data,
            "trainable_params": predicted.trainable_params if predicted else None,
            "adapter_bytes": sum(each.stat().st_size for each in Path(bundle.path).glob("*.safetensors")),
            "peak_bytes": bundle.measured.peak_bytes if last else None,
            "train_seconds": last.seconds if last else None,
        }
    )
    return side, earned


def _of_study(name: str, best: Trial, earned: Evaluated, done: Finished) -> Side:
    result, predicted = best.result, best.predicted
    last = result.reports[-1] if result and result.reports else None
    return _made(name, best.candidate, earned).model_copy(
        update={
            "model": done.plan.model,
            "data": done.request.data or done.request.demo or "",
            "trainable_params": predicted.trainable_params if predicted else None,
            "adapter_bytes": predicted.adapter_file_bytes if predicted else None,
            "peak_bytes": result.peak_bytes if result and last else None,
            "train_seconds": last.seconds if last else None,
        }
    )


def _made(place: str, candidate: Candidate, earned: Evaluated) -> Side:
    full = complete(candidate)
    fields = full.model_dump(mode="json", exclude={"training", "knobs"})
    whole = {**fields, **full.knobs, **full.training.model_dump(mode="json")}
    return Side(
        place=place,
        label=candidate.label,
        model="",
        data="",
        rows=len(earned.facts),
        score=earned.score,
        low=earned.low,
        high=earned.high,
        fields={name: str(value) for name, value in whole.items()},
    )
