"""What is published of methods: their usual learning rates, and how good they are.

The numbers are in prior.yaml beside this file, each with its source.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field

from autopeft.message import Message
from autopeft.workload.base_model import Family

_FILE = Path(__file__).with_name("prior.yaml")
_ELSEWHERE = 0.2
"""More spread where a row is not of the family that is asked for, in log10 of the rate."""

UNKNOWN_RATE = (-3.0, 1.0)
"""Of a method that nobody wrote anything about: 1e-3, by a factor of 10 either way."""

UNKNOWN_GOOD = 0.3


class RateRow(Message):
    """A usual rate, with the standard deviation of its log10; `good` as in prior.yaml."""

    methods: tuple[str, ...]
    family: Family | Literal["any"]
    rate: float = Field(gt=0, lt=1)
    spread: float = Field(gt=0)
    good: float | None = Field(default=None, ge=0, le=1)
    source: str = Field(min_length=1)


class Known(Message):
    """The content of prior.yaml."""

    rates: tuple[RateRow, ...]


@cache
def known() -> Known:
    """Read the published numbers."""
    import yaml

    content = yaml.load(_FILE.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
    return Known.model_validate(content)


def prior_rate(method: str, family: Family) -> tuple[float, float]:
    """Return the mean and the standard deviation of log10 of a method's usual learning rate."""
    row = rate_row(method, family)
    if row is None:
        return UNKNOWN_RATE
    return math.log10(row.rate), row.spread + (0.0 if row.family == family else _ELSEWHERE)


def prior_good(method: str, family: Family) -> float:
    """Return how often a method's best run ends near the top, 0 to 1."""
    row = rate_row(method, family)
    return UNKNOWN_GOOD if row is None or row.good is None else row.good


def rate_row(method: str, family: Family) -> RateRow | None:
    """Return the row of a method: of the family, else of any, else of another; None where there is none."""
    rows = [row for row in known().rates if method in row.methods]
    rows.sort(key=lambda row: (row.family != family, row.family != "any"))
    return rows[0] if rows else None
