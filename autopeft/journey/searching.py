"""The search stage: from a request to a finished study."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from autopeft.errors import DoesNotFitError, InputError, StorageError
from autopeft.export.swap import require_free
from autopeft.files import write_atomically
from autopeft.hardware.profile import HardwareProfile
from autopeft.journey.allowing import Allowed, allow_time, require_time, whole_time
from autopeft.journey.asking import open_study
from autopeft.journey.conclusion import data_facts
from autopeft.journey.first_report import WORKERS_START, FirstReport
from autopeft.journey.first_tries import first_tries
from autopeft.journey.inputs import require_data
from autopeft.journey.planning import Progress, plan_side_by_side, shared
from autopeft.journey.preparing import Prepared, needed_files, prepare
from autopeft.journey.stages import Stages
from autopeft.journey.workspace import StudyFolder, nothing_left, open_store
from autopeft.plan.cost_model import CostModel
from autopeft.plan.plan import Plan
from autopeft.plan.planner import Planner
from autopeft.request import Request
from autopeft.search.desk import forget
from autopeft.search.latest import mark_searched
from autopeft.search.loop import Search
from autopeft.search.observer import Observer
from autopeft.search.schedule import Schedule, make_schedule, sharers_of, side_by_side, too_short
from autopeft.search.searchers import make_strategy, repetitions_of
from autopeft.search.store import StudyStore
from autopeft.search.study import Study

_log = logging.getLogger(__name__)

PLANNED_FIRST = 12


def run_search(
    request: Request,
    measure: Callable[[Request], HardwareProfile],
    cost_model: CostModel,
    observers: Sequence[Observer],
    progress: Progress,
    *,
    began: float | None = None,
    concludes: bool = False,
) -> Study:
    """Begin a study, or go on with it, and search until the budget is spent.

    Args:
        measure: returns the profile of this machine.
        began: `time.monotonic()` at which the session was asked for; None is now.
        concludes: test scores and export are to end within the time, too.

    Raises:
        DoesNotFitError: nothing in the space fits the budget.
        InputError: the request names no data, or a study that exists or does not.
    """
    began = time.monotonic() if began is None else began
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
        if not request.resume:
            require_time(request.budget.time)
    before = folder.entries
    with store.claimed(), nothing_left(folder, before):
        if store.exists() and not request.resume:
            raise InputError(
                f"{store.place} holds a study {folder.path.name!r} already: --resume goes on with it, "
                "or give another --study."
            )
        mark_searched(folder.path)
        begun = store.exists()
        prepared = prepare(request, measure, folder, stages, observers, progress, begun=begun)
        planner = prepared.planner(cost_model)
        if begun:
            with stages.timed("plan"):
                planner = _replanned(planner, prepared, store, progress)
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
        first = FirstReport({one: done[-1].seconds for one, done in store.all_reports().items()})
        try:
            with stages.timed("search"):
                allowed = allow_time(prepared.request, store, prepared.dataset, began, concludes=concludes)
                return _search(prepared, planner, store, folder, (*observers, first), allowed, nodes=nodes)
        finally:
            stages.move("search", WORKERS_START, first.waited)


def _replanned(planner: Planner, prepared: Prepared, store: StudyStore, progress: Progress) -> Planner:
    """Plan a study anew that goes on: its time, and what this machine is known to do, may be others now.

    Returns:
        The planner for the part of the device that each trial gets.
    """
    whole = planner.budget.model_copy(update={"time": whole_time(prepared.request, store)})
    # What it may cost is a limit on its time, too, which one training of all sessions has to fit.
    judging = replace(planner, budget=whole.model_copy(update={"cost": None}))
    sharing, plan = plan_side_by_side(judging, prepared.inputs, PLANNED_FIRST, progress)
    before = store.plan()
    if not plan.fits:  # what was begun may still end
        sharing = shared(planner, side_by_side(before, planner.memory_limit))
        plan = before.model_copy(update={"profile": sharing.profile})
    others = {*before.earlier, before.profile.digest} - {plan.profile.digest}
    store.replan(plan.model_copy(update={"budget": whole, "earlier": tuple(sorted(others))}))
    return replace(sharing, budget=planner.budget)


def _search(
    prepared: Prepared,
    planner: Planner,
    store: StudyStore,
    folder: StudyFolder,
    observers: Sequence[Observer],
    allowed: Allowed,
    *,
    nodes: int,
) -> Study:
    from autopeft.search.ray_runner import run_on_ray
    from autopeft.train.trainer import TrainerFactory

    deadline, left = allowed.deadline, allowed.left
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
    if (
        left is not None
        and not store.load().trials
        and (doubt := too_short(plan, max(0.0, left), allowed.beside))
    ):
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
            needed=needed_files(inputs),
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
