"""Step time by the roofline model: operators of a tape against the speeds of a profile.

An operator takes the longer of its FLOPs at its sort's speed and its bytes at the memory's bandwidth
(Williams et al. 2009), at least a kernel's time (`efficiency.py`). The host starts one operator after the
other. A GPU works through their queue while the host goes on: operator i ends at
E(i) = max(E(i-1), H(i)) + d(i), where H(i) is when it was started and d(i) what it takes. So
E(n) = D(n) + max over j of (H(j) - D(j-1)) with D the sum of d: whatever overlaps does, operator by
operator. On a CPU both are the same cores, so they add up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from autopeft.cost.efficiency import (
    Pace,
    memory_speed,
    pace_of,
    unpacking_seconds,
)
from autopeft.cost.estimate import Bound, TimeEstimate
from autopeft.cost.tape import Category, Kind, Phase, Span, Tape
from autopeft.hardware.profile import HardwareProfile, HostSpeed

# 90 % band around the step time. Whose numbers they are decides how wide it is.
BAND = {"measured": 0.25, "datasheet": 0.35, "assumed": 0.5}
# Seconds per operator relative to `dispatch_seconds` where a profile has no measured ones: forward goes
# through Python's modules, backward through autograd's C++ loop.
_HOST_SHARES = {Phase.FORWARD: 1.0, Phase.BACKWARD: 0.6, Phase.OPTIMIZER: 1.0}
# As many micro-batches are followed one by one; the last one stands for the rest.
_FOLLOWED = 3

_HELD = np.array((Category.WEIGHTS, Category.ADAPTER, Category.QUANTIZATION))

_Seconds = NDArray[np.float64]


@dataclass(frozen=True)
class Work:
    """Seconds of each operator of a step, in order.

    Attributes:
        device: on the device.   host: to start it.
        computes: whether computing, not moving bytes, is most of `device`.
        phase: `Phase` of each.
    """

    device: _Seconds
    host: _Seconds
    computes: NDArray[np.bool_]
    phase: NDArray[np.int8]


def estimate_time(
    tape: Tape,
    profile: HardwareProfile,
    grad_accum: int,
    *,
    recomputes: bool = False,
    unpacked: float = 0.0,
    forwards: int = 1,
) -> TimeEstimate:
    """Turn a tape into the time of its second optimizer step, which finds the optimizer's state in place.

    Args:
        tape: what was traced.
        profile: what it runs on.
        grad_accum: micro-batches of a step.
        recomputes: backward runs forward once more (gradient checkpointing).
        unpacked: weights that every pass unpacks by operators that are not on the tape.
        forwards: passes through the model that the forward phase of a micro-batch takes.

    Raises:
        UnsupportedError: the profile has no speed for a dtype that the model computes in.
    """
    followed = min(grad_accum, max(tape.micro_batches, _FOLLOWED))
    work = step_work(tape, profile, followed, recomputes=recomputes, unpacked=unpacked)
    overlaps = tape.target == "cuda"
    seconds = _by_phase(work, overlaps=overlaps)
    step = sum(seconds.values())
    device, host = float(work.device.sum()), float(work.host.sum())
    if grad_accum > followed:
        fewer = step_work(tape, profile, followed - 1, recomputes=recomputes, unpacked=unpacked)
        extra = grad_accum - followed
        before = _by_phase(fewer, overlaps=overlaps)
        seconds = {phase: each + extra * (each - before[phase]) for phase, each in seconds.items()}
        step += extra * (step - sum(before.values()))
        device += extra * (device - float(fewer.device.sum()))
        host += extra * (host - float(fewer.host.sum()))
    low, high = band(profile)
    return TimeEstimate(
        micro_step_seconds=(seconds[Phase.FORWARD] + seconds[Phase.BACKWARD]) / grad_accum,
        step_seconds=step,
        tokens_per_second=tape.rows * tape.lengths[min(1, len(tape.lengths) - 1)] * grad_accum / step
        if step
        else 0.0,
        forward_seconds=seconds[Phase.FORWARD],
        backward_seconds=seconds[Phase.BACKWARD],
        optimizer_seconds=seconds[Phase.OPTIMIZER],
        lower_seconds=min(step, max(device, host) if overlaps else device),
        upper_seconds=max(step, device + host),
        low_seconds=step * low,
        high_seconds=step * high,
        evaluation_row_seconds=seconds[Phase.FORWARD] / (tape.rows * grad_accum * forwards),
        token_seconds=_token_seconds(tape, profile, work, followed),
        bound=_bound(work),
    )


def band(profile: HardwareProfile) -> tuple[float, float]:
    """Return the ends of the 90 % band as factors: wider where other work was beside the measuring.

    It may leave, which makes a training faster than the profile, or come again as much; and threads wait
    for each other, so that who takes a half of the cores takes more than a half of the speed.
    """
    spread, kept = BAND[profile.provenance.kind], (1 - profile.doubt) ** 2
    return (1 - spread) * kept, (1 + spread) / kept


def shortened(tape: Tape, share: float) -> Tape:
    """Return a tape as if its rows had a share of their tokens: work in proportion, weights as they are."""
    moved = np.where(tape.operator_kind == Kind.MATMUL, 1.0, share)
    return replace(
        tape, operator_flops=tape.operator_flops * share, operator_bytes=tape.operator_bytes * moved
    )


def step_work(
    tape: Tape,
    profile: HardwareProfile,
    micro_batches: int,
    *,
    recomputes: bool = False,
    unpacked: float = 0.0,
) -> Work:
    """Return the operators of a step of so many micro-batches with what each takes."""
    device, computes = _device(tape, profile)
    starts = host_seconds(profile)
    passes = {Phase.FORWARD: 1, Phase.BACKWARD: 2 if recomputes else 1}
    unpacking = unpacking_seconds(profile, unpacked)
    timed = min(1, tape.spans[-1].step)
    parts: list[tuple[_Seconds, _Seconds, NDArray[np.bool_], NDArray[np.int8]]] = []
    forward = 0
    spans = [each for each in tape.segments() if each[0].step == timed]
    for span, _, operators in _repeated(spans, tape.micro_batches, micro_batches):
        count = operators.stop - operators.start
        host = np.full(count, starts[span.phase])
        if span.phase is Phase.FORWARD:
            forward = count
        if span.phase is Phase.BACKWARD and recomputes:
            # Recomputed operators go through Python again.
            again = min(forward, count)
            host += again / max(count, 1) * (starts[Phase.FORWARD] - starts[Phase.BACKWARD])
        phase = np.full(count, int(span.phase), dtype=np.int8)
        extra = unpacking * passes.get(span.phase, 0) / max(count, 1)
        parts.append((device[operators] + extra, host, computes[operators], phase))
    if not parts:
        nothing = np.zeros(0)
        return Work(nothing, nothing, nothing.astype(bool), nothing.astype(np.int8))
    return Work(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def host_seconds(profile: HardwareProfile) -> dict[Phase, float]:
    """Return what the host needs per operator in each phase."""
    host = profile.host or HostSpeed(
        forward=profile.dispatch_seconds * _HOST_SHARES[Phase.FORWARD],
        backward=profile.dispatch_seconds * _HOST_SHARES[Phase.BACKWARD],
        optimizer=profile.dispatch_seconds * _HOST_SHARES[Phase.OPTIMIZER],
    )
    return {Phase.FORWARD: host.forward, Phase.BACKWARD: host.backward, Phase.OPTIMIZER: host.optimizer}


def weight_bytes(tape: Tape) -> int:
    """Return the bytes of the model's weights, packed ones and adapters among them."""
    return int(tape.block_bytes[np.isin(tape.block_category, _HELD)].sum())


