"""StudyFacts: everything a finished study has to say; the summary and the page only show it."""

from __future__ import annotations

from typing import Literal

from autopeft.message import Message
from autopeft.plan.plan import Plan
from autopeft.search.study import Study
from autopeft.workload.dataset import Metric, Task


class DataFacts(Message):
    """The dataset, without its rows.

    Attributes:
        rows: number of rows by split.   columns: which column plays which part.
    """

    name: str
    task: Task
    metric: Metric
    rows: dict[str, int]
    labels: tuple[str, ...]
    columns: dict[str, str]
    source: str
    fingerprint: str
    notes: tuple[str, ...]


class TestScore(Message):
    """One contender on the test rows, which nothing else has touched.

    Attributes:
        contender: "winner", "LoRA default" or "linear probe" (sft: "no adapter").
        label: its configuration in words.
        test_score: the metric, with its 95 % interval `low`..`high` over test rows.
        lead, lead_low, lead_high: winner's score minus this one's on the same rows, with its paired
            95 % interval; None for the winner, or where the rows were not scored together.
        extra: further metrics by name.
    """

    __test__ = False

    contender: str
    label: str
    test_score: float
    low: float
    high: float
    lead: float | None = None
    lead_low: float | None = None
    lead_high: float | None = None
    validation_score: float | None = None
    trainable_params: int | None = None
    train_seconds: float | None = None
    extra: dict[str, float] = {}


class Compared(Message):
    """A prediction beside its measurement.

    Attributes:
        quantity: what is compared, by its full name.
        low, high: the predicted 90 % band.
    """

    quantity: str
    unit: Literal["bytes", "seconds"]
    predicted: float
    low: float | None = None
    high: float | None = None
    measured: float


class StudyFacts(Message):
    """A finished study.

    Attributes:
        decision: what was decided, in a sentence.   reasons: why, a sentence each.
        scores: the winner first, then the baselines.
        comparisons: prediction beside measurement.
        seconds: wall time by stage of the journey, in its order.
        places: what lies where, by name ("adapter", "report", "mlflow", "study").
        next_steps: commands to type next, each with a comment.
        environment: versions and machine.
    """

    study: Study
    plan: Plan
    data: DataFacts
    decision: str
    reasons: tuple[str, ...]
    scores: tuple[TestScore, ...]
    comparisons: tuple[Compared, ...]
    seconds: dict[str, float]
    places: dict[str, str]
    next_steps: tuple[str, ...]
    environment: dict[str, str]
