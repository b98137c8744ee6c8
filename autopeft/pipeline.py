"""The whole journey, in its order: profile, plan, search, export, report.

Each stage alone is a function too. The command line, the Python face and every other skin call these
and add nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autopeft.errors import InputError
from autopeft.files import THIS_MACHINE
from autopeft.handover import EXPERIMENT, export_winner, tracking_uri, tracking_uri_of
from autopeft.hardware.catalog import load_profile, profile_folders, save_profile
from autopeft.request import Request

# A stage's machinery is imported by its function, so that an estimate does not wait for the search's.
if TYPE_CHECKING:
    from autopeft.cost.correction import Calibration
    from autopeft.errors import AutopeftError
    from autopeft.hardware.profile import HardwareProfile
    from autopeft.journey.consulting import Consultant
    from autopeft.journey.posing import Poser
    from autopeft.journey.syncing import Synced
    from autopeft.plan.answer import Answer, Explanation
    from autopeft.plan.capacity import Capacity, Demand
    from autopeft.plan.overview import ModelRow
    from autopeft.plan.plan import Plan, Verdict
    from autopeft.plan.question import Question
    from autopeft.plan.serving import Serving
    from autopeft.report.facts import DataFacts, StudyFacts
    from autopeft.search.observer import Observer
    from autopeft.search.study import Study
    from autopeft.space.candidate import Candidate
    from autopeft.tracking.mlflow import MlflowObserver

Progress = Callable[[str, int, int], None]
"""Told of a stage's progress: what is done, how many are done, how many there are."""


def run(request: Request, observers: Sequence[Observer] = (), progress: Progress | None = None) -> StudyFacts:
    """Go the whole way: measure the machine, plan, search, export the winner, write the report.

    Raises:
        DoesNotFitError: nothing in the space fits the budget.
    """
    began = time.monotonic()  # before what takes seconds to import
    from autopeft.journey.concluding import write_conclusion
    from autopeft.journey.sessions import SessionClock

    clock, tracker = SessionClock(request, began), _tracker(request)
    told = progress or _ignore
    try:
        study = _search(request, (*observers, tracker), told, began, concludes=True)
        concluded = request.model_copy(update={"study": study.name})
        if study.best is not None:
            told("scoring on the test rows and exporting", 0, 1)
            export_winner(concluded, beside=clock.beside_search(study))
        told("writing the report", 0, 1)
        clock.keep(study, concluded=True)
        facts = write_conclusion(concluded, tracker.problem or tracking_uri_of(concluded))
        tracker.log_summary(facts)
        made = [Path(facts.places[name]) for name in ("report", "adapter") if name in facts.places]
        tracker.log_artifacts(made)
        if "adapter" in facts.places:
            tracker.log_model(Path(facts.places["adapter"]), study.name)
    finally:
        _close(tracker)
    told("done", 1, 1)
    return facts


def profile(request: Request, *, name: str = THIS_MACHINE, seconds: float = 8.0) -> HardwareProfile:
    """Measure this machine and write `profiles/NAME.yaml` into the workspace."""
    from autopeft.hardware.probe import probe

    measured = probe(name=name, seconds=seconds)
    save_profile(measured, Path(request.workspace) / "profiles" / f"{name}.yaml")
    return measured


def calibrate(
    request: Request,
    *,
    device: str = THIS_MACHINE,
    runs: Path | None = None,
    mlflow: str | None = None,
    experiment: str = "autopeft",
) -> Calibration:
    """Learn from measured runs how a device's predicted times are off; later predictions are corrected.

    Args:
        request: workspace and study; the latest study without one.
        device: profile that the runs were made on.
        runs: a CSV file of runs instead of a study.
        mlflow: a store whose `experiment` has the runs instead; those of other devices are left out.
        experiment: its name.

    Raises:
        InputError: runs are given twice, are of another device, are too few or cannot be read; or nobody
            knows the device.
    """
    from autopeft.cost.calibration import calibrate
    from autopeft.cost.step_time import BAND
    from autopeft.journey import calibrating
    from autopeft.journey.workspace import existing_study, open_store

    places = {"--runs": runs, "--mlflow": mlflow, "--study": request.study}
    given = [name for name, place in places.items() if place is not None]
    if len(given) > 1:
        raise InputError(f"the runs must come from one place, but got {' and '.join(given)}; leave one out.")
    workspace = Path(request.workspace)
    target = load_profile(device, profile_folders(workspace))
    if runs is not None:
        seen, source = calibrating.from_csv(runs), runs.name
    elif mlflow is not None:
        seen, source = calibrating.from_mlflow(mlflow, experiment, target)
    else:
        place = existing_study(request.workspace, request.study)
        store = open_store(place, request.storage)
        study = store.load()
        calibrating.require_same_device(store.plan(), target, study.name)
        seen, source = calibrating.from_study(study), f"study {study.name}"
    spread = BAND[target.provenance.kind]
    made = calibrate(seen, spread=spread, source=source, profile=target.digest)
    calibrating.save(made, workspace, target.name)
    return made


def known_profile(request: Request) -> HardwareProfile:
    """Return this machine's profile; measure it where that was not done with these versions."""
    from autopeft.journey.conclusion import versions

    folders = profile_folders(Path(request.workspace))
    if (folders[0] / f"{THIS_MACHINE}.yaml").exists():
        before, now = load_profile(THIS_MACHINE, folders), versions()
        if all(now.get(name, value) == value for name, value in before.versions.items()):
            return before
    return profile(request)


def consult(workspace: str = ".autopeft") -> Consultant:
    """Return one who answers what needs no training, again and again; close it afterwards."""
    from autopeft.journey.consulting import Consultant

    return Consultant(workspace, known_profile)


