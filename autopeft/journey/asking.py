"""What a study is asked: a new one by its request, one that goes on by what it was asked when it began."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from autopeft.errors import InputError
from autopeft.journey.workspace import StudyFolder, existing_study, is_begun, open_store, study_folder
from autopeft.request import Request

_PLACES = ("model", "data", "test_data")
_ELSEWHERE = ("address", "storage", "mlflow")
_OF_A_RESUMPTION = frozenset(("resume", "study", "workspace", "budget", "refit", *_ELSEWHERE))


def open_study(request: Request) -> tuple[StudyFolder, Request]:
    """Return the folder of a new study, or of the one to go on with and what it was asked.

    Of the new request a resumed study takes the budget; the rest must stay as it was. A time or cost that is
    given is for this session, and added to what was spent; one that is not is what the study began with.

    Raises:
        InputError: the name is taken.
    """
    if not request.resume:
        folder = study_folder(request.workspace, request.study or _new_name(request))
        if is_begun(folder, request.storage):
            raise InputError(
                f"the study {folder.path.name!r} exists already: --resume goes on with it, "
                "or give another --study."
            )
        places = {name: _absolute(getattr(request, name)) for name in _PLACES}
        return folder, request.model_copy(update={"study": folder.path.name, **places})
    folder = existing_study(request.workspace, request.study)
    stored = stored_request(folder, request)
    for name in sorted(request.model_fields_set - _OF_A_RESUMPTION):
        given, before = getattr(request, name), getattr(stored, name)
        given = _absolute(given) if name in _PLACES else given
        if given != before and given is not None:
            raise InputError(
                f"a resumed study keeps what it began with: {name} is {before!r}, but got {given!r}; "
                "leave it out, or begin another study."
            )
    limits: dict[str, Any] = {name: value for name, value in request.budget if value is not None}
    if limits.keys() & {"time", "cost"}:
        limits = {"trials": None, **limits}
    budget = stored.budget.model_copy(update={"time": None, "cost": None, **limits})
    return folder, stored.model_copy(update={"budget": budget, "resume": True})


def stored_request(folder: StudyFolder, request: Request) -> Request:
    """Read what a study was asked when it began; where it runs may be given anew."""
    store = open_store(folder, request.storage)
    try:
        stored = Request.model_validate_json(store.request())
    finally:
        store.close()
    given = {name: value for name in _ELSEWHERE if (value := getattr(request, name)) is not None}
    anew = {"study": folder.path.name, "workspace": request.workspace, "address": None}
    refit = stored.refit or request.refit
    return stored.model_copy(update={**anew, **given, "refit": refit})


def _absolute(place: str | None) -> str | None:
    """Name a file so that the study can be resumed from another directory; other names stay."""
    return str(Path(place).resolve()) if place is not None and Path(place).exists() else place


def _new_name(request: Request) -> str:
    subject = f"demo-{request.demo}" if request.demo else Path(request.data or request.model or "study").stem
    safe = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in subject)
    return f"{safe[:40].strip('-') or 'study'}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
