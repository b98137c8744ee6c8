"""What of a study is written into a run: parameters and metrics, in the form that MLflow takes."""

from __future__ import annotations

import math
import re
import time
from typing import TYPE_CHECKING

from autopeft.plan.plan import Plan
from autopeft.search.study import Study, Trial
from autopeft.space.candidate import Candidate
from autopeft.tracking.mlflow_names import PROFILE, PROFILE_DIGEST, SEVERAL
from autopeft.train.result import Report

if TYPE_CHECKING:
    from mlflow.entities import Metric

_FORBIDDEN = re.compile(r"[^\w\-. /:]")


def candidate_params(candidate: Candidate) -> dict[str, object]:
    """Return a candidate as flat parameters; a method's own knobs are called `knob.NAME`."""
    fields = candidate.model_dump(mode="json", exclude={"training", "knobs"})
    knobs = {f"knob.{name}": value for name, value in candidate.knobs.items()}
    return {**fields, **knobs, **candidate.training.model_dump(mode="json")}


def study_params(study: Study, plan: Plan) -> dict[str, object]:
    """Return what a study searches, where and under which budget."""
    budget = {f"budget.{name}": value for name, value in plan.budget if value is not None}
    return {
        "model": plan.model,
        "space": plan.space,
        "task": plan.workload.task,
        "train_rows": plan.workload.rows,
        "metric": study.metric.name,
        "direction": study.metric.direction,
        "seed": study.seed,
        "device": plan.profile.device_name,
        "configurations_that_fit": len(plan.fits),
        "configurations_rejected": len(plan.rejected),
        **profile_params(plan),
        **budget,
    }


def profile_params(plan: Plan) -> dict[str, object]:
    """Return for which device times are predicted, and for which measurement of it where there is but one."""
    digest = SEVERAL if plan.earlier else plan.profile.digest
    return {PROFILE: plan.profile.name, PROFILE_DIGEST: digest}


def predicted_metrics(trial: Trial, device: str) -> dict[str, float]:
    """Return what was predicted for a trial on a kind of device; empty where nothing was."""
    if trial.predicted is None:
        return {}
    low, expected, high = trial.predicted.memory.reported(device)
    metrics: dict[str, float] = {
        "predicted_low_bytes": low,
        "predicted_peak_bytes": expected,
        "predicted_high_bytes": high,
        "predicted_step_seconds": trial.predicted.time.step_seconds,
        "predicted_correction": trial.predicted.time.correction,
        "predicted_trainable_params": trial.predicted.trainable_params,
    }
    if trial.predicted.run_seconds is not None:
        metrics["predicted_run_seconds"] = trial.predicted.run_seconds
    return metrics


def report_points(report: Report, metric: str) -> list[Metric]:
    """Return an evaluation as points of metrics; their step is the number of training rows seen."""
    values = {
        **report.extra,
        metric: report.score,
        "peak_bytes": report.peak_bytes,
        "step_seconds": report.step_seconds,
    }
    if report.loss is not None:
        values["train_loss"] = report.loss
    return [point(name, value, report.samples) for name, value in values.items()]


def point(name: str, value: float, step: int) -> Metric:
    """Return one value of a metric."""
    from mlflow.entities import Metric

    return Metric(allowed(name), _shown(value), int(time.time() * 1000), step)


def is_same(known: float | None, value: float) -> bool:
    """Say whether a store's last value of a metric is the one that would be written."""
    shown = _shown(value)
    return known is not None and (known == shown or (math.isnan(known) and math.isnan(shown)))


def allowed(text: str) -> str:
    """Return a name that MLflow takes for a parameter or metric."""
    return _FORBIDDEN.sub("_", text)[:250]


def _shown(value: float) -> float:
    # Databases have no infinity that all of MLflow's stores agree on; a value without bound is no value.
    return float(value) if not math.isinf(value) else math.nan
