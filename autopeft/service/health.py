"""Routes for those who run the service: is it alive, is it ready, how does it do."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST

from autopeft.errors import AutopeftError
from autopeft.job import STATES
from autopeft.message import Message
from autopeft.service.access import Admin, Reader, office_of
from autopeft.service.problems import RefusedError
from autopeft.service.replies import reply

router = APIRouter(tags=["health"])
_log = logging.getLogger(__name__)


class Health(Message):
    """Whether the service is well."""

    status: Literal["ok"] = "ok"


class Line(Message):
    """One line of the audit log: who did what, when, in which request."""

    number: int
    at: float
    user: str
    action: str
    what: str
    request_id: str


@router.get("/healthz", response_model=Health)
async def healthz() -> Response:
    """Say that the process is alive."""
    return reply(Health())


@router.get("/readyz", response_model=Health)
def readyz(request: Request) -> Response:
    """Say whether all goes on: the database answers, jobs are taken and the service is not shutting down."""
    office = office_of(request)
    try:
        office.database.check()
    except AutopeftError as error:
        _log.error("not ready: %s", error)  # nobody who asks here has said who they are
        words = "not ready: the database does not answer, the service's log says why."
        raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "busy", words) from None
    if not office.runner.takes_jobs:
        words = "not ready: jobs are no longer taken, the service's log says why; start it again."
        raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "busy", words)
    if not office.ready:
        raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "busy", "not ready: the service is shutting down.")
    return reply(Health())


@router.get("/metrics", response_class=Response, responses={200: {"content": {CONTENT_TYPE_LATEST: {}}}})
def metrics(request: Request, who: Reader) -> Response:
    """Return the measurements in Prometheus' text format."""
    del who
    office = office_of(request)
    counts = office.jobs.counts()
    for state in STATES:
        office.metrics.jobs.labels(state).set(counts.get(state, 0))
    return Response(office.metrics.text(), media_type=CONTENT_TYPE_LATEST)


@router.get("/api/v1/audit", response_model=list[Line])
def audit(
    request: Request,
    who: Admin,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    before: Annotated[int | None, Query(ge=0, le=2**31 - 1, description="Only lines before this.")] = None,
) -> Response:
    """Return who did what, the latest first."""
    del who
    lines = office_of(request).database.audit(limit=limit, before=before)
    return reply(lines)