def _token_seconds(tape: Tape, profile: HardwareProfile, work: Work, micro_batches: int) -> float:
    """Return the time of one more token: the operators of a forward pass, and all weights read once."""
    host = float(work.host[work.phase == Phase.FORWARD].sum()) / micro_batches
    reading = weight_bytes(tape) / memory_speed(profile)
    return max(host, reading) if tape.target == "cuda" else host + reading


_Segment = tuple[Span, slice, slice]


def _repeated(spans: list[_Segment], traced: int, wanted: int) -> list[_Segment]:
    """Return the spans of a step of `wanted` micro-batches: the last traced one stands for the rest."""
    found: list[_Segment] = []
    for micro_batch in range(wanted):
        copied = min(micro_batch, traced - 1)
        found += [each for each in spans if each[0].phase < Phase.OPTIMIZER and each[0].micro_batch == copied]
    return found + [each for each in spans if each[0].phase is Phase.OPTIMIZER]


def _device(tape: Tape, profile: HardwareProfile) -> tuple[_Seconds, NDArray[np.bool_]]:
    """Return each operator's seconds on the device, and whether it computes most of them."""
    return _pace(_Operators(tape, profile)).take(tape.operator_flops, tape.operator_bytes)


class _Operators:
    """The operators of a tape on a device: equal where they are the same objects, whatever their sizes."""

    def __init__(self, tape: Tape, profile: HardwareProfile) -> None:
        self.arrays = tape.operators, tape.operator_kind, tape.operator_dtype
        self.names, self.dtypes, self.on_gpu = tape.names, tape.dtypes, tape.target == "cuda"
        self.profile = profile
        self._ids = tuple(map(id, (*self.arrays, self.names, self.dtypes, profile)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Operators) and self._ids == other._ids

    def __hash__(self) -> int:
        return hash(self._ids)


@lru_cache(maxsize=128)
def _pace(given: _Operators) -> Pace:
    operators, operator_kind, dtype = (each.astype(np.int64) for each in given.arrays)
    codes, places = np.unique((operators << 16) | (operator_kind << 8) | dtype, return_inverse=True)
    kinds = [
        (given.names[code >> 16], code >> 8 & 0xFF, given.dtypes[code & 0xFF]) for code in codes.tolist()
    ]
    return pace_of(given.profile, kinds, places, on_gpu=given.on_gpu)


def _by_phase(work: Work, *, overlaps: bool) -> dict[Phase, float]:
    """Return what each phase adds to the time of the step."""
    phases = (Phase.FORWARD, Phase.BACKWARD, Phase.OPTIMIZER)
    if not overlaps:
        each = work.device + work.host
        return {phase: float(each[work.phase == phase].sum()) for phase in phases}
    if not len(work.device):
        return dict.fromkeys(phases, 0.0)
    done = np.cumsum(work.device)
    waited = np.maximum.accumulate(np.cumsum(work.host) - (done - work.device))
    added = np.diff(done + waited, prepend=0.0)
    return {phase: float(added[work.phase == phase].sum()) for phase in phases}


def _bound(work: Work) -> Bound:
    device = float(work.device.sum())
    if float(work.host.sum()) > device:
        return "dispatch"
    return "compute" if float(work.device[work.computes].sum()) > device / 2 else "bandwidth"