def estimate(request: Request, candidate: Candidate) -> Verdict:
    """Predict what one configuration takes, and whether it fits."""
    with consult(request.workspace) as consultant:
        return consultant.judge(request, candidate)


def answer(
    question: Question,
    progress: Progress | None = None,
    *,
    workspace: str = ".autopeft",
    batches: bool = True,
) -> Answer:
    """Answer one question; with `batches` also say which batch is the largest and what would make it fit."""
    with consult(workspace) as consultant:
        return consultant.answer(question, progress, batches=batches)


def answer_many(
    rows: Iterable[Question | AutopeftError],
    *,
    workspace: str = ".autopeft",
    batches: bool = True,
    on_done: Callable[[int], None] | None = None,
) -> Iterator[Answer]:
    """Answer questions in their order, as soon as they are ready; a row that is an error is answered so."""
    with consult(workspace) as consultant:
        yield from consultant.answer_many(rows, batches=batches, on_done=on_done)


def explain(
    question: Question,
    progress: Progress | None = None,
    *,
    workspace: str = ".autopeft",
    batches: bool = True,
    on_answer: Callable[[Answer], None] | None = None,
) -> Explanation:
    """Answer one question, tell `on_answer`, and say what each switch of it would save or cost."""
    with consult(workspace) as consultant:
        return consultant.explain(question, progress, batches=batches, on_answer=on_answer)


def serve(question: Question, *, workspace: str = ".autopeft") -> Serving:
    """Say what a server of a configuration holds: merged, and with adapters beside the base."""
    from autopeft.journey.hosting import host

    return host(question, _poser(workspace))


def candidate_of(question: Question, *, workspace: str = ".autopeft") -> Candidate:
    """Return the configuration that a question asks of, at the usual learning rate, as a recipe takes it."""
    from autopeft.journey.first_tries import at_usual_rate

    posed = _poser(workspace).pose(question)
    return at_usual_rate(posed.candidate, posed.base.family)


def described_rows(request: Request) -> dict[str, Any]:
    """Return the fields of a question that a request's data decides: its rows, their lengths and the task."""
    from autopeft.journey.posing import described_rows

    return described_rows(request)


def inspect(request: Request) -> DataFacts:
    """Read a request's data and say what is in it, without its rows."""
    from autopeft.journey.conclusion import data_facts
    from autopeft.workload.readers import read_dataset

    dataset = read_dataset(str(request.data), task=request.task, columns=request.columns, seed=request.seed)
    return data_facts(dataset)


def plan(request: Request, progress: Progress | None = None) -> Plan:
    """Hold every configuration of the space against the budget."""
    with consult(request.workspace) as consultant:
        return consultant.plan(request, progress)


def overview(
    request: Request, progress: Progress | None = None, *, all_models: bool = False
) -> tuple[ModelRow, ...]:
    """Say of usual models, or all of the catalogue, how they train within the budget, and how far."""
    with consult(request.workspace) as consultant:
        return consultant.overview(request, progress, all_models=all_models)


def capacity(demand: Demand, progress: Progress | None = None, *, workspace: str = ".autopeft") -> Capacity:
    """Say which devices train the demanded models in which ways, how fast and at what cost."""
    with consult(workspace) as consultant:
        return consultant.capacity(demand, progress)


def capacity_page(made: Capacity, path: Path) -> Path:
    """Write the page of a capacity plan: one HTML file that needs no network."""
    from autopeft.report.capacity_page import write_page

    return write_page(made, path)


def search(request: Request, observers: Sequence[Observer] = (), progress: Progress | None = None) -> Study:
    """Search under the budget; with `resume`, go on where the study stopped.

    Raises:
        DoesNotFitError: nothing in the space fits the budget.
    """
    began = time.monotonic()  # before what takes seconds to import
    from autopeft.journey.sessions import SessionClock

    clock, tracker = SessionClock(request, began), _tracker(request)
    try:
        study = _search(request, (*observers, tracker), progress or _ignore, began, concludes=False)
        clock.keep(study, concluded=False)
        return study
    finally:
        _close(tracker)


def report(request: Request) -> StudyFacts:
    """Write a study's report page and return the facts that it shows."""
    from autopeft.journey.concluding import write_conclusion

    return write_conclusion(request, tracking_uri_of(request))


def sync(request: Request) -> Synced:
    """Write to MLflow what it lacks of a study; a second time writes nothing."""
    from autopeft.journey.syncing import sync_study

    return sync_study(request, tracking_uri_of(request), EXPERIMENT)


def _poser(workspace: str) -> Poser:
    from autopeft.journey.posing import Poser

    return Poser(Path(workspace), lambda: known_profile(Request(workspace=workspace)))


def _tracker(request: Request) -> MlflowObserver:
    from autopeft.tracking.mlflow import MlflowObserver

    place = tracking_uri_of(request) if request.resume else tracking_uri(request)
    return MlflowObserver(place, EXPERIMENT)


def _close(tracker: MlflowObserver) -> None:
    tracker.close()
    if tracker.problem is not None:
        logging.getLogger(__name__).warning("%s", tracker.problem)


def _search(
    request: Request, observers: Sequence[Observer], told: Progress, began: float, *, concludes: bool
) -> Study:
    from autopeft.cost.model import TracedCostModel
    from autopeft.journey import calibrating
    from autopeft.journey.searching import run_search

    with TracedCostModel(calibrations=calibrating.known(Path(request.workspace))) as cost_model:
        return run_search(
            request, known_profile, cost_model, observers, told, began=began, concludes=concludes
        )


def _ignore(stage: str, done: int, total: int) -> None:
    del stage, done, total
