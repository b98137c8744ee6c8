"""Job: what a service was given to do, and the files it was given for it, as it tells of them."""

from __future__ import annotations

from typing import Any, Literal, get_args

from autopeft.export.bundle import Export
from autopeft.message import Message
from autopeft.report.facts import DataFacts
from autopeft.request import Request

Kind = Literal["run", "search", "export", "conclude"]
State = Literal["queued", "running", "done", "failed", "stopped"]
STATES: tuple[State, ...] = get_args(State)
ENDED: tuple[State, ...] = ("done", "failed", "stopped")
OF_A_STUDY: tuple[Kind, ...] = ("export", "conclude")
"""What is done with a study that another job has made."""
NOT_TO_EXPORT = ("out", "force", "gguf", "model_name", "push", "base_model", "refit")
"""Where it lies is the service's business, and it calls and sends to nobody.

A refit may take longer than an export is granted, and would take the place of what the search chose.
"""


class ExportOrder(Export):
    """What to do with a study that the service keeps; of a conclusion, its name alone.

    Attributes:
        study: its name.
    """

    study: str

    @property
    def wanted(self) -> Export:
        """What to export; what is there already is replaced."""
        fields = self.model_dump(exclude={"study", *NOT_TO_EXPORT})
        return Export.model_validate(fields | {"force": True})


class Job(Message):
    """A run, a search, an export or a conclusion that was submitted.

    Attributes:
        id: also the name of its study, unless it is of another job's.   user: who submitted it.
        request: what was asked; data by the ids of files; an export or a conclusion names its study.
        reason: why it failed or was stopped; of one that is done what came of it, or what it lacks.
        seconds: time it may take.   spent: what it has taken, over all attempts.
        stopping: whether it was told to stop and has not stopped yet.
        attempts: how often a service process has begun or resumed it.
        submitted, started, ended: seconds since 1970.
    """

    id: str
    user: str
    kind: Kind
    state: State
    reason: str = ""
    request: dict[str, Any]
    seconds: float
    spent: float = 0.0
    stopping: bool = False
    attempts: int = 0
    submitted: float
    started: float | None = None
    ended: float | None = None

    @property
    def wish(self) -> Request:
        """The request of a run or a search as the pipeline takes it."""
        return Request.model_validate(self.request)

    @property
    def order(self) -> ExportOrder:
        """The request of an export or a conclusion."""
        return ExportOrder.model_validate(self.request)

    @property
    def study(self) -> str:
        """Name of the study that it makes or is of."""
        return str(self.request["study"]) if self.kind in OF_A_STUDY else self.id


class Upload(Message):
    """A data file of a user.

    Attributes:
        id: names it in requests, as `data` or `test_data`.   name: as it was called.   bytes: its size.
        facts: what was read in it.
        task, columns: as its user named them when it came; a job that names none takes these.
    """

    id: str
    name: str
    bytes: int
    facts: DataFacts
    task: str | None = None
    columns: dict[str, str] = {}
