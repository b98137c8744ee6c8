"""Routes of what a search has found: studies, their facts, report pages, adapters."""

from __future__ import annotations

import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

from fastapi import APIRouter, Query, Request
from fastapi import Path as InPath
from fastapi.responses import FileResponse, Response, StreamingResponse
from pydantic_core import to_json
from starlette.concurrency import run_in_threadpool

from autopeft.errors import InputError, UnknownNameError
from autopeft.export.bundle import Form
from autopeft.journey import keeping
from autopeft.message import Message
from autopeft.report.comparison import Comparison
from autopeft.report.facts import Kept, StudyFacts
from autopeft.request import Request as Wish
from autopeft.search.study import Study
from autopeft.service import apart
from autopeft.service.access import Reader, office_of
from autopeft.service.placeless import placeless
from autopeft.service.problems import RefusedError
from autopeft.service.replies import reply
from autopeft.service.zipping import zipped

if TYPE_CHECKING:
    from autopeft.service.tokens import Caller

router = APIRouter(prefix="/api/v1", tags=["results"])
StudyName = Annotated[str, InPath(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
REPORT_CSP = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline' blob:; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""A report page is one file with its scripts inside: it runs as a stranger, without the reader's cookie."""
Found = TypeVar("Found")


@router.get("/studies", response_model=list[Kept])
def studies(request: Request, who: Reader) -> Response:
    """List your studies, and whether they have a report and a bundle; an administrator's are all."""
    office = office_of(request)
    found = keeping.list_kept(str(office.settings.workspace))
    if not who.may("admin"):
        mine = {job.id for job in office.jobs.of(who, limit=10_000)}
        found = tuple(each for each in found if each.name in mine)
    return reply(found)


@router.get("/studies/{name}", response_model=Study)
def study(request: Request, who: Reader, name: StudyName) -> Response:
    """Return a study with its trials so far."""
    found = keeping.load(own_study(request, who, name))
    return _placeless(request, found.model_copy(update={"folder": ""}))


@router.get("/studies/{name}/facts", response_model=StudyFacts)
def facts(request: Request, who: Reader, name: StudyName) -> Response:
    """Return everything that the report of a study shows, but for where things lie."""
    found = _or_missing(lambda: keeping.facts(own_study(request, who, name)))
    return _placeless(request, found.elsewhere())


@router.get(
    "/studies/{name}/report",
    response_class=FileResponse,
    responses={200: {"content": {"text/html": {"schema": {"type": "string"}}}}},
)
async def report(request: Request, who: Reader, name: StudyName) -> Response:
    """Return the report page of a study, without places on the service's disk."""
    wish = await run_in_threadpool(own_study, request, who, name)
    page = await run_in_threadpool(_or_missing, lambda: keeping.served_report(wish))
    if page is None:
        desk, place = office_of(request).desk, office_of(request).settings.workspace
        key = f"report {name} {time.monotonic_ns() // 10**9}"  # many who come at once wait for one
        await desk.ask(who, key, lambda _: apart.ask("report", Kept, place, study=name))
        page = await run_in_threadpool(_or_missing, lambda: keeping.served_report(wish))
    if page is None:
        raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "busy", "the report is being written: try again.")
    return FileResponse(page, media_type="text/html", headers={"content-security-policy": REPORT_CSP})


@router.get(
    "/studies/{name}/bundle",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}}}},
)
def bundle(
    request: Request,
    who: Reader,
    name: StudyName,
    trial: Annotated[int | None, Query(ge=0, le=10**6, description="Default: the winner.")] = None,
    form: Form = "adapter",
) -> Response:
    """Download what was exported of a study: a zip of the directory that transformers and peft load.

    A run exports its winner's adapter; `exports` of the study makes others.
    """
    folder = _or_missing(lambda: keeping.bundle_folder(own_study(request, who, name), trial, form))
    named = name + folder.name.removeprefix("bundle")
    headers = {"content-disposition": f'attachment; filename="{named}.zip"'}
    return StreamingResponse(zipped(folder), media_type="application/zip", headers=headers)


@router.get("/studies/{name}/compare/{other}", response_model=Comparison, openapi_extra={"x-problems": [409]})
async def compare(request: Request, who: Reader, name: StudyName, other: StudyName) -> Response:
    """Hold two studies of yours side by side, row by row where they were tested on the same rows.

    Only test scores that are there are compared: a study whose winner has none, as one that was only searched
    or is still searched, is a conflict.
    """
    office = office_of(request)
    wishes = [await run_in_threadpool(own_study, request, who, each) for each in (name, other)]
    winners = [await run_in_threadpool(winner_of, each) for each in wishes]
    key = f"compare {name} {other} {winners}"
    place = office.settings.workspace
    return reply(
        await office.desk.ask(
            who, key, lambda _: apart.ask("compare", Comparison, place, one=name, other=other)
        )
    )


def winner_of(wish: Wish) -> int | None:
    """Return the number of the trial that wins a study so far; None where none was trained to the end."""
    best = keeping.load(wish).best
    return None if best is None else best.number


def own_study(request: Request, who: Caller, name: str) -> Wish:
    """Return the request that names a study, of its user only.

    Raises:
        RefusedError: it is another's, or there is none.
    """
    office = office_of(request)
    if not who.may("admin"):
        office.jobs.find(who, name)
    wish = Wish.build(workspace=str(Path(office.settings.workspace).resolve()), study=name)
    try:
        keeping.kept(wish)
    except UnknownNameError:  # whose message names the studies of others
        words = f"unknown study {name!r}: nothing was searched under that name yet."
        raise RefusedError(HTTPStatus.NOT_FOUND, "not-found", words) from None
    return wish


def _or_missing(find: Callable[[], Found]) -> Found:
    """Return what is found; what is not there is no mistake of the request."""
    try:
        return find()
    except InputError as error:
        raise RefusedError(HTTPStatus.NOT_FOUND, "not-found", str(error)) from None


def _placeless(request: Request, answer: Message) -> Response:
    """Return an answer whose texts, such as why a trial failed, name no place on the service's disk."""
    text = to_json(answer, inf_nan_mode="null").decode()
    return reply(placeless(text, office_of(request).settings).encode())
