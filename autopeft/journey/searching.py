"""The search stage: from a request to a finished study."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from autopeft.errors import DoesNotFitError, InputError, StorageError
from autopeft.export.swap import require_free
from autopeft.files import write_atomically
from autopeft.hardware.profile import HardwareProfile
from autopeft.journey.asking import open_study
from autopeft.journey.conclusion import data_facts
from autopeft.journey.first_tries import first_tries
from autopeft.journey.inputs import (
    PROFILING,
    Inputs,
    load_data,
    load_inputs,
    require_data,
    require_dataset,
)
from autopeft.journey.planning import Progress, plan_side_by_side, shared
from autopeft.journey.remembering import Memory, remember
from autopeft.journey.spending import cost_as_time, device_price
from autopeft.journey.stages import Stages
from autopeft.journey.workspace import StudyFolder, nothing_left, open_store
from autopeft.plan.cost_model import CostModel
from autopeft.plan.plan import Plan
from autopeft.plan.planner import Planner
from autopeft.report.facts import DataFacts
from autopeft.request import Request
from autopeft.search.desk import forget
from autopeft.search.experience import Experience
from autopeft.search.halving import Rungs, plan_rungs
from autopeft.search.latest import mark_searched
from autopeft.search.loop import Search
from autopeft.search.observer import Observer
from autopeft.search.schedule import (
    Schedule,
    conclusion_seconds,
    make_schedule,
    sharers_of,
    side_by_side,
    too_short,
)
from autopeft.search.searchers import make_strategy, repetitions_of
from autopeft.search.store import StudyStore
from autopeft.search.study import Study
from autopeft.space.search_space import longest_epochs
from autopeft.workload.dataset import Dataset

_log = logging.getLogger(__name__)

PLANNED_FIRST = 12
DOUBLING = 2
FIRST_RUNG = 1 / 8
"""Trainings are evaluated after this share, and whenever they have doubled."""


def run_search(
    request: Request,
    measure: Callable[[Request], HardwareProfile],
    cost_model: CostModel,
    observers: Sequence[Observer],
    progress: Progress,
    *,
    concludes: bool = False,
) -> Study:
    """Begin a study, or go on with it, and search until the budget is spent.

    Args:
        measure: returns the profile of this machine.
        concludes: test scores and export are to end within the time, too.

    Raises:
        DoesNotFitError: nothing in the space fits the budget.
        InputError: the request names no data, or a study that exists or does not.
    """
    began = time.monotonic()
    if request.gpu is not None:
        raise InputError(
            f"a search runs on this machine, but got gpu={request.gpu!r}; leave it out, or use autopeft plan."
        )
    folder, request = open_study(request)
    require_data(request)
    store, stages = open_store(folder, request.storage), Stages(folder.stages)
    nodes = _nodes(request)
    if concludes:
        require_free(folder.bundle, force=True)
    before = folder.entries
    with store.claimed(), nothing_left(folder, before):
        if store.exists() and not request.resume:
            raise InputError(
                f"{store.place} holds a study {folder.path.name!r} already: --resume goes on with it, "
                "or give another --study."
            )
        mark_searched(folder.path)
        begun = store.exists()
        prepared = _prepare(request, measure, folder, stages, observers, progress, begun=begun)
        planner = prepared.planner(cost_model)
        if begun:
            planner = shared(planner, side_by_side(store.plan(), planner.memory_limit))
        else:
            with stages.timed("plan"):
                planner, plan = plan_side_by_side(planner, prepared.inputs, PLANNED_FIRST, progress)
            require_fits(plan)
            data_facts(prepared.dataset).keep(folder.data)
            if request.storage is not None:
                write_atomically(folder.storage, f"{store.place_without_password}\n")
            store.create(
                name=folder.path.name,
                metric=prepared.dataset.metric,
                seed=request.seed,
                request=request.model_dump_json(exclude={"storage"}),  # it may hold a password
                plan=plan,
            )
        progress("starting the search", 1, 1)
        with stages.timed("search"):
            deadline = _allow_time(prepared, store, began, concludes=concludes)
            return _search(prepared, planner, store, folder, observers, deadline, nodes=nodes)


@dataclass(frozen=True, kw_only=True)
class _Prepared:
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


def _prepare(
    request: Request,
    measure: Callable[[Request], HardwareProfile],
    folder: StudyFolder,
    stages: Stages,
    observers: Sequence[Observer],
    progress: Progress,
    *,
    begun: bool,
) -> _Prepared:
    # First what may be wrong with the input, which takes less time than measuring.
    progress("loading model and data", 0, 1)
    with stages.timed("data"):
        loaded = load_data(request)
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
    return _Prepared(
        request=request,
        profile=profile,
        inputs=inputs,
        dataset=dataset,
        rungs=_rungs(inputs, dataset),
        remembered=remember(request, inputs, dataset, folder),
    )


def _allow_time(prepared: _Prepared, store: StudyStore, began: float, *, concludes: bool) -> float | None:
    """Note what the study may take, and return when its search has to end; None where nothing limits it."""
    request = prepared.request
    total = whole_time(request, store)
    store.allow(request.budget.model_copy(update={"time": total}))
    if total is None:
        return None
    rest = began + total - store.load().seconds - time.monotonic()
    after = conclusion_seconds(store.plan(), prepared.dataset, refit=request.refit) if concludes else 0.0
    # However little time there is, half of it and more is for the search.
    most = rest / (2 if request.refit else 3)
    return time.monotonic() + max(1.0, rest - min(most, after))


def whole_time(request: Request, store: StudyStore) -> float | None:
    """Return the seconds that all sessions of a study may take; None where there is no limit."""
    given = request.budget.time
    return store.plan().budget.time if given is None else store.load().seconds + given


def _rungs(inputs: Inputs, dataset: Dataset) -> Rungs:
    epochs = longest_epochs(inputs.space, inputs.baseline)
    return plan_rungs(
        round(len(dataset.train) * epochs), first_share=FIRST_RUNG, reduction=DOUBLING, epochs=epochs
    )


def _search(
    prepared: _Prepared,
    planner: Planner,
    store: StudyStore,
    folder: StudyFolder,
    observers: Sequence[Observer],
    deadline: float | None,
    *,
    nodes: int,
) -> Study:
    from autopeft.search.ray_runner import run_on_ray
    from autopeft.train.trainer import TrainerFactory

    left = None if deadline is None else deadline - time.monotonic()
    request, inputs, rungs = prepared.request, prepared.inputs, prepared.rungs
    dataset, plan = prepared.dataset, store.plan()
    schedule = make_schedule(
        plan,
        rungs,
        seconds=left,
        trials=request.budget.trials,
        concurrent=sharers_of(planner.profile),
        repetitions=repetitions_of(request.searcher),
        nodes=nodes,
    )
    if left is not None and not store.load().trials and (doubt := too_short(plan, max(0.0, left))):
        _log.warning("%s", doubt)
    # One training has to fit the time of all sessions, which a limit on cost is part of.
    limits = {"time": plan.budget.time, "cost": None}
    admits = replace(planner, budget=planner.budget.model_copy(update=limits))
    memory, known = prepared.remembered
    search = Search(
        store,
        make_strategy(
            request.searcher,
            *(inputs.space, rungs, dataset.metric),
            seed=request.seed,
            warm=first_tries(inputs, memory.own, usual_forms=known is None or not known.deep),
            experience=known,
            share_left=lambda: 1.0 if deadline is None or not left else (deadline - time.monotonic()) / left,
            front=request.front,
            judge=admits.judge,
        ),
        admits.judge,
        rungs,
        dataset.metric,
        observers,
        baseline=inputs.baseline,
        max_trials=_most_trials(request, schedule, deadline),
        deadline=deadline,
        memory=planner.memory_limit,
    )
    search.start(plan, schedule.trials + 1, schedule.expected_seconds)
    on_gpu = plan.profile.device == "cuda"
    try:
        run_on_ray(
            search,
            TrainerFactory(base=inputs.base, dataset=dataset, device="cuda" if on_gpu else "cpu"),
            seed=request.seed,
            concurrent=schedule.concurrent,
            threads_per_trial=schedule.threads,
            folder=folder.path,
            gpus_per_trial=1.0 if on_gpu else 0.0,
            address=request.address,
            needed=_needed(inputs),
        )
    finally:  # what is interrupted has taken its time, too
        # A store that cannot be written is what ended it, or finish() will say so.
        with suppress(StorageError):
            search.count_time()
    study = search.finish()
    forget(folder.path, [trial.number for trial in study.trials if trial.state == "stopped"])
    return study


def _nodes(request: Request) -> int:
    """Return how many machines train."""
    if request.address is None:
        return 1
    from autopeft.search.ray_start import count_nodes

    return count_nodes(request.address)


def _needed(inputs: Inputs) -> tuple[Path, ...]:
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


def _most_trials(request: Request, schedule: Schedule, deadline: float | None) -> int | None:
    """Return how many candidates may be begun in all: as many as were asked for, or as time allows."""
    if request.budget.trials is not None or deadline is not None:
        return request.budget.trials
    return schedule.trials


def require_fits(plan: Plan) -> None:
    """Check that something fits.

    Raises:
        DoesNotFitError: nothing does; the message says what came nearest, and if the profile is doubtful.
    """
    if plan.fits:
        return
    nearest = plan.rejected[0]
    doubts = "".join(f" The profile is doubtful: {warning}." for warning in plan.profile.warnings[:1])
    raise DoesNotFitError(
        f"none of {len(plan.rejected)} configurations fits; the nearest, {nearest.candidate.label}: "
        f"{nearest.reason}{f'; {nearest.way_out}' if nearest.way_out else ''}.{doubts}"
    )
