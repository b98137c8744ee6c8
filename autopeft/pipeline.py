"""The whole journey, in its order: profile, plan, search, export, report.

Each stage alone is a function too. The command line, the Python face and every other skin call these
and add nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autopeft.hardware.catalog import load_profile, profile_folders, save_profile
from autopeft.hardware.profile import HardwareProfile
from autopeft.journey.inputs import load_inputs, target_profile
from autopeft.methods.registry import METHODS, find_method, require_support
from autopeft.methods.spec import MethodSpec
from autopeft.plan.overview import ModelRow
from autopeft.plan.plan import Plan, Verdict
from autopeft.plan.planner import Planner
from autopeft.request import Request
from autopeft.space.candidate import Candidate

if TYPE_CHECKING:
    from autopeft.export.bundle import Bundle
    from autopeft.report.facts import StudyFacts
    from autopeft.search.observer import Observer
    from autopeft.search.study import Study
    from autopeft.tracking.mlflow import MlflowObserver

Progress = Callable[[str, int, int], None]
"""Told of a stage's progress: what is done, how many are done, how many there are."""

THIS_MACHINE = "this-machine"
PLANNED = 400


def run(request: Request, observers: Sequence[Observer] = (), progress: Progress | None = None) -> StudyFacts:
    """Go the whole way: measure the machine, plan, search, export the winner, write the report.

    Raises:
        DoesNotFitError: nothing in the space fits the budget.
    """
    from autopeft.journey.concluding import write_conclusion

    tracker = _tracker(request)
    told = progress or _ignore
    try:
        study = _search(request, (*observers, tracker), progress)
        concluded = request.model_copy(update={"study": study.name})
        if study.best is not None:
            told("scoring on the test rows and exporting", 0, 1)
            export(concluded, force=True)
        told("writing the report", 0, 1)
        facts = write_conclusion(concluded, tracker.problem or tracking_uri(request))
        tracker.log_summary(facts)
        made = [Path(facts.places[name]) for name in ("report", "adapter") if name in facts.places]
        tracker.log_artifacts(made)
    finally:
        tracker.close()
    told("done", 1, 1)
    return facts


def profile(request: Request, *, name: str = THIS_MACHINE) -> HardwareProfile:
    """Measure this machine and write `profiles/NAME.yaml` into the workspace."""
    from autopeft.hardware.probe import probe

    measured = probe(name=name)
    save_profile(measured, Path(request.workspace) / "profiles" / f"{name}.yaml")
    return measured


def known_profile(request: Request) -> HardwareProfile:
    """Return this machine's profile; measure it where that was not done with these versions."""
    from autopeft.journey.conclusion import versions

    folders = profile_folders(Path(request.workspace))
    if (folders[0] / f"{THIS_MACHINE}.yaml").exists():
        before, now = load_profile(THIS_MACHINE, folders), versions()
        if all(now.get(name, value) == value for name, value in before.versions.items()):
            return before
    return profile(request)


def estimate(request: Request, candidate: Candidate) -> Verdict:
    """Predict what one configuration takes, and whether it fits."""
    from autopeft.cost.model import TracedCostModel

    find_method(candidate.method)
    target = _target(request)
    inputs = load_inputs(request, target)
    require_support(candidate, inputs.base, inputs.workload.task)
    with TracedCostModel() as cost_model:
        planner = Planner(
            base=inputs.base,
            workload=inputs.workload,
            profile=target,
            budget=request.budget,
            cost_model=cost_model,
        )
        return planner.judge(candidate)


def plan(request: Request, progress: Progress | None = None) -> Plan:
    """Hold every configuration of the space against the budget."""
    from autopeft.cost.model import TracedCostModel
    from autopeft.journey.searching import plan_space

    target = _target(request)
    inputs = load_inputs(request, target)
    with TracedCostModel() as cost_model:
        planner = Planner(
            base=inputs.base,
            workload=inputs.workload,
            profile=target,
            budget=request.budget,
            cost_model=cost_model,
        )
        return plan_space(planner, inputs, PLANNED, progress or _ignore)


def overview(request: Request, progress: Progress | None = None) -> tuple[ModelRow, ...]:
    """Say of every catalogue model whether the default configuration trains within the budget."""
    from autopeft.cost.model import TracedCostModel
    from autopeft.journey.overviewing import judge_catalogue

    with TracedCostModel() as cost_model:
        cost_model.warm_up()
        return judge_catalogue(request, _target(request), cost_model, progress or _ignore)


def search(request: Request, observers: Sequence[Observer] = (), progress: Progress | None = None) -> Study:
    """Search under the budget; with `resume`, go on where the study stopped.

    Raises:
        DoesNotFitError: nothing in the space fits the budget.
    """
    tracker = _tracker(request)
    try:
        return _search(request, (*observers, tracker), progress)
    finally:
        tracker.close()


def export(request: Request, *, out: str | None = None, force: bool = False) -> Bundle:
    """Export a study's winner as a directory that transformers and peft load."""
    from autopeft.journey.concluding import export_winner

    return export_winner(request, out=out, force=force)


def report(request: Request) -> StudyFacts:
    """Write a study's report page and return the facts that it shows."""
    from autopeft.journey.concluding import write_conclusion

    return write_conclusion(request, tracking_uri(request))


def methods() -> tuple[MethodSpec, ...]:
    """List the methods."""
    return tuple(METHODS.values())


def tracking_uri(request: Request) -> str:
    """Return where MLflow keeps the runs."""
    from autopeft.tracking.mlflow_store import default_tracking_uri

    return default_tracking_uri(Path(request.workspace))


def _tracker(request: Request) -> MlflowObserver:
    from autopeft.tracking.mlflow import MlflowObserver

    return MlflowObserver(tracking_uri(request), "autopeft")


def _search(request: Request, observers: Sequence[Observer], progress: Progress | None) -> Study:
    from autopeft.cost.model import TracedCostModel
    from autopeft.journey.searching import run_search

    with TracedCostModel() as cost_model:
        return run_search(request, known_profile, cost_model, observers, progress or _ignore)


def _target(request: Request) -> HardwareProfile:
    """Return the device to plan for: the one named, this machine's, or any GPU of the memory given."""
    trains_here = request.data is not None or request.demo is not None
    elsewhere = request.gpu is not None or (
        request.budget.gpu_mem is not None and not trains_here and shutil.which("nvidia-smi") is None
    )
    return target_profile(request, None if elsewhere else known_profile(request))


def _ignore(stage: str, done: int, total: int) -> None:
    del stage, done, total
