"""Handing over what a study found: as a bundle that others load, checked again, as a recipe, side by side.

As in `pipeline`, the command line and the Python face call these and add nothing.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from autopeft.request import Request

if TYPE_CHECKING:
    from autopeft.export.bundle import Bundle, Export, Verified
    from autopeft.export.recipes.subject import Format, Recipe
    from autopeft.plan.capacity import Capacity
    from autopeft.plan.plan import Plan
    from autopeft.report.comparison import Comparison
    from autopeft.report.facts import StudyFacts
    from autopeft.space.candidate import Candidate

EXPERIMENT = "autopeft"


def export(request: Request, asked: Export | None = None) -> Bundle:
    """Export a study's winner, or a trial by its number, as a directory that transformers and peft load."""
    from autopeft.export.bundle import Export
    from autopeft.journey.exporting import export_trial

    return export_trial(request, tracking_uri_of(request), EXPERIMENT, asked or Export())


def export_winner(request: Request, *, beside: float = 0.0, early: bool = False) -> Bundle:
    """Export a study's winner as the study was asked to: trained once more where that is possible.

    Args:
        beside: seconds that the session has taken beside its search, which count against the time.
        early: the search was ended before its time, by somebody who waits: nothing is trained any more.
    """
    from autopeft.errors import ExportError
    from autopeft.export.bundle import Export
    from autopeft.files import write_atomically
    from autopeft.journey.concluding import Finished
    from autopeft.journey.refitting import too_long

    done = Finished(request)
    done.folder.no_refit.unlink(missing_ok=True)
    if done.request.refit:
        why = "the search was concluded early" if early else too_long(done, done.trial(None), beside)
        if not why:
            try:
                return export(request, Export(force=True, refit=True))
            except ExportError as error:
                why = str(error)
        write_atomically(done.folder.no_refit, f"{why.rstrip('.')}\n")
    return export(request, Export(force=True, refit=False))


def conclude(request: Request) -> StudyFacts:
    """Export a study's winner and write its report, as a run does when its search has ended.

    For a search that was stopped, and one that was only searched; a refit that was asked for is left out.
    MLflow gets what it lacks of the study where it answers.

    Raises:
        ClaimedError: another process searches or exports the study.
        InputError: no trial was trained to the end.
    """
    from autopeft.errors import StorageError
    from autopeft.journey.concluding import write_conclusion
    from autopeft.journey.syncing import sync_study

    place = tracking_uri_of(request)
    export_winner(request, early=True)
    facts = write_conclusion(request, place)
    try:
        sync_study(request, place, EXPERIMENT)
    except StorageError as error:
        logging.getLogger(__name__).warning("%s", error)
    return facts


def verify(place: Path, **moved: str | None) -> Verified:
    """Hold a bundle against what it recorded of itself: files, logits and score.

    Args:
        moved: `data`, `test_data` or `model` where they lie elsewhere now.
    """
    from autopeft.journey.verifying import verify

    return verify(place, {name: value for name, value in moved.items() if value is not None})


def recipe(
    request: Request,
    wanted: Format,
    *,
    trial: int | None = None,
    candidate: Candidate | None = None,
    out: Path | None = None,
    force: bool = False,
    elsewhere: bool = False,
) -> Recipe:
    """Write a study's winner, a trial, or a configuration as files that another tool trains it from.

    Args:
        candidate: of the model and data that the request names, instead of a study's trial.
        out: directory to write, with the rows where they are known; None writes nothing.
        elsewhere: for another machine, so that a base in a directory of this one is called by its name alone.
    """
    from autopeft.journey.reciting import recipe_of_candidate, recipe_of_study

    if candidate is not None:
        return recipe_of_candidate(request, candidate, wanted, out, force=force, elsewhere=elsewhere)
    return recipe_of_study(request, wanted, trial, out, force=force, elsewhere=elsewhere)


def candidates(source: str) -> list[Candidate]:
    """Read the configurations of a file: one, what a plan printed as JSON, or a line for each."""
    from autopeft.journey.reciting import candidates_in

    return candidates_in(source)


def kept_answer(place: Path) -> Plan | Capacity:
    """Read a plan or a capacity plan that was kept as JSON."""
    from autopeft.journey.kept_answers import read_answer

    return read_answer(place)


def answer_page(answer: Plan | Capacity, path: Path) -> Path:
    """Write the page of a plan or a capacity plan: one HTML file that needs no network."""
    from autopeft.journey.kept_answers import write_answer

    return write_answer(answer, path)


def compare(one: str, other: str, *, workspace: str = ".autopeft", storage: str | None = None) -> Comparison:
    """Hold two studies or bundles side by side, row by row where they were scored on the same rows.

    Args:
        storage: URL of the database, for studies that are in one; None is where they were begun.
    """
    from autopeft.journey.comparing import compare

    return compare(one, other, workspace, storage)


def compare_studies(one: str, other: str, *, workspace: str = ".autopeft") -> Comparison:
    """Hold two studies side by side by the test scores that are kept of them; nothing is scored now.

    Raises:
        UnscoredError: the winner of one of them was not scored yet.
    """
    from autopeft.journey.comparing import compare_studies

    return compare_studies(one, other, workspace)


def tracking_uri(request: Request) -> str:
    """Return where MLflow keeps the runs."""
    from autopeft.tracking.mlflow_store import default_tracking_uri

    return request.mlflow or default_tracking_uri(Path(request.workspace))


def tracking_uri_of(request: Request) -> str:
    """Return where MLflow keeps the runs of a study that was begun."""
    from autopeft.journey.asking import stored_request
    from autopeft.journey.workspace import existing_study

    if request.mlflow is None:
        folder = existing_study(request.workspace, request.study)
        request = stored_request(folder, request)
    return tracking_uri(request)
