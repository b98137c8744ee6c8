"""Tests of autopeft/cost/calibration.py."""

from __future__ import annotations

import math
import random

import pytest
from pydantic import ValidationError

from autopeft.cost.calibration import LEAST, calibrate
from autopeft.cost.correction import Calibration, Observation
from autopeft.cost.estimate import TimeEstimate
from autopeft.errors import InputError


def runs(count: int, seed: int = 0, *, noise: float = 0.05) -> list[Observation]:
    """Runs that take 1.3 times what was predicted, and longer where the optimizer is more of it."""
    dice, found = random.Random(seed), []
    for _ in range(count):
        share = dice.random()
        factor = 1.3 * (1 + 0.2 * share) * (1 + dice.gauss(0, noise))
        features = {"optimizer_share": share}
        found.append(Observation(predicted_seconds=1.0, measured_seconds=factor, features=features))
    return found


def test_a_common_factor_is_learnt_from_few_runs() -> None:
    made = calibrate(runs(LEAST, noise=0.0), spread=0.25)

    low, middle, high = made.apply(10.0, {"optimizer_share": 0.5})

    assert middle == pytest.approx(14.3, rel=0.1)
    assert low < middle < high


def test_too_few_runs_are_refused_and_few_are_warned_of() -> None:
    with pytest.raises(InputError, match="at least 3 measured runs"):
        calibrate(runs(2), spread=0.25)
    assert "only 5 runs" in (calibrate(runs(5), spread=0.25).warning or "")
    assert calibrate(runs(30), spread=0.25).warning is None


def test_few_runs_take_the_band_of_the_uncalibrated_prediction() -> None:
    for spread in (0.25, 0.5):
        low, middle, high = calibrate(runs(5, noise=0.0), spread=spread).apply(1.0, {"optimizer_share": 0.5})

        assert (low / middle, high / middle) == (pytest.approx(1 - spread), pytest.approx(1 + spread))


def test_the_band_is_made_of_what_all_runs_but_one_say() -> None:
    made = calibrate(runs(12), spread=0.25)
    features = {"optimizer_share": 0.9}

    low, middle, high = made.apply(2.0, features)

    lows = sorted(line.at(features) - line.miss for line in made.left_out)
    highs = sorted(line.at(features) + line.miss for line in made.left_out)
    assert (low, high) == (pytest.approx(2 * math.exp(lows[0])), pytest.approx(2 * math.exp(highs[-1])))
    assert low < middle < high


@pytest.mark.parametrize("wrong", [math.inf, math.nan, 0.0, -1.0, 1e300])
def test_what_is_no_time_is_no_observation(wrong: float) -> None:
    for name in ("predicted_seconds", "measured_seconds"):
        with pytest.raises(ValidationError):
            Observation.model_validate({"predicted_seconds": 1.0, "measured_seconds": 1.0, name: wrong})


def test_a_correction_says_its_factor_and_corrects_every_second() -> None:
    names = [name for name in TimeEstimate.model_fields if name.endswith("_seconds")]
    time = TimeEstimate(**dict.fromkeys(names, 1.0), tokens_per_second=8.0, bound="compute")

    found = Calibration(runs=3, offset=math.log(2), below=-1, above=1).corrected(time)

    assert found.correction == pytest.approx(2.0)
    assert found.tokens_per_second == pytest.approx(4.0)
    assert {getattr(found, name) for name in names if name not in ("low_seconds", "high_seconds")} == {2.0}
    assert (found.low_seconds, found.high_seconds) == (pytest.approx(2 / math.e), pytest.approx(2 * math.e))


def test_the_band_holds_at_its_level_for_runs_that_were_not_seen() -> None:
    inside, total = 0, 0
    for seed in range(20):
        made = calibrate(runs(12, seed), spread=0.25)
        for run in runs(20, 1000 + seed):
            low, _, high = made.apply(run.predicted_seconds, run.features)
            inside += low <= run.measured_seconds <= high
            total += 1

    assert inside / total >= 0.88


def test_one_run_gone_astray_does_not_bend_the_rest() -> None:
    astray = Observation(predicted_seconds=1.0, measured_seconds=20.0, features={"optimizer_share": 0.5})

    _, middle, _ = calibrate([*runs(20), astray], spread=0.25).apply(1.0, {"optimizer_share": 0.5})

    assert middle == pytest.approx(1.43, rel=0.1)
