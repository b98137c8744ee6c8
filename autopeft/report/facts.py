"""StudyFacts: everything a finished study has to say; the summary and the page only show it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from autopeft.message import High, Low, Message, Number
from autopeft.plan.plan import Plan
from autopeft.search.study import Study
from autopeft.workload.dataset import Metric, Task

ROUNDING = 1.0
"""Seconds by which two sums of the same spans may differ."""


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
    test_score: Number
    low: Low
    high: High
    lead: float | None = None
    lead_low: float | None = None
    lead_high: float | None = None
    validation_score: float | None = None
    trainable_params: int | None = None
    train_seconds: float | None = None
    extra: dict[str, Number] = {}


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


class Importance(Message):
    """One field of a candidate.

    Attributes:
        share: of what sets the best trials apart from the others (PED-ANOVA); all fields' sum to 1.
        variance: share of the scores' variance (fANOVA) among fields that all trials have; else None.
        trials: how many have the field.
    """

    field: str
    share: float
    variance: float | None = None
    trials: int


class Importances(Message):
    """Which fields decided, the most important first.

    Attributes:
        samples: training rows after which scores are compared: as many as all trials have seen.
        trials: how many have a score there.   top: how many of them count as the best.
    """

    samples: int
    trials: int
    top: int
    rows: tuple[Importance, ...]


class Untried(Message):
    """Configurations that were refused before they were trained, for one reason.

    Attributes:
        reason: that of the first of them; others' may differ in numbers.   example: its label.
        methods: which methods they are of.
    """

    reason: str
    count: int
    example: str
    methods: tuple[str, ...]


class Session(Message):
    """One session of a study, from the command to its end.

    Attributes:
        seconds: wall time of all of it, up to the report.
        allowed_seconds: what it was given, or what was left of the time given before; None without a limit.
        search_seconds: what its search took of them.
        study_seconds: what the searches of all sessions had taken at its end; None where that was not kept.
        concluded: whether test scores and export are part of it.
    """

    seconds: float
    allowed_seconds: float | None
    search_seconds: float
    study_seconds: float | None = None
    concluded: bool

    @property
    def resumed(self) -> bool:
        """Whether there were sessions before."""
        return self.study_seconds is not None and self.study_seconds > self.search_seconds + ROUNDING


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
        importances: which fields decided the score; None where trials are too few.
        untried: what was refused, by reason.
        session: the last session that came to its end; None where none was timed.
        tested: for how many configurations the test rows were used so far, `scores` among them.
        combinations: what the space holds, each for many learning rates where `continuous`; None if unknown.
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
    importances: Importances | None = None
    untried: tuple[Untried, ...] = ()
    combinations: int | None = None
    continuous: bool = False
    session: Session | None = None
    tested: int = 0

    @property
    def tested_unseen(self) -> int:
        """How many configurations the test rows were used for that `scores` does not show."""
        return max(0, self.tested - shown(self.study, self.scores))

    def elsewhere(self) -> StudyFacts:
        """Return the facts as others have them: names, where only this disk knows the places."""
        data = self.data.model_copy(
            update={"name": _named(self.data.name), "source": _named(self.data.source)}
        )
        plan = self.plan.model_copy(update={"model": _named(self.plan.model)})
        study = self.study.model_copy(update={"folder": ""})
        return self.model_copy(
            update={"study": study, "plan": plan, "data": data, "places": {}, "next_steps": ()}
        )


class Kept(Message):
    """A study of a workspace, and which of its files there are."""

    name: str
    report: bool
    bundle: bool


def shown(study: Study, scores: Sequence[TestScore]) -> int:
    """Count the configurations among contenders: a default that won is one."""
    twice = study.best is not None and study.is_default(study.best)
    return len({score.contender for score in scores} - ({"winner"} if twice else set()))


def _named(place: str) -> str:
    return Path(place).name if Path(place).is_absolute() else place
