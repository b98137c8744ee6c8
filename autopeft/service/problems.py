"""Problems: what a client is told when it gets no answer, as RFC 9457 has it; one table of errors."""

from __future__ import annotations

import errno
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from autopeft.errors import (
    AutopeftError,
    ConfigError,
    DataError,
    DoesNotFitError,
    InputError,
    MissingExtraError,
    ServiceError,
    StorageError,
    UnknownNameError,
    UnscoredError,
    UnsupportedError,
)
from autopeft.message import Message
from autopeft.service.placeless import placeless

if TYPE_CHECKING:
    from fastapi import FastAPI, Request
    from starlette.responses import Response

_log = logging.getLogger(__name__)
MEDIA = "application/problem+json"
PREFIX = "urn:autopeft:problem:"


class Fault(Message):
    """One thing that is wrong with a request: where, and why."""

    where: str
    reason: str


class Problem(Message):
    """Why there is no answer (RFC 9457).

    Attributes:
        type: which kind of problem; what follows the last colon never changes.
        title: the kind in words.   status: the HTTP status.   detail: this case with the way out, in a line.
        instance: the request's id, which the service's log has too.
        faults: where the request itself is wrong.
    """

    type: str
    title: str
    status: int
    detail: str
    instance: str
    faults: tuple[Fault, ...] = ()


class RefusedError(ServiceError):
    """The service does not do what is asked, with the status that says why."""

    def __init__(self, status: HTTPStatus, kind: str, detail: str, **headers: str) -> None:
        super().__init__(detail)
        self.status, self.kind = status, kind
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


# The first row that an error belongs to decides; what is in no row is a bug and answered by 500.
TABLE: tuple[tuple[type[AutopeftError], HTTPStatus, str], ...] = (
    (UnscoredError, HTTPStatus.CONFLICT, "conflict"),
    (UnknownNameError, HTTPStatus.UNPROCESSABLE_ENTITY, "unknown-name"),
    (DataError, HTTPStatus.UNPROCESSABLE_ENTITY, "data"),
    (ConfigError, HTTPStatus.UNPROCESSABLE_ENTITY, "config"),
    (InputError, HTTPStatus.UNPROCESSABLE_ENTITY, "input"),
    (UnsupportedError, HTTPStatus.UNPROCESSABLE_ENTITY, "unsupported"),
    (DoesNotFitError, HTTPStatus.UNPROCESSABLE_ENTITY, "does-not-fit"),
    (MissingExtraError, HTTPStatus.NOT_IMPLEMENTED, "missing-extra"),
    (StorageError, HTTPStatus.INSUFFICIENT_STORAGE, "storage"),
    (AutopeftError, HTTPStatus.UNPROCESSABLE_ENTITY, "error"),
)
KINDS = {
    "unknown-name": "A name that nobody knows",
    "data": "Data that cannot be used",
    "config": "A file that is malformed",
    "input": "A request that is not allowed",
    "unsupported": "A request that cannot be answered",
    "does-not-fit": "Nothing fits the budget",
    "missing-extra": "A package is not installed here",
    "storage": "The service cannot store or read",
    "error": "It could not be done",
    "syntax": "A request that cannot be read",
    "too-large": "A body that is too large",
    "media-type": "A body of a type that is not taken",
    "slow": "A body that takes too long",
    "unauthorized": "A token is needed",
    "forbidden": "Not allowed",
    "not-found": "Not there",
    "method": "A method that is not taken here",
    "conflict": "It cannot be done in this state",
    "quota": "Your share is used up",
    "rate": "Too many requests",
    "busy": "The service is busy",
    "internal": "A bug of the service",
}
_OF_STATUS = {
    401: "unauthorized",
    403: "forbidden",
    404: "not-found",
    405: "method",
    413: "too-large",
    415: "media-type",
}


def row_of(error: AutopeftError) -> tuple[HTTPStatus, str]:
    """Return status and kind of an error."""
    if isinstance(error, RefusedError):
        return error.status, error.kind
    return next((status, kind) for cls, status, kind in TABLE if isinstance(error, cls))


def response(
    request_id: str,
    status: int,
    kind: str,
    detail: str,
    *,
    faults: tuple[Fault, ...] = (),
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """Return a problem as a response."""
    problem = Problem(
        type=PREFIX + kind,
        title=KINDS[kind],
        status=int(status),
        detail=" ".join(detail.split()),
        instance=f"urn:autopeft:request:{request_id}",
        faults=faults,
    )
    return JSONResponse(problem.model_dump(mode="json"), int(status), headers, media_type=MEDIA)


def install(app: FastAPI) -> None:
    """Answer every error of an application by a problem."""
    app.add_exception_handler(AutopeftError, _of_ours)
    app.add_exception_handler(RequestValidationError, _of_parameters)
    app.add_exception_handler(HTTPException, _of_framework)
    app.add_exception_handler(OSError, _of_machine)
    app.add_exception_handler(ClientDisconnect, _of_gone)
    app.add_exception_handler(Exception, _of_bug)


def _id(request: Request) -> str:
    return str(request.scope.get("state", {}).get("request_id", "unknown"))


async def _of_ours(request: Request, error: Exception) -> Response:
    if not isinstance(error, AutopeftError):
        raise error
    status, kind = row_of(error)
    headers = error.headers if isinstance(error, RefusedError) else None
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        _log.error("%s", error)
    words = placeless(str(error), request.app.state.office.settings)
    return response(_id(request), status, kind, words, headers=headers)


async def _of_parameters(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    faults = tuple(
        Fault(where=".".join(map(str, each["loc"])), reason=str(each["msg"])) for each in error.errors()
    )
    detail = "; ".join(f"{fault.where}: {fault.reason}" for fault in faults[:5])
    return response(_id(request), HTTPStatus.UNPROCESSABLE_ENTITY, "input", detail, faults=faults)


async def _of_framework(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    kind = _OF_STATUS.get(error.status_code, "syntax" if error.status_code < 500 else "internal")
    detail = {
        "not-found": f"there is nothing at {request.url.path}: /api/v1/openapi.json says what there is.",
        "method": f"{request.method} is not taken at {request.url.path}: the header Allow says what is.",
    }.get(kind, str(error.detail))
    return response(_id(request), error.status_code, kind, detail, headers=dict(error.headers or {}))


def of_machine(error: OSError) -> RefusedError | None:
    """Return the refusal that an error of the machine is; None where it is a bug."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}:
        words = f"the service cannot write: {error.strerror}; its administrator has to make room."
        return RefusedError(HTTPStatus.INSUFFICIENT_STORAGE, "storage", words)
    if error.errno in {errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE}:
        words = f"the service's machine is short of something: {error.strerror}; try again in 30 s."
        return RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "busy", words, Retry_After="30")
    return None


async def _of_machine(request: Request, error: Exception) -> Response:
    refusal = of_machine(error) if isinstance(error, OSError) else None
    return await (_of_bug(request, error) if refusal is None else _of_ours(request, refusal))


async def _of_gone(request: Request, error: Exception) -> Response:
    del error  # nobody reads the answer, and nothing of it is a bug
    return response(_id(request), HTTPStatus.BAD_REQUEST, "syntax", "the body was cut off.")


async def _of_bug(request: Request, error: Exception) -> Response:
    _log.error("a request failed", exc_info=error, extra={"request_id": _id(request)})
    words = "the service has a bug, which its log names by this request's id."
    return response(_id(request), HTTPStatus.INTERNAL_SERVER_ERROR, "internal", words)
