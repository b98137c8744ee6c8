"""Calibrating: measured runs -> a correction of a device's predicted times, kept in the workspace."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic

from autopeft.cost.correction import Calibration, Observation, features_of
from autopeft.errors import ConfigError, InputError
from autopeft.files import write_atomically
from autopeft.hardware.profile import HardwareProfile
from autopeft.plan.plan import Plan
from autopeft.search.study import Study
from autopeft.tracking.mlflow_lookup import RecordedRun, recorded_runs
from autopeft.tracking.mlflow_names import PROFILE, PROFILE_DIGEST

_PREDICTED = ("predicted_step_seconds", "predicted_seconds")
_MEASURED = ("measured_step_seconds", "measured_seconds")
CORRECTION = "predicted_correction"
"""Where a prediction was corrected already: by which factor. What is learnt is what it was before."""
_SHOWN = 60


def from_study(study: Study) -> list[Observation]:
    """Return what the trials of a study measured beside what was predicted for them."""
    found = []
    for trial in study.trials:
        reports = trial.result.reports if trial.result else ()
        measured = reports[-1].step_seconds if reports else 0.0
        if trial.predicted is not None and measured > 0 and trial.predicted.time.step_seconds > 0:
            time = trial.predicted.time
            found.append(
                Observation(
                    predicted_seconds=time.step_seconds / time.correction,
                    measured_seconds=measured,
                    features=features_of(time.uncorrected),
                )
            )
    return found


def from_csv(file: Path) -> list[Observation]:
    """Read runs from a CSV file with a column of predicted and one of measured seconds of a step.

    Raises:
        ConfigError: the file cannot be read, lacks a column, or holds something that is no time.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            rows, columns = list(reader), reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error)
        reason = error.strerror or reason if isinstance(error, OSError) else reason
        raise ConfigError(f"{file} cannot be read: {reason}.") from None
    if not (set(columns) & set(_PREDICTED) and set(columns) & set(_MEASURED)):
        has = ", ".join(columns)[:_SHOWN] or "none"
        raise ConfigError(f"{file} must have the columns {_PREDICTED[0]} and {_MEASURED[0]}, but has: {has}.")
    return [one for line, row in enumerate(rows, 2) if (one := _observed(row, f"{file}, line {line}"))]


def from_mlflow(uri: str, experiment: str, profile: HardwareProfile) -> tuple[list[Observation], str]:
    """Read the measured runs of an MLflow experiment whose times were predicted for a profile.

    Returns:
        The runs, and where they are from: with how many others were left out there, and why.

    Raises:
        InputError: there is no such store or experiment.
        StorageError: a server does not answer.
    """
    found, left_out = list[Observation](), Counter[str]()
    for run in recorded_runs(uri, experiment):
        if not any(run.metrics.get(name) for name in _MEASURED):
            continue
        learnt = _learnt(run, profile)
        if isinstance(learnt, Observation):
            found.append(learnt)
        else:
            left_out[learnt] += 1
    source = f"MLflow experiment {experiment}"
    if left_out:
        reasons = ", ".join(f"{count} {why}" for why, count in sorted(left_out.items()))
        source += f"; runs left out: {reasons}"
    return found, source


def require_same_device(plan: Plan, profile: HardwareProfile, study: str) -> None:
    """Refuse to learn about a device from the trials of another one, or from an earlier measurement of it.

    Raises:
        InputError: the study was planned for another profile.
    """
    if plan.profile.name != profile.name:
        raise InputError(
            f"the runs must be of the device that they calibrate, but those of study {study} are of "
            f"{plan.profile.name!r}, not of {profile.name!r}; leave out --device."
        )
    if {plan.profile.digest, *plan.earlier} != {profile.digest}:
        raise InputError(
            f"the times of study {study} were predicted with another profile of {profile.name}, which was "
            "measured again since; calibrate with a study that was begun later."
        )


def save(calibration: Calibration, workspace: Path, profile: str) -> Path:
    """Keep a calibration as that of a device."""
    content = json.dumps(calibration.model_dump(mode="json"), indent=1) + "\n"
    return write_atomically(folder(workspace) / f"{profile}.json", content)


def known(workspace: Path) -> dict[str, Calibration]:
    """Return the calibrations of a workspace by the name of their device.

    Raises:
        ConfigError: one of them cannot be read.
    """
    found = {}
    for file in sorted(folder(workspace).glob("*.json")):
        try:
            found[file.stem] = Calibration.model_validate_json(file.read_bytes())
        except (OSError, pydantic.ValidationError):
            raise ConfigError(f"{file} holds no calibration; make it anew with autopeft calibrate.") from None
    return found


def folder(workspace: Path) -> Path:
    """Return where the calibrations of a workspace are."""
    return workspace / "calibrations"


def _learnt(run: RecordedRun, profile: HardwareProfile) -> Observation | str:
    """Return what a measured run says about a profile, or why it says nothing."""
    params, times = run.params, run.metrics
    if PROFILE_DIGEST not in params:
        return "without their profile"
    if params.get(PROFILE) != profile.name:
        return "of another device"
    if params[PROFILE_DIGEST] != profile.digest:
        return f"of another profile of {profile.name}"
    if not any(times.get(name) for name in _PREDICTED):
        return "without a prediction"
    try:
        return _observed(times, run.id) or "without a measurement"
    except ConfigError:
        return "with times that cannot be"


def _observed(row: Mapping[str, Any], where: str) -> Observation | None:
    """Read one run; None where it has no measurement."""
    predicted = next((row[name] for name in _PREDICTED if row.get(name)), None)
    measured = next((row[name] for name in _MEASURED if row.get(name)), None)
    if predicted is None and measured is None:
        return None
    try:
        return Observation(
            predicted_seconds=float(predicted or "nan") / float(row.get(CORRECTION) or 1.0),
            measured_seconds=float(measured or "nan"),
        )
    except (ValueError, ZeroDivisionError):
        raise ConfigError(
            f"{where}: a run must have {_PREDICTED[0]} and {_MEASURED[0]} above 0 and at most 1e9, "
            f"but got ({str(predicted)[:_SHOWN]!r}, {str(measured)[:_SHOWN]!r})."
        ) from None
