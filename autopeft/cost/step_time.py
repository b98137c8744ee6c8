"""Step time by the roofline model: operators of a tape against the speeds of a profile.

An operator takes the longer of its FLOPs at the dtype's speed and its bytes at the memory's bandwidth
(Williams et al. 2009), and the host takes a moment to start it. A GPU computes while the host goes on,
so a phase takes the longer of both; on a CPU they are the same cores, so they add up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autopeft.cost.estimate import Bound, TimeEstimate
from autopeft.cost.tape import Phase, Span, Tape
from autopeft.errors import UnsupportedError
from autopeft.hardware.profile import HardwareProfile

# Datasheets promise what no kernel reaches: 0.8 of it gave the smallest error on published runs of
# 53 PEFT configurations on one L40S (7.5 % mean). Measured speeds are taken as they are.
_EFFICIENCY = {"measured": 1.0, "datasheet": 0.8, "assumed": 0.8}
# 90 % band around the step time. Whose numbers they are decides how wide it is.
_BAND = {"measured": 0.25, "datasheet": 0.35, "assumed": 0.5}
# Where a profile does not name a dtype's speed, that of the next of these is the safe one.
_SLOWER = {"bfloat16": ("float16", "float32"), "float16": ("bfloat16", "float32"), "float64": ("float32",)}


@dataclass(frozen=True)
class _Work:
    """Seconds that a span takes by what limits it; `device` is the sum of the operators' rooflines."""

    compute: float = 0.0
    bandwidth: float = 0.0
    dispatch: float = 0.0

    @property
    def device(self) -> float:
        return self.compute + self.bandwidth

    def __add__(self, other: _Work) -> _Work:
        return _Work(
            self.compute + other.compute, self.bandwidth + other.bandwidth, self.dispatch + other.dispatch
        )

    def times(self, count: float) -> _Work:
        return _Work(self.compute * count, self.bandwidth * count, self.dispatch * count)


def estimate_time(tape: Tape, profile: HardwareProfile, grad_accum: int) -> TimeEstimate:
    """Turn a tape into the time of one optimizer step at its first length.

    The optimizer's part is taken from the last step, which finds its state in place.

    Raises:
        UnsupportedError: the profile has no speed for a dtype that the model computes in.
    """
    by_phase = _phases(tape, profile, grad_accum)
    total = sum(by_phase.values(), _Work())
    overlaps = tape.target == "cuda"
    seconds = {phase: _duration(work, overlaps=overlaps) for phase, work in by_phase.items()}
    step = sum(seconds.values())
    upper = sum(work.device + work.dispatch for work in by_phase.values())
    lower = min(step, max(total.device, total.dispatch) if overlaps else total.device)
    spread = _BAND[profile.provenance.kind]
    rows = tape.rows * grad_accum
    return TimeEstimate(
        step_seconds=step,
        forward_seconds=seconds[Phase.FORWARD],
        backward_seconds=seconds[Phase.BACKWARD],
        optimizer_seconds=seconds[Phase.OPTIMIZER],
        lower_seconds=lower,
        upper_seconds=upper,
        low_seconds=step * (1 - spread),
        high_seconds=step * (1 + spread),
        evaluation_row_seconds=seconds[Phase.FORWARD] / rows,
        bound=_bound(total),
    )


def run_seconds(
    time: TimeEstimate, *, rows: int, validation_rows: int, epochs: float, rows_per_step: int
) -> float:
    """Return the time of a whole run: its steps, and one evaluation at the end of each epoch."""
    steps = max(1, math.ceil(rows * epochs / rows_per_step))
    evaluations = math.ceil(epochs)
    return steps * time.step_seconds + evaluations * validation_rows * time.evaluation_row_seconds


def _phases(tape: Tape, profile: HardwareProfile, grad_accum: int) -> dict[Phase, _Work]:
    compute, bandwidth = _rooflines(tape, profile)
    found = dict.fromkeys((Phase.FORWARD, Phase.BACKWARD, Phase.OPTIMIZER), _Work())
    last = tape.spans[-1].step
    for span, _, operators in tape.segments():
        count = _repeats(span, tape.micro_batches, grad_accum)
        if span.step == (last if span.phase is Phase.OPTIMIZER else 0):
            dispatch = (operators.stop - operators.start) * profile.dispatch_seconds
            parts = float(compute[operators].sum()), float(bandwidth[operators].sum())
            found[span.phase] += _Work(*parts, dispatch).times(count)
    return found


def _repeats(span: Span, traced: int, grad_accum: int) -> int:
    """Say how often a span occurs in a step: the last traced micro-batch stands for all the rest."""
    if span.phase is Phase.OPTIMIZER:
        return 1
    return grad_accum - traced + 1 if span.micro_batch == traced - 1 else 1


def _rooflines(tape: Tape, profile: HardwareProfile) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each operator's seconds, under compute where that limits it, else under bandwidth."""
    share = _EFFICIENCY[profile.provenance.kind]
    speeds = np.array([_speed(profile, dtype) for dtype in tape.dtypes]) * share
    works = tape.operator_flops > 0
    speed = np.where(works, speeds[tape.operator_dtype] if len(speeds) else 1.0, 1.0)
    if np.isnan(speed).any():
        lacking = sorted({tape.dtypes[i] for i in tape.operator_dtype[works]} - set(profile.matmul_flops))
        raise UnsupportedError(
            f"the profile {profile.name} must have the speed of {', '.join(lacking)} products, but has only: "
            f"{', '.join(sorted(profile.matmul_flops))}; measure it or choose another precision."
        )
    computing = tape.operator_flops / speed
    moving = tape.operator_bytes / (profile.bandwidth_bytes_per_second * share)
    limited = computing > moving
    return np.where(limited, computing, 0.0), np.where(limited, 0.0, moving)


def _speed(profile: HardwareProfile, dtype: str) -> float:
    for name in (dtype, *_SLOWER.get(dtype, ())):
        if name in profile.matmul_flops:
            return profile.matmul_flops[name]
    return float("nan")


def _duration(work: _Work, *, overlaps: bool) -> float:
    return max(work.device, work.dispatch) if overlaps else work.device + work.dispatch


def _bound(total: _Work) -> Bound:
    if total.dispatch > total.device:
        return "dispatch"
    return "compute" if total.compute > total.bandwidth else "bandwidth"
