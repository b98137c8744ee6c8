"""Wishes: the fields of a request that a client may give, and those that only the service decides."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from autopeft.errors import InputError
from autopeft.request import Request
from autopeft.service.flags import with_budget
from autopeft.service.replies import strictly

if TYPE_CHECKING:
    from autopeft.service.office import Office
    from autopeft.service.tokens import Caller

NEVER = ("workspace", "study", "resume", "address", "storage", "mlflow")
"""Where things lie and run is the service's business."""
NOT_TO_PLAN = (*NEVER, "searcher")
NOT_TO_SEARCH = (*NEVER, "gpu", "gpus", "sharding", "offload", "examples", "grid_factor")


def request_of(
    fields: dict[str, Any], office: Office, who: Caller, without: tuple[str, ...] = NOT_TO_PLAN
) -> Request:
    """Return the request that a body's fields ask for, with safe names and the data of its user.

    Raises:
        InputError: a field is unknown, invalid, or not for clients to give.
    """
    fields = with_budget(fields)
    for name in without:
        if fields.get(name) is not None:
            raise InputError(f"{name} is not for a client of a service to give: leave it out.")
    given = {name: value for name, value in fields.items() if value is not None and name not in without}
    if isinstance(given.get("data"), str):  # what is none is refused below
        given |= _as_uploaded(given, office, who)
    for name in ("data", "test_data"):
        if isinstance(given.get(name), str):
            given[name] = str(office.uploads.path(who, given[name]))
    given["workspace"] = str(Path(office.settings.workspace).resolve())
    wish = strictly(Request, given)
    office.names.device(wish.gpu)
    office.names.space(wish.space)
    if wish.model is None:
        return wish
    return wish.model_copy(update={"model": office.names.model(wish.model)})


def _as_uploaded(given: dict[str, Any], office: Office, who: Caller) -> dict[str, Any]:
    """Return task and columns as its user named them when the file came, under what is given now."""
    office.uploads.path(who, given["data"])  # says which there are
    upload, columns = office.uploads.find(who, given["data"]), given.get("columns", {})
    if given.get("task", upload.task) != upload.task or not isinstance(columns, dict):
        return {}
    named = {"task": upload.task, "columns": {**upload.columns, **columns}}
    return {name: value for name, value in named.items() if value}
