"""Calibration: what measured runs teach about predictions, and a band that holds for the next one.

The logarithm of measured over predicted is learnt: its median from few runs, a ridge regression on what
bounds the step from more of them. The band is that of jackknife+ (Barber et al. 2021), made at the new run
from what all runs but one say of it: with n exchangeable runs the next one is inside at least 1 - 2 alpha,
in practice 1 - alpha of the time, whatever the distribution of the errors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from autopeft.cost.correction import LEVEL, Calibration, LeftOut, Line, Observation, jackknife
from autopeft.errors import InputError

LEAST = 3
"""Fewer runs than this correct nothing."""
_FOR_REGRESSION = 8
_LEAST_FOR_LEVEL = math.ceil(LEVEL / (1 - LEVEL) - 1e-9)
"""With fewer runs no band of this level exists; the uncalibrated one, shifted, stands in."""
_STRENGTH = 0.1
_OUTLIER = 2.0
_CONSTANT = 1e-6
"""A feature that varies less than so much tells no runs apart."""


def calibrate(
    runs: Sequence[Observation], *, spread: float, source: str = "", profile: str = ""
) -> Calibration:
    """Learn a correction from measured runs.

    Args:
        runs: at least `LEAST`.
        spread: half width of the uncalibrated band relative to the prediction, which stands in where runs
            are too few for one.
        source: where they come from, for the provenance.
        profile: digest of the profile that they were predicted for.

    Raises:
        InputError: there are too few runs.
    """
    if len(runs) < LEAST:
        raise InputError(
            f"at least {LEAST} measured runs must be given to calibrate with, but got {len(runs)}"
            f"{f' ({source})' if source else ''}; "
            "predictions stay uncalibrated until there are more."
        )
    logs = [math.log(run.measured_seconds) - math.log(run.predicted_seconds) for run in runs]
    residuals = np.array(logs)
    names = sorted(set.intersection(*(set(run.features) for run in runs)))
    if len(runs) < _FOR_REGRESSION:
        names = []
    table = np.array([[run.features[name] for name in names] for run in runs]).reshape(len(runs), len(names))
    whole = _fit(names, table, residuals)
    left_out = []
    for place, run in enumerate(runs):
        rest = np.arange(len(runs)) != place
        line = _fit(names, table[rest], residuals[rest])
        miss = abs(logs[place] - line.at(run.features))
        left_out.append(LeftOut(miss=miss, **line.model_dump()))
    learnt = {"runs": len(runs), "source": source, "profile": profile, **whole.model_dump()}
    if len(runs) < _LEAST_FOR_LEVEL:
        worst = max(each.miss for each in left_out)
        return Calibration(
            below=min(-worst, math.log(1 - spread)),
            above=max(worst, math.log(1 + spread)),
            warning=f"only {len(runs)} runs: a band of {LEVEL:.0%} needs {_LEAST_FOR_LEVEL}, until then it "
            "is the uncalibrated one or the worst error, whichever is wider",
            **learnt,
        )
    low, high = jackknife(left_out, whole.centre)
    return Calibration(
        below=min(low - whole.offset, 0.0),
        above=max(high - whole.offset, 0.0),
        left_out=tuple(left_out),
        **learnt,
    )


def _fit(names: Sequence[str], table: NDArray[np.float64], residuals: NDArray[np.float64]) -> Line:
    """Fit a line; single runs that went otherwise do not bend it.

    Args:
        names: of the features.
        table: a row for each run, a column for each feature.
        residuals: logarithms of measured over predicted.
    """
    middle = float(np.median(residuals))
    centre, scale = table.mean(axis=0), table.std(axis=0)
    used = [place for place in range(len(names)) if scale[place] > _CONSTANT]
    if not used:
        return Line(offset=middle)
    spread = 1.4826 * float(np.median(np.abs(residuals - middle)))
    tamed = np.clip(residuals, middle - _OUTLIER * spread, middle + _OUTLIER * spread)
    scaled = (table[:, used] - centre[used]) / scale[used]
    # Ridge regression: the features are centred, so that the offset is the mean.
    strength = _STRENGTH * len(residuals) * np.eye(len(used))
    weights = np.linalg.solve(scaled.T @ scaled + strength, scaled.T @ (tamed - tamed.mean()))
    chosen = [names[place] for place in used]
    return Line(
        offset=float(tamed.mean()),
        centre=dict(zip(chosen, centre[used].tolist(), strict=True)),
        scale=dict(zip(chosen, scale[used].tolist(), strict=True)),
        weights=dict(zip(chosen, weights.tolist(), strict=True)),
    )
