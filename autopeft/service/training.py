"""Routes of what trains: data files, jobs, and what a job does while it runs."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi import Path as InPath
from fastapi.responses import Response, StreamingResponse
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from autopeft.errors import InputError
from autopeft.job import ENDED, Job, Kind, State, Upload
from autopeft.journey.allowing import require_time
from autopeft.message import Message
from autopeft.plan.budget import Seconds
from autopeft.request import Request as Wish
from autopeft.service import flags
from autopeft.service.access import Reader, Submitter, office_of
from autopeft.service.contract import EVENT, takes
from autopeft.service.problems import RefusedError
from autopeft.service.replies import check_body, in_time, read_json, read_message, reply
from autopeft.service.uploads import UPLOAD_SECONDS
from autopeft.service.wishes import NOT_TO_SEARCH, request_of
from autopeft.units import format_seconds

if TYPE_CHECKING:
    from autopeft.service.office import Office

router = APIRouter(prefix="/api/v1", tags=["training"])
JobId = Annotated[str, InPath(min_length=1, max_length=26, pattern=r"^[A-Za-z0-9]+$")]
DataId = Annotated[str, InPath(min_length=1, max_length=24, pattern=r"^[0-9a-f]+$")]
LOOK_SECONDS, ALIVE_SECONDS = 0.5, 15.0
FOLLOW_SECONDS = 3600.0
"""Who follows for longer comes again, with a token that is still good."""


class More(Message):
    """What a job that goes on may take beyond what it has taken.

    Attributes:
        time: such as "30min".   trials: limit of all its trials; None leaves them to the time.
    """

    time: Seconds
    trials: int | None = Field(default=None, ge=1, le=10**6)


class JobList(Message):
    """Jobs, the latest first; `next` is the address of those before them."""

    items: tuple[Job, ...]
    next: str | None = None


_FILE = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.post("/data", status_code=201, response_model=Upload, openapi_extra=_FILE)
async def post_data(
    request: Request,
    who: Submitter,
    name: Annotated[str, Query(max_length=100, description="Its suffix says what is in it.")],
    task: str | None = None,
    columns: Annotated[str | None, Query(max_length=2000, description="Column by role, as JSON.")] = None,
) -> Response:
    """Take a file of rows (CSV, JSON Lines, Parquet, CoNLL), read it, and keep it for searches."""
    office = office_of(request)
    check_body(request, office.settings.upload_bytes)
    fields: dict[str, object] = {} if task is None else {"task": task}
    if columns is not None:
        fields["columns"] = _columns(columns)
    with office.uploads.room(who):
        file = await office.uploads.take(who, name, in_time(request, UPLOAD_SECONDS))
        upload = await office.readings.take(who.user, partial(office.uploads.keep, who, file, fields))
    what = f"{upload.id} {upload.name}"
    await run_in_threadpool(office.note, who, "upload", what, request.state.request_id)
    return reply(upload, HTTPStatus.CREATED)


@router.get("/data", response_model=list[Upload])
def list_data(request: Request, who: Reader) -> Response:
    """List your data files."""
    return reply(office_of(request).uploads.list(who))


@router.get("/data/{number}", response_model=Upload)
def one_data(request: Request, who: Reader, number: DataId) -> Response:
    """Return what was read in a data file of yours."""
    return reply(office_of(request).uploads.find(who, number))


@router.delete("/data/{number}", status_code=204)
def delete_data(request: Request, who: Submitter, number: DataId) -> Response:
    """Delete a data file of yours."""
    office = office_of(request)
    office.uploads.delete(who, number)
    office.note(who, "delete-data", number, request.state.request_id)
    return Response(status_code=HTTPStatus.NO_CONTENT)


@router.post(
    "/jobs",
    status_code=201,
    response_model=Job,
    openapi_extra={
        **takes(
            Wish,
            name="JobRequest",
            without=NOT_TO_SEARCH,
            also={**flags.BUDGET, "kind": {"enum": ["run", "search"], "type": "string", "default": "run"}},
        ),
        "x-problems": [409],
        "x-also": {"200": "The job that the same Idempotency-Key made before."},
    },
)
async def submit(
    request: Request,
    who: Submitter,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
) -> Response:
    """Submit a search, or with kind `run` (the default) all of it: search, test scores, adapter, report."""
    office = office_of(request)
    fields = await read_json(request)
    kind: Any = fields.pop("kind", None) or "run"
    if kind not in ("run", "search"):
        raise InputError(f"kind must be run or search, but got {kind!r}.")
    files = {name: fields.get(name) for name in ("data", "test_data") if fields.get(name) is not None}
    wish = await run_in_threadpool(request_of, fields, office, who, NOT_TO_SEARCH)
    wish, seconds = _bounded(office, kind, wish)
    if wish.data is not None:
        said: dict[str, object] = {"task": wish.task, "columns": wish.columns}
        check = partial(office.uploads.check, who, str(files["data"]), said)
        with office.uploads.room(who):
            await office.readings.take(who.user, check)
    # By ids and names: where they lie is looked up when the job runs.
    named = {"model": fields["model"]} if wish.model and Path(wish.model).is_absolute() else {}
    wish = wish.model_copy(update=files | named)
    put = partial(office.jobs.submit, who, kind, wish, seconds=seconds, key=idempotency_key)
    job, new = await run_in_threadpool(put)
    if new:
        await run_in_threadpool(office.note, who, "submit", job.id, request.state.request_id)
    headers = {"location": f"/api/v1/jobs/{job.id}"}
    return reply(job, HTTPStatus.CREATED if new else HTTPStatus.OK, headers)


def _bounded(office: Office, kind: Kind, wish: Wish) -> tuple[Wish, float]:
    """Return what a job is asked for with a time, and that, where it can be done at all.

    Raises:
        InputError: something is missing, or does not go together, or takes longer than jobs may.
        DoesNotFitError: there is no time for a run.
    """
    if wish.data is None and wish.demo is None:
        raise InputError("a job needs data: the id of a file from POST /api/v1/data, or a demo.")
    if wish.demo is None and wish.model is None:
        raise InputError("a job needs a model, or a demo.")
    if kind == "search" and wish.refit:
        raise InputError("refit is for kind run: a search alone exports nothing, so leave it out.")
    if wish.demo is not None and (wish.model or wish.data):
        raise InputError("a demo brings its own model and data: leave out model and data.")
    most = office.settings.longest_seconds
    seconds = wish.budget.time or most
    if seconds > most:
        raise InputError(
            f"a job may take {format_seconds(most)} here, but budget.time is {format_seconds(seconds)}."
        )
    if kind == "run":
        require_time(seconds)
    return wish.model_copy(update={"budget": wish.budget.model_copy(update={"time": seconds})}), seconds


@router.get("/jobs", response_model=JobList)
def list_jobs(
    request: Request,
    who: Reader,
    state: State | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    before: Annotated[str | None, Query(max_length=26, pattern=r"^[A-Za-z0-9]+$")] = None,
) -> Response:
    """List your jobs, the latest first; an administrator's are all."""
    jobs = office_of(request).jobs.of(who, state=state, limit=limit + 1, before=before)
    following = None
    if len(jobs) > limit:
        jobs = jobs[:limit]
        chosen = "" if state is None else f"&state={state}"
        following = f"/api/v1/jobs?limit={limit}&before={jobs[-1].id}{chosen}"
    return reply(JobList(items=jobs, next=following))


