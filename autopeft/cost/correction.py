"""Calibration: what measured runs taught about predictions, ready to be applied. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Self

from pydantic import ConfigDict, Field, model_validator

from autopeft.cost.estimate import TimeEstimate
from autopeft.message import Message

LEVEL = 0.9
"""Share of the runs to come that the band shall hold."""

# Seconds that a step can take: a nanosecond to 30 years.
_Seconds = Annotated[float, Field(ge=1e-9, le=1e9)]
_Log = Annotated[float, Field(ge=-100, le=100)]


class Observation(Message):
    """One measured run beside its prediction, which is that before any correction.

    Attributes:
        features: numbers that the residual may depend on; see `features_of`.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    predicted_seconds: _Seconds
    measured_seconds: _Seconds
    features: dict[str, float] = {}


class Line(Message):
    """The logarithm of measured over predicted, as a line over features.

    Attributes:
        offset: its value where all features are at their centre.
        centre: mean of each feature.   scale: its spread.   weights: of the scaled features.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    offset: _Log
    centre: dict[str, float] = {}
    scale: dict[str, Annotated[float, Field(gt=0)]] = {}
    weights: dict[str, _Log] = {}

    @model_validator(mode="after")
    def _know_every_feature(self) -> Self:
        if not self.centre.keys() == self.scale.keys() == self.weights.keys():
            raise ValueError("centre, scale and weights must be of the same features")
        return self

    def at(self, features: Mapping[str, float]) -> float:
        """Return the logarithm; beyond what was seen it stays what it was there."""
        found = self.offset
        for name, weight in self.weights.items():
            place = (features.get(name, self.centre[name]) - self.centre[name]) / self.scale[name]
            found += weight * min(max(place, -2.0), 2.0)
        return found


class LeftOut(Line):
    """What all runs but one teach, and by how much that one misses it."""

    miss: float = Field(ge=0, le=200)


class Calibration(Line):
    """A correction of predicted seconds.

    Attributes:
        runs: how many it was learnt from.
        below, above: logarithms of the band's ends relative to the corrected prediction, at the centre.
        left_out: by run, what the others teach, of which the band is made; empty where runs are too few.
        profile: digest of the profile that the predictions were made for.
        warning: what is to be said about it; None where nothing is.
        source: where the runs come from.
    """

    runs: int
    below: _Log
    above: _Log
    left_out: tuple[LeftOut, ...] = ()
    profile: str = ""
    warning: str | None = None
    source: str = ""

    def apply(self, seconds: float, features: Mapping[str, float]) -> tuple[float, float, float]:
        """Return the lower end, the corrected prediction, and the upper end, in seconds."""
        shift = self.at(features)
        below, above = self.below, self.above
        if self.left_out:
            low, high = jackknife(self.left_out, features)
            below, above = min(low - shift, 0.0), max(high - shift, 0.0)
        middle = seconds * math.exp(shift)
        return middle * math.exp(below), middle, middle * math.exp(above)

    def corrected(self, time: TimeEstimate) -> TimeEstimate:
        """Return an estimate with every number of seconds corrected, and the calibrated band."""
        low, middle, high = self.apply(time.step_seconds, features_of(time))
        factor = middle / time.step_seconds if time.step_seconds else 1.0
        scaled = {
            name: getattr(time, name) * factor
            for name in type(time).model_fields
            if name.endswith("_seconds")
        }
        scaled |= {"low_seconds": low, "high_seconds": high, "correction": time.correction * factor}
        return time.model_copy(update=scaled | {"tokens_per_second": time.tokens_per_second / factor})


def jackknife(left_out: Sequence[LeftOut], features: Mapping[str, float]) -> tuple[float, float]:
    """Return the ends of the jackknife+ interval of a new run's logarithm (Barber et al. 2021, eq. 1.3).

    Each left-out line says what the new run is, give or take what it missed its own run by; the ends are
    the quantiles of those at level (1 - alpha) (n + 1) / n.
    """
    count = len(left_out)
    place = min(math.ceil((count + 1) * LEVEL - 1e-9), count)
    said = [(line.at(features), line.miss) for line in left_out]
    lows = sorted(value - miss for value, miss in said)
    highs = sorted(value + miss for value, miss in said)
    return lows[count - place], highs[place - 1]


def features_of(time: TimeEstimate) -> dict[str, float]:
    """Return what a residual may depend on: how long a step is, and where its time goes."""
    step = max(time.step_seconds, 1e-9)
    return {
        "log_step": math.log(step),
        "backward_share": time.backward_seconds / step,
        "optimizer_share": time.optimizer_seconds / step,
        # 0 where everything overlaps, 1 where the host and the device are busy for equally long.
        "slack": max(0.0, time.upper_seconds / step - 1),
    }
