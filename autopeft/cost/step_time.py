"""Step time: a roofline over the operators of a tape.

Each operator takes the longer of computing (FLOPs over the attainable speed of its dtype) and moving
(bytes over the attainable bandwidth); starting it takes the host `dispatch_seconds` more. A CPU does
one after the other; a GPU computes while the host dispatches, so the longer of the two counts.
Left out: kernels of few threads, cache-resident tensors, host-device copies.
(Williams et al. 2009, "Roofline", doi:10.1145/1498765.1498785.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from autopeft.cost.estimate import Bound, TimeEstimate
from autopeft.cost.tape import Phase, Tape
from autopeft.hardware.profile import HardwareProfile

# What programs attain of a datasheet's numbers; a measured profile holds attained numbers already.
_DATASHEET_EFFICIENCY = 0.8
# Half-width of the 90 % band of step time, by the provenance of the profile.
_SPREAD: dict[Literal["measured", "datasheet", "assumed"], float] = {
    "measured": 0.4,
    "datasheet": 0.5,
    "assumed": 0.8,
}


@dataclass(frozen=True)
class _Cost:
    """Seconds that operators need if only one thing were slow."""

    compute: float
    bandwidth: float
    dispatch: float
    roofline: float

    def lower(self) -> float:
        return max(self.roofline, self.dispatch)

    def upper(self) -> float:
        return self.roofline + self.dispatch

    def expected(self, profile: HardwareProfile) -> float:
        return self.upper() if profile.device == "cpu" else self.lower()


def step_time(tape: Tape, profile: HardwareProfile, grad_accum: int) -> TimeEstimate:
    """Predict the time of an optimizer step at the tape's first length.

    Args:
        grad_accum: micro-batches of a step; those beyond the traced ones cost as much as the last.
    """
    chosen: dict[Phase, list[slice]] = {}
    more = grad_accum - tape.micro_batches
    for span, _, operators in tape.segments():
        if span.step == 0:
            last = span.micro_batch == tape.micro_batches - 1 and span.phase is not Phase.OPTIMIZER
            chosen.setdefault(span.phase, []).extend([operators] * (1 + more if last else 1))
    costs = {phase: _cost(tape, profile, slices) for phase, slices in chosen.items()}
    whole = _cost(tape, profile, [each for slices in chosen.values() for each in slices])
    parts = {phase: cost.expected(profile) for phase, cost in costs.items()}
    seconds = sum(parts.values())
    spread = _SPREAD[profile.provenance.kind]
    forward = parts.get(Phase.FORWARD, 0.0)
    return TimeEstimate(
        step_seconds=seconds,
        forward_seconds=forward,
        backward_seconds=parts.get(Phase.BACKWARD, 0.0),
        optimizer_seconds=parts.get(Phase.OPTIMIZER, 0.0),
        lower_seconds=whole.lower(),
        upper_seconds=whole.upper(),
        low_seconds=seconds * (1 - spread),
        high_seconds=seconds * (1 + spread),
        evaluation_row_seconds=forward / max(1, grad_accum * tape.rows),
        bound=_bound(whole),
    )


def _cost(tape: Tape, profile: HardwareProfile, slices: Sequence[slice]) -> _Cost:
    if not slices:
        return _Cost(0.0, 0.0, 0.0, 0.0)
    index = np.concatenate([np.arange(part.start, part.stop) for part in slices])
    efficiency = 1.0 if profile.provenance.kind == "measured" else _DATASHEET_EFFICIENCY
    speeds = np.array([_speed(profile, dtype) for dtype in tape.dtypes] or [1.0]) * efficiency
    compute = tape.operator_flops[index] / speeds[tape.operator_dtype[index]]
    moving = tape.operator_bytes[index] / (profile.bandwidth_bytes_per_second * efficiency)
    return _Cost(
        compute=float(compute.sum()),
        bandwidth=float(moving.sum()),
        dispatch=len(index) * profile.dispatch_seconds,
        roofline=float(np.maximum(compute, moving).sum()),
    )


def _speed(profile: HardwareProfile, dtype: str) -> float:
    """Return the matrix-product speed of a dtype; where a device lacks it, that of the next wider one."""
    known = profile.matmul_flops
    for name in (dtype, "float32", "bfloat16", "float16"):
        if name in known:
            return known[name]
    return max(known.values())


def _bound(cost: _Cost) -> Bound:
    seconds: dict[Bound, float] = {
        "compute": cost.compute,
        "bandwidth": cost.bandwidth,
        "dispatch": cost.dispatch,
    }
    return max(seconds, key=lambda name: seconds[name])
