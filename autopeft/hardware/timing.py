"""Timing: how long calls take on a device, measured so that a busy machine shows."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

ROUNDS = 5
Call = Callable[[], object]
Shape = TypeVar("Shape")


@dataclass(frozen=True)
class Reading:
    """A measured quantity: the median of its rounds, and (largest - smallest) / median."""

    value: float
    spread: float


def layer_bytes(shape: tuple[int, int, int]) -> float:
    """Return the bytes of a linear layer's rows, weight and results in fp32, in which they are born."""
    tokens, inputs, outputs = shape
    return 4.0 * (tokens * inputs + inputs * outputs + tokens * outputs)


def read(one_round: Callable[[], float], warm_up: Sequence[Call], rounds: int = ROUNDS) -> Reading:
    """Measure a quantity several times."""
    for call in warm_up:
        call()
    found = [one_round() for _ in range(rounds)]
    middle = statistics.median(found)
    return Reading(middle, (max(found) - min(found)) / middle)


def fitting(
    shapes: Sequence[Shape], bytes_of: Callable[[Shape], float], most_bytes: float
) -> tuple[Shape, ...]:
    """Return the shapes whose tensors fit together, small ones first chosen; the smallest in any case."""
    ranked = sorted(range(len(shapes)), key=lambda place: bytes_of(shapes[place]))
    held, chosen = 0.0, set(ranked[:1])
    for place in ranked:
        held += bytes_of(shapes[place])
        if held > most_bytes:
            break
        chosen.add(place)
    return tuple(shape for place, shape in enumerate(shapes) if place in chosen)


def time_all(calls: Sequence[Call], seconds: float, device: torch.device, rounds: int = 3) -> list[Reading]:
    """Return the seconds of each call, of the first ones only where `seconds` do not last for all.

    The rounds go over all calls, so that a disturbance hits one round of many and not all of one.
    """
    warmed, start = 0, time.perf_counter()
    for call in calls:
        call()
        wait(device)
        warmed += 1
        if time.perf_counter() - start > seconds / 2:
            break
    share = max(seconds - (time.perf_counter() - start), seconds / 4) / (rounds * warmed)
    found = [[time_per_call(call, share, device) for call in calls[:warmed]] for _ in range(rounds)]
    readings = []
    for each in zip(*found, strict=True):
        middle = statistics.median(each)
        readings.append(Reading(middle, (max(each) - min(each)) / middle))
    return readings


def time_per_call(call: Call, seconds: float, device: torch.device) -> float:
    """Return the mean seconds of a call, over as many as fit into `seconds` but at least one."""
    calls = 1
    while True:
        wait(device)
        start = now(device)
        for _ in range(calls):
            call()
        wait(device)
        taken = max(now(device) - start, 1e-9)
        # The last batch is most of the share: enough calls that reading the clock costs nothing.
        if taken * 2 > seconds:
            return taken / calls
        calls = max(calls + 1, min(calls * 8, int(calls * (seconds - taken) / taken)))
        seconds -= taken


def now(device: torch.device) -> float:
    """Read the clock: the processor time of this process where one thread does all the work.

    Others who want the same core lengthen the wall time of a long call, but not that.
    """
    if device.type == "cpu" and torch.get_num_threads() == 1:
        return time.process_time()
    return time.perf_counter()


def wait(device: torch.device) -> None:
    """Let the device finish what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
