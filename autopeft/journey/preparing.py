"""Preparing: what a search starts from, loaded and measured in the order in which it may be wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from autopeft.errors import InputError
from autopeft.hardware.profile import HardwareProfile
from autopeft.journey.inputs import PROFILING, Inputs, load_data, load_inputs, require_dataset
from autopeft.journey.planning import Progress
from autopeft.journey.remembering import Memory, remember
from autopeft.journey.spending import cost_as_time, device_price
from autopeft.journey.stages import Stages
from autopeft.journey.workspace import StudyFolder
from autopeft.plan.cost_model import CostModel
from autopeft.plan.planner import Planner
from autopeft.report.facts import DataFacts
from autopeft.request import Request
from autopeft.search.experience import Experience
from autopeft.search.halving import Rungs, plan_rungs
from autopeft.search.observer import Observer
from autopeft.space.search_space import longest_epochs
from autopeft.workload.dataset import Dataset
from autopeft.workload.tokens import load_tokenizer

DOUBLING = 2
FIRST_RUNG = 1 / 8
"""Trainings are evaluated after this share, and whenever they have doubled."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a search starts from.

    Attributes:
        request: with a limit on cost as one on time.   profile: of this machine.
        remembered: what is known from other studies.
    """

    request: Request
    profile: HardwareProfile
    inputs: Inputs
    dataset: Dataset
    rungs: Rungs
    remembered: tuple[Memory, Experience | None]

    def planner(self, cost_model: CostModel) -> Planner:
        """Return who judges configurations for the whole machine, evaluations at the rungs among it."""
        evaluated = {"evaluated_after": self.rungs.samples[:-1]}
        return Planner(
            base=self.inputs.base,
            workload=self.inputs.workload.model_copy(update=evaluated),
            profile=self.profile,
            budget=self.request.budget,
            cost_model=cost_model,
            price=device_price(self.request, self.profile),
        )


def prepare(
    request: Request,
    measure: Callable[[Request], HardwareProfile],
    folder: StudyFolder,
    stages: Stages,
    observers: Sequence[Observer],
    progress: Progress,
    *,
    begun: bool,
) -> Prepared:
    """Load model and data, measure or find this machine's profile, and tell observers of the rows.

    Args:
        begun: the study goes on, with the data that it began with.

    Raises:
        InputError: model or data cannot be used, or the data has changed.
    """
    # First what may be wrong with the input, which takes less time than measuring.
    progress("loading model and data", 0, 1)
    with stages.timed("data"):
        loaded = base, rows = load_data(request)
        if rows is not None and rows.medium == "text":
            load_tokenizer(base)
    progress(PROFILING, 0, 1)
    with stages.timed("profile"):
        profile = measure(request)
    request = cost_as_time(request, profile)
    with stages.timed("data"):
        inputs = load_inputs(request, profile, loaded)
        dataset = require_dataset(inputs)
    if begun:
        _require_same_data(dataset, folder)
    for observer in observers:
        observer.data_read(dataset)
    return Prepared(
        request=request,
        profile=profile,
        inputs=inputs,
        dataset=dataset,
        rungs=_rungs(inputs, dataset),
        remembered=remember(request, inputs, dataset, folder),
    )


def needed_files(inputs: Inputs) -> tuple[Path, ...]:
    """Return files without which no node can train: the model's, and a row's where rows are files."""
    first = require_dataset(inputs).train[0]
    return tuple(Path(place) for place in (inputs.base.path, first.file) if place)


def _require_same_data(dataset: Dataset, folder: StudyFolder) -> None:
    if not folder.data.exists():
        return
    if DataFacts.read(folder.data).fingerprint != dataset.fingerprint:
        raise InputError(
            f"the data of study {folder.path.name!r} has changed since it began; "
            "put the old file back, or begin another study."
        )


def _rungs(inputs: Inputs, dataset: Dataset) -> Rungs:
    epochs = longest_epochs(inputs.space, inputs.baseline)
    return plan_rungs(
        round(len(dataset.train) * epochs), first_share=FIRST_RUNG, reduction=DOUBLING, epochs=epochs
    )