@router.get("/jobs/{number}", response_model=Job)
def one_job(request: Request, who: Reader, number: JobId) -> Response:
    """Return a job of yours."""
    return reply(office_of(request).jobs.find(who, number))


@router.post("/jobs/{number}/stop", response_model=Job, openapi_extra={"x-problems": [409]})
def stop(request: Request, who: Submitter, number: JobId) -> Response:
    """Stop a job of yours; what it has trained to the end is kept."""
    office = office_of(request)
    job = office.jobs.stop(who, number)
    office.note(who, "stop", number, request.state.request_id)
    return reply(job)


@router.post("/jobs/{number}/resume", response_model=Job, openapi_extra={**takes(More), "x-problems": [409]})
async def resume(request: Request, who: Submitter, number: JobId) -> Response:
    """Let a job of yours that has ended go on, for so much longer."""
    office = office_of(request)
    more = await read_message(request, More)
    if more.time > office.settings.longest_seconds:
        raise InputError(f"a job may take {format_seconds(office.settings.longest_seconds)} here at once.")
    job = await run_in_threadpool(
        lambda: office.jobs.resume(who, number, seconds=more.time, trials=more.trials)
    )
    await run_in_threadpool(office.note, who, "resume", number, request.state.request_id)
    return reply(job)


@router.get(
    "/jobs/{number}/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {"itemSchema": EVENT}}}},
)
async def events(
    request: Request,
    who: Reader,
    number: JobId,
    last_event_id: Annotated[str | None, Header(max_length=20)] = None,
    after: Annotated[int, Query(ge=0, le=10**9)] = 0,
) -> Response:
    """Follow a job as server-sent events: what happened so far, then what happens, until it has ended.

    Each is a JSON object; its `event` says what it is. `state` comes whenever the job's state changes, and
    last of all. After an interruption, which comes every hour, go on by `Last-Event-ID`.
    """
    office = office_of(request)
    await run_in_threadpool(office.jobs.find, who, number)
    if not office.followers.free(who.user):
        raise RefusedError(
            HTTPStatus.TOO_MANY_REQUESTS,
            "quota",
            "too many jobs are followed at once: end one, or ask for the job itself.",
            Retry_After="10",
        )
    given = last_event_id or ""
    start = min(int(given), 10**9) if given.isdecimal() and given.isascii() else after
    return StreamingResponse(
        _follow_in_place(office, who, number, start),
        media_type="text/event-stream",
        headers={"x-accel-buffering": "no"},
    )


async def _follow_in_place(office: Office, who: Any, number: str, after: int) -> AsyncIterator[str]:
    with office.followers.one(who.user) as there_is_one:
        if there_is_one:
            async for text in _follow(office, who, number, after):
                yield text


async def _follow(office: Office, who: Any, number: str, after: int) -> AsyncIterator[str]:
    shown: tuple[str, bool] | None = None
    seen, silent = after, 0.0
    until = time.monotonic() + FOLLOW_SECONDS
    while time.monotonic() < until:
        try:
            job = await run_in_threadpool(office.jobs.find, who, number)
            found = await run_in_threadpool(office.jobs.events, number, seen)
        except RefusedError:
            return
        for place, event in found:
            yield f"id: {place}\ndata: {event}\n\n"
        if found:
            seen = found[-1][0]
            silent = 0.0
            continue
        if shown != (job.state, job.stopping):
            shown = job.state, job.stopping
            told = job.model_dump(mode="json", include={"state", "reason", "stopping", "spent", "seconds"})
            yield f"data: {json.dumps({'event': 'state', **told})}\n\n"
        if job.state in ENDED or not office.ready:
            return
        await asyncio.sleep(LOOK_SECONDS)
        silent += LOOK_SECONDS
        if silent >= ALIVE_SECONDS:
            silent = 0.0
            yield ": alive\n\n"


def _columns(text: str) -> dict[str, str]:
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict) or not all(isinstance(each, str) for each in given.values()):
        raise InputError('columns must be a JSON object of names, such as {"text": "review"}.')
    return given
