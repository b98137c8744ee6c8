"""Conclusion: from a finished study to the facts that the summary and the report show."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from autopeft.export.bundle import Bundle
from autopeft.hardware.profile import DeviceKind
from autopeft.journey.contest import Scores
from autopeft.journey.remembering import Memory
from autopeft.journey.workspace import StudyFolder
from autopeft.plan.plan import Plan
from autopeft.report.decide import decision
from autopeft.report.explain import importances, untried
from autopeft.report.facts import Compared, DataFacts, Session, StudyFacts
from autopeft.report.reasons import reasons
from autopeft.search.study import Study, Trial
from autopeft.space.counting import SpaceFacts
from autopeft.workload.dataset import Dataset

_PACKAGES = ("autopeft", "torch", "transformers", "peft", "optuna", "ray", "mlflow", "scikit-learn")


def data_facts(dataset: Dataset) -> DataFacts:
    """Describe a dataset without its rows."""
    return DataFacts(
        name=dataset.name,
        task=dataset.task,
        metric=dataset.metric,
        rows={split: len(getattr(dataset, split)) for split in ("train", "validation", "test")},
        labels=dataset.labels,
        columns=dataset.columns,
        source=dataset.source,
        fingerprint=dataset.fingerprint,
        notes=dataset.notes,
    )


def versions() -> dict[str, str]:
    """Return the versions of what a result depends on."""
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def compare(trial: Trial, device: DeviceKind) -> tuple[Compared, ...]:
    """Put a trial's predictions beside its measurements."""
    if trial.predicted is None or trial.result is None or not trial.result.reports:
        return ()
    time, last = trial.predicted.time, trial.result.reports[-1]
    low, expected, high = trial.predicted.memory.reported(device)
    rows = [
        Compared(
            quantity="peak memory of the process" if device == "cpu" else "peak memory reserved",
            unit="bytes",
            predicted=expected,
            low=low,
            high=high,
            measured=trial.result.peak_bytes,
        ),
        Compared(
            quantity="time of a training step",
            unit="seconds",
            predicted=time.step_seconds,
            low=time.low_seconds,
            high=time.high_seconds,
            measured=last.step_seconds,
        ),
    ]
    if trial.predicted.run_seconds is not None and trial.state == "complete":
        rows.append(
            Compared(
                quantity="time of the whole training",
                unit="seconds",
                predicted=trial.predicted.run_seconds,
                low=trial.predicted.run_seconds * time.low_seconds / time.step_seconds,
                high=trial.predicted.run_seconds * time.high_seconds / time.step_seconds,
                measured=last.seconds,
            )
        )
    return tuple(rows)


def conclude(
    *,
    study: Study,
    plan: Plan,
    data: DataFacts,
    scores: Scores,
    bundle: Bundle | None,
    folder: StudyFolder,
    seconds: Mapping[str, float],
    mlflow: str,
    space: SpaceFacts | None = None,
    session: Session | None = None,
    demo: bool = False,
) -> StudyFacts:
    """Gather everything a finished study has to say.

    Args:
        session: the last that came to its end; None where none was timed.
        space: what the search space holds; None where its file is gone.
        mlflow: where the runs are, or why they are not there.
        demo: whether the model and the data are those of a demo.
    """
    compared = compare(study.best, plan.profile.device) if study.best else ()
    places = {"report": str(folder.report), "study": str(folder.path), "mlflow": mlflow}
    if bundle is not None:
        places = {"adapter": bundle.path, **places}
    return StudyFacts(
        study=study,
        plan=plan,
        data=data,
        scores=scores.scores,
        comparisons=compared,
        decision=decision(study=study, plan=plan, data=data, scores=scores.scores, comparisons=compared),
        reasons=(
            *reasons(
                study=study,
                plan=plan,
                data=data,
                scores=scores.scores,
                comparisons=compared,
                session=session,
                tested=scores.configurations(study),
            ),
            *_began_with(folder),
            *_refit(bundle, folder),
        ),
        seconds=dict(seconds),
        places=places,
        next_steps=_next_steps(study, bundle, folder, demo=demo),
        environment=versions() | {"device": plan.profile.device_name, "system": platform.platform()},
        importances=importances(study),
        untried=untried(study, plan),
        combinations=None if space is None else space.combinations,
        continuous=space is not None and bool(space.continuous),
        session=session,
        tested=scores.configurations(study),
    )


def _began_with(folder: StudyFolder) -> tuple[str, ...]:
    words = Memory.read(folder.memory).words if folder.memory.exists() else ""
    return (words,) if words else ()


def _refit(bundle: Bundle | None, folder: StudyFolder) -> tuple[str, ...]:
    if bundle is None:
        return ()
    if not bundle.refit_rows:
        why = folder.no_refit.read_text(encoding="utf-8").strip() if folder.no_refit.exists() else ""
        return (f"The refit that was asked for was left out: {why}.",) if why else ()
    return (
        f"The exported adapter is this configuration trained once more, on {bundle.refit_rows:,} rows, with "
        f"the validation rows among them: test {bundle.metric.name} {bundle.test_score:.3f} "
        f"[{bundle.low:.3f}, {bundle.high:.3f}].",
    )


def _next_steps(study: Study, bundle: Bundle | None, folder: StudyFolder, *, demo: bool) -> tuple[str, ...]:
    workspace = folder.path.parent.parent
    elsewhere = [] if workspace == Path(".autopeft") else [f"--workspace {workspace}"]
    steps = [
        " ".join(["autopeft", "ui", *elsewhere, "  # all trials in MLflow"]),
        " ".join(
            ["autopeft", "run", "--resume", "--study", study.name, *elsewhere, "--time 10min  # search on"]
        ),
    ]
    if demo:
        steps.append("autopeft run --model DIR_OR_ID --data train.csv --gpu-mem 16GB --time 2h  # your own")
    if bundle is None:
        return tuple(steps)
    return (f"less {bundle.path}/README.md  # how to load it", *steps)
