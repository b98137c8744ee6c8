"""What is known before a search: usual learning rates by method, and the user's own past studies.

The numbers are in prior.yaml beside this file, each with its source.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field

from autopeft.errors import StorageError
from autopeft.message import Message
from autopeft.search.store import StudyStore
from autopeft.search.study import Study
from autopeft.space.candidate import Candidate
from autopeft.workload.base_model import Family
from autopeft.workload.tasks import Task

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


class Past(NamedTuple):
    """A trial of an earlier study of the user's.

    Attributes:
        lead: validation score minus that of the study's own baseline, turned so that more is better.
    """

    candidate: Candidate
    lead: float
    study: str
    model: str


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


def past_results(workspace: Path, task: Task) -> tuple[Past, ...]:
    """Return the scored trials of a workspace's earlier studies of one task, by study, then by number.

    Only studies with a scored baseline count, since scores of different data cannot be compared otherwise;
    one that cannot be read is left out. Only whole trainings count: what leads early is what learns fastest.
    """
    found: list[Past] = []
    for file in sorted(Path(workspace).glob("studies/*/study.db")):
        try:
            store = StudyStore(file)
            try:
                study, plan = store.load(), store.plan()
            finally:
                store.close()
        except StorageError:
            continue
        if plan.workload.task == task:
            found += _leads(study, plan.model)
    return tuple(found)


def _leads(study: Study, model: str) -> list[Past]:
    baseline = study.baseline
    if baseline is None or baseline.result is None:
        return []
    at = {report.samples: report.score for report in baseline.result.reports}
    sign = 1 if study.metric.direction == "maximize" else -1
    found = []
    for trial in study.trials:
        reports = trial.result.reports if trial.result else ()
        if trial.role == "baseline" or trial.state != "complete" or reports[-1].samples not in at:
            continue
        lead = sign * (reports[-1].score - at[reports[-1].samples])
        if math.isfinite(lead):
            found.append(Past(trial.candidate, lead, study.name, model))
    return found
