"""Routes of what is made of a study by a job: any trial in any form, and the conclusion of a search."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Header, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from autopeft.errors import InputError
from autopeft.export.bundle import Export
from autopeft.job import NOT_TO_EXPORT, ExportOrder, Job
from autopeft.journey import keeping
from autopeft.service.access import Submitter, office_of
from autopeft.service.contract import takes
from autopeft.service.problems import RefusedError
from autopeft.service.replies import read_json, reply, strictly
from autopeft.service.results import StudyName, own_study
from autopeft.service.training import JobId

if TYPE_CHECKING:
    from autopeft.service.tokens import Caller

router = APIRouter(prefix="/api/v1", tags=["results"])


@router.post(
    "/studies/{name}/exports",
    status_code=201,
    response_model=Job,
    openapi_extra={
        **takes(Export, name="ExportRequest", without=NOT_TO_EXPORT),
        "x-problems": [409],
        "x-also": {"200": "The job that the same Idempotency-Key made before."},
    },
)
async def export(
    request: Request,
    who: Submitter,
    name: StudyName,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
) -> Response:
    """Export a trial of a study, the winner unless `trial` says another, by a job.

    When the job is done, `bundle` of the study, with the same `trial` and `form`, has it.
    """
    fields = await read_json(request)
    job, new = await run_in_threadpool(_submit, request, who, name, fields, idempotency_key)
    headers = {"location": f"/api/v1/jobs/{job.id}"}
    return reply(job, HTTPStatus.CREATED if new else HTTPStatus.OK, headers)


def _submit(
    request: Request, who: Caller, name: str, fields: dict[str, Any], key: str | None
) -> tuple[Job, bool]:
    office = office_of(request)
    for field in ("study", *NOT_TO_EXPORT):
        if fields.get(field) is not None:
            raise InputError(f"{field} is not for a client of a service to give: leave it out.")
    order = strictly(ExportOrder, {**fields, "study": name})
    wish = own_study(request, who, name)
    if office.jobs.is_open(name):
        raise RefusedError(
            HTTPStatus.CONFLICT, "conflict", f"the study {name!r} is still searched: wait, or stop its job."
        )
    keeping.exportable(wish, order.trial)
    job, new = office.jobs.submit(who, "export", order, seconds=office.settings.export_seconds, key=key)
    if new:
        office.note(who, "export", f"{name} {job.id}", request.state.request_id)
    return job, new


@router.post(
    "/jobs/{number}/conclude",
    status_code=201,
    response_model=Job,
    openapi_extra={
        "x-problems": [409],
        "x-also": {"200": "The job that the same Idempotency-Key made before."},
    },
)
def conclude(
    request: Request,
    who: Submitter,
    number: JobId,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
) -> Response:
    """End the search of a job of yours now, and conclude it with what is complete: by a job of its own.

    When that is done, the study has its winner's bundle and its report. A search that has ended already is
    concluded, too. Where no trial was trained to the end, nothing is stopped.
    """
    office = office_of(request)
    job = office.jobs.find(who, number)
    if job.study != job.id:
        raise InputError(f"the job {number} is no search, but of kind {job.kind}: conclude {job.study}.")
    keeping.exportable(own_study(request, who, number), None)
    order, seconds = ExportOrder(study=number), office.settings.export_seconds
    made, new = office.jobs.submit(
        who, "conclude", order, seconds=seconds, key=idempotency_key, instead_of=number
    )
    if new:
        office.note(who, "conclude", f"{number} {made.id}", request.state.request_id)
    headers = {"location": f"/api/v1/jobs/{made.id}"}
    return reply(made, HTTPStatus.CREATED if new else HTTPStatus.OK, headers)
