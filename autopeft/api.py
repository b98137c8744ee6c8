"""The Python face: the command line's verbs as typed functions.

    import autopeft as ap

    plan = ap.plan(model="all-MiniLM-L6-v2", data="train.csv", budget=ap.Budget(gpu_mem="16GB"))
    study = ap.search(model="./my-model", data="train.csv", budget=ap.Budget(time="30min"))
    bundle = ap.export(study)

Every function raises `autopeft.AutopeftError` with one readable line where the command line would
print it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

from autopeft import handover, pipeline
from autopeft.cost.estimate import Objective
from autopeft.cost.spread import Sharding
from autopeft.errors import AutopeftError
from autopeft.files import THIS_MACHINE
from autopeft.hardware.profile import HardwareProfile
from autopeft.plan.answer import Answer
from autopeft.plan.budget import Budget, Preference
from autopeft.plan.capacity import Capacity, Demand
from autopeft.plan.plan import Plan, Verdict
from autopeft.plan.question import Question
from autopeft.request import Demo, Remembered, Request, SearcherName
from autopeft.space.candidate import Candidate
from autopeft.workload.dataset import Task

if TYPE_CHECKING:
    from autopeft.export.bundle import Bundle, Form, Verified
    from autopeft.report.comparison import Comparison
    from autopeft.report.facts import StudyFacts
    from autopeft.search.observer import Observer
    from autopeft.search.study import Study


class Options(TypedDict, total=False):
    """What every stage takes beside its main arguments; see `Request` for the meaning of each."""

    test_data: str
    task: Task
    columns: dict[str, str]
    demo: Demo
    gpu: str
    space: str
    searcher: SearcherName
    prefer: Preference
    front: Objective
    experience: Remembered
    refit: bool
    seq_len: int
    batch_size: int
    epochs: float
    train_rows: int
    examples: int
    gpus: int
    sharding: Sharding
    offload: bool
    price: float
    provider: str
    seed: int
    workspace: str
    address: str
    storage: str
    mlflow: str
    resume: bool


def profile(*, name: str = THIS_MACHINE, workspace: str = ".autopeft") -> HardwareProfile:
    """Measure this machine (about 15 s) and keep the profile in the workspace."""
    return pipeline.profile(Request.build(workspace=workspace), name=name)


def estimate(
    model: str, candidate: Candidate, *, budget: Budget | None = None, **options: Unpack[Options]
) -> Verdict:
    """Predict what one configuration takes: `Fits` or `Rejected`, with the estimate and its band."""
    return pipeline.estimate(_request(model=model, budget=budget, **options), candidate)


def answer(question: Question, *, batches: bool = True, workspace: str = ".autopeft") -> Answer:
    """Say what one configuration takes and whether it fits; `batches` looks for the largest batch too."""
    return pipeline.answer(question, batches=batches, workspace=workspace)


def answer_many(
    questions: Iterable[Question | AutopeftError], *, batches: bool = True, workspace: str = ".autopeft"
) -> Iterator[Answer]:
    """Answer questions in their order, as soon as they are ready; none of them stops the others."""
    return pipeline.answer_many(questions, batches=batches, workspace=workspace)


def capacity(demand: Demand, *, workspace: str = ".autopeft") -> Capacity:
    """Say which devices train the demanded models in which ways, how fast and at what cost."""
    return pipeline.capacity(demand, workspace=workspace)


def plan(
    model: str | None = None,
    *,
    data: str | None = None,
    budget: Budget | None = None,
    **options: Unpack[Options],
) -> Plan:
    """Hold every configuration of a search space against a budget."""
    return pipeline.plan(_request(model=model, data=data, budget=budget, **options))


def search(
    model: str | None = None,
    *,
    data: str | None = None,
    budget: Budget | None = None,
    study: str | None = None,
    observers: Sequence[Observer] = (),
    **options: Unpack[Options],
) -> Study:
    """Search for the best configuration within a budget, on this machine."""
    return pipeline.search(_request(model=model, data=data, budget=budget, study=study, **options), observers)


class ExportWish(TypedDict, total=False):
    """What of an export a service takes, too; see `Export` for the meaning of each."""

    trial: int
    form: Form
    dtype: Literal["float32", "bfloat16", "bf16", "fp32"]
    lora_rank: int
    license: str


class ExportOptions(ExportWish, total=False):
    """What `export` takes beside its study; see `Export` for the meaning of each."""

    out: str
    force: bool
    refit: bool
    gguf: bool
    model_name: str
    push: str
    base_model: str


def export(study: Study | str, *, storage: str | None = None, **options: Unpack[ExportOptions]) -> Bundle:
    """Export a study's winner, or a trial by its number, as a directory that transformers and peft load.

    Args:
        storage: URL of the database that holds the study; None is where it was begun.
    """
    from autopeft.export.bundle import Export

    return handover.export(_of_study(study, storage), Export.build(**options))


def verify(bundle: Bundle | str | Path) -> Verified:
    """Hold a bundle against what it recorded of itself; `.state` is "same", "differs" or "unknown"."""
    return handover.verify(Path(bundle) if isinstance(bundle, str | Path) else Path(bundle.path))


def compare(
    one: Study | Bundle | str,
    other: Study | Bundle | str,
    *,
    workspace: str = ".autopeft",
    storage: str | None = None,
) -> Comparison:
    """Hold two studies or bundles side by side, row by row where they were scored on the same rows.

    Args:
        storage: URL of the database that holds the studies; None is where each was begun.
    """
    return handover.compare(_place(one), _place(other), workspace=workspace, storage=storage)


def report(study: Study | str, *, storage: str | None = None) -> StudyFacts:
    """Write a study's report page; `.places["report"]` names it.

    Args:
        storage: URL of the database that holds the study; None is where it was begun.
    """
    return pipeline.report(_of_study(study, storage))


def run(
    model: str | None = None,
    *,
    data: str | None = None,
    budget: Budget | None = None,
    study: str | None = None,
    observers: Sequence[Observer] = (),
    **options: Unpack[Options],
) -> StudyFacts:
    """Go the whole way: measure, plan, search, export, report."""
    return pipeline.run(_request(model=model, data=data, budget=budget, study=study, **options), observers)


def _request(**fields: Any) -> Request:
    return Request.build(**{name: value for name, value in fields.items() if value is not None})


def _place(result: Study | Bundle | str) -> str:
    """Name a study, or a bundle's directory."""
    if isinstance(result, str):
        return result
    from autopeft.export.bundle import Bundle

    return result.path if isinstance(result, Bundle) else result.name


def _of_study(study: Study | str, storage: str | None) -> Request:
    if isinstance(study, str):
        return Request.build(study=study, storage=storage)
    folder = Path(study.folder)
    return Request.build(study=study.name, workspace=str(folder.parent.parent), storage=storage)
