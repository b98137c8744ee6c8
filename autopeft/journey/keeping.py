"""Keeping: what a workspace has of a study, and how to go on with one that was cut off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autopeft.errors import InputError
from autopeft.export.bundle import Bundle, Form
from autopeft.export.names import MANIFEST
from autopeft.files import without_places, write_atomically
from autopeft.journey.workspace import StudyFolder, existing_study, is_begun, open_store, study_folder
from autopeft.report.facts import Kept, StudyFacts
from autopeft.request import Request
from autopeft.search.study import Study, Trial


def list_kept(workspace: str) -> tuple[Kept, ...]:
    """Return the studies of a workspace, by name."""
    folders = sorted(Path(workspace).glob("studies/*"))
    found = (StudyFolder(path) for path in folders if path.is_dir())
    return tuple(_kept(folder) for folder in found if folder.has_store)


def kept(request: Request) -> Kept:
    """Return what there is of a study.

    Raises:
        UnknownNameError: there is no such study.
    """
    return _kept(existing_study(request.workspace, request.study))


def load(request: Request) -> Study:
    """Return a study with its trials so far.

    Raises:
        UnknownNameError: there is no such study.
    """
    store = open_store(existing_study(request.workspace, request.study), request.storage)
    try:
        return store.load()
    finally:
        store.close()


@contextmanager
def claimed(request: Request) -> Iterator[None]:
    """Have a study to oneself; a search of it, and whoever else claims it, is refused meanwhile.

    Raises:
        ClaimedError: another process has it.
        UnknownNameError: there is no such study.
    """
    store = open_store(existing_study(request.workspace, request.study), request.storage)
    try:
        with store.claimed():
            yield
    finally:
        store.close()


def facts(request: Request) -> StudyFacts:
    """Return the facts of a concluded study.

    Raises:
        InputError: it is not concluded.
    """
    folder = existing_study(request.workspace, request.study)
    _concluded_at(folder)
    return StudyFacts.read(folder.facts)


def report_file(request: Request) -> Path:
    """Return the report page of a study.

    Raises:
        InputError: it was not written.
    """
    folder = existing_study(request.workspace, request.study)
    if not folder.report.is_file():
        raise InputError(f"the study {folder.path.name!r} has no report: autopeft report writes it.")
    return folder.report


def served_report(request: Request) -> Path | None:
    """Return the report page of a study for others; None where it is of other facts, or not written.

    It has the facts' time, see `write_served_report`.

    Raises:
        InputError: there is no report at all, or there are no facts to write it from.
    """
    report_file(request)
    folder = existing_study(request.workspace, request.study)
    page, concluded = folder.served_report, _concluded_at(folder)
    return page if page.is_file() and page.stat().st_mtime_ns == concluded else None


def write_served_report(request: Request) -> Kept:
    """Write the report page of a study for others, and return what there is of the study.

    It gets the time that the facts had before they were read: should they change meanwhile, it is not theirs.

    Raises:
        InputError: the study is not concluded.
        StorageError: the disk is full or the place cannot be written.
    """
    from autopeft.report.html import render

    folder = existing_study(request.workspace, request.study)
    concluded = _concluded_at(folder)
    page = without_places(render(facts(request).elsewhere()), Path(request.workspace))
    write_atomically(folder.served_report, page, modified=concluded)
    return _kept(folder)


def bundle_folder(request: Request, trial: int | None = None, form: Form = "adapter") -> Path:
    """Return a directory that was exported of a study, where export puts it.

    Args:
        trial: its number; None is the winner, as the study is now.

    Raises:
        InputError: no such was exported.
    """
    folder = existing_study(request.workspace, request.study)
    best = load(request).best if trial is None else None
    number = trial if best is None else best.number
    usual = folder.exported(None, form) / MANIFEST
    manifests = {usual, folder.exported(number, form) / MANIFEST}
    trials = {each: Bundle.read(each).trial for each in manifests if each.is_file()}
    found = [each for each, made_of in trials.items() if made_of == number]
    if found:
        return max(found, key=lambda manifest: manifest.stat().st_mtime).parent
    of_form = "" if form == "adapter" else f" in the form {form}"
    if best is not None and usual in trials:
        raise InputError(
            f"the bundle of study {folder.path.name!r}{of_form} is of trial {trials[usual]}, but trial "
            f"{number} has won since: autopeft export writes it anew."
        )
    whose = "" if trial is None else f" of trial {trial}"
    raise InputError(
        f"the study {folder.path.name!r} has no bundle{whose}{of_form}: autopeft export writes it."
    )


def exportable(request: Request, number: int | None) -> Trial:
    """Return the trial that an export would take: the winner, or that of a number.

    Raises:
        UnknownNameError: there is no such study.
        InputError: there is no such trial that was trained to the end, or its weights are gone.
    """
    found = trained_to_the_end(load(request), number)
    require_weights(existing_study(request.workspace, request.study), found)
    return found


def trained_to_the_end(study: Study, number: int | None) -> Trial:
    """Return a trial that was trained to the end: the winner, or that of a number.

    Raises:
        InputError: there is none.
    """
    if number is None:
        if study.best is None:
            raise InputError(
                f"no trial of study {study.name!r} was trained to the end, so there is nothing to "
                "export; give it more time: autopeft search --resume."
            )
        return study.best
    complete = {trial.number: trial for trial in study.trials if trial.state == "complete"}
    if number not in complete:
        known = ", ".join(map(str, complete)) or "none"
        raise InputError(
            f"only a trial that was trained to the end can be exported, but got trial {number}; "
            f"those of study {study.name!r} are: {known}."
        )
    return complete[number]


def require_weights(folder: StudyFolder, trial: Trial) -> None:
    """Check that the weights of a trial are still kept.

    Raises:
        InputError: they are not.
    """
    place = folder.checkpoint(trial.number)
    if not place.is_dir():
        raise InputError(f"the weights of trial {trial.number} are not in {place} any more.")


def going_on(request: Request, spent: float) -> Request:
    """Return a request that goes on where its study was cut off, or begins it.

    Args:
        request: what was asked at first, with the name of the study.
        spent: seconds of its time that are used up.
    """
    folder = study_folder(request.workspace, request.study or "")
    budget = request.budget
    if budget.time is not None and spent:
        budget = budget.model_copy(update={"time": max(1.0, budget.time - spent)})
    if not is_begun(folder, request.storage):
        return request.model_copy(update={"budget": budget})
    return Request(
        study=request.study,
        workspace=request.workspace,
        resume=True,
        budget=budget,
        address=request.address,
        mlflow=request.mlflow,
    )


def _kept(folder: StudyFolder) -> Kept:
    return Kept(
        name=folder.path.name,
        report=folder.report.is_file(),
        bundle=(folder.bundle / MANIFEST).is_file(),
    )


def _concluded_at(folder: StudyFolder) -> int:
    """Return when the facts of a study were written, in nanoseconds since 1970.

    Raises:
        InputError: it is not concluded.
    """
    try:
        return folder.facts.stat().st_mtime_ns
    except FileNotFoundError:
        raise InputError(
            f"the study {folder.path.name!r} is not concluded: autopeft report concludes it."
        ) from None
