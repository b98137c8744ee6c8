"""What the costs of a front are called, and how an amount of each is shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from autopeft.cost.estimate import Objective
from autopeft.units import format_bytes, format_count, format_seconds


class Cost(NamedTuple):
    """A cost in words.

    Attributes:
        axis: its name on an axis, with the unit.   title: of a chart.   show: one amount.
        log: its axis is logarithmic.
    """

    axis: str
    title: str
    show: Callable[[float], str]
    log: bool = True


COSTS: dict[Objective, Cost] = {
    "params": Cost("trained parameters", "Score against size", lambda count: format_count(int(count))),
    "share": Cost("trained share of parameters", "Score against trained share", "{:.3%}".format),
    "memory": Cost(
        "predicted peak memory, bytes", "Score against memory", lambda size: format_bytes(int(size)), False
    ),
    "seconds": Cost("predicted seconds of a training", "Score against time", format_seconds),
    "file": Cost(
        "bytes of the adapter", "Score against the adapter's size", lambda size: format_bytes(int(size))
    ),
}
