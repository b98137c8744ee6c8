"""Routes of the page for people, and of its session: a token in a cookie that no script can read."""

from __future__ import annotations

from http import HTTPStatus
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response
from pydantic import Field

from autopeft.message import Message
from autopeft.service.access import COOKIE, enter, office_of
from autopeft.service.contract import takes
from autopeft.service.problems import RefusedError
from autopeft.service.replies import read_message

router = APIRouter(tags=["page"])
_HERE = Path(__file__).parent / "page"
_FILES = {
    "style.css": "text/css",
    "main.js": "text/javascript",
    "service.js": "text/javascript",
    "planning.js": "text/javascript",
    "training.js": "text/javascript",
}


class Login(Message):
    """A token to be kept as a cookie."""

    token: str = Field(min_length=1, max_length=200)


@router.get("/", response_class=FileResponse, include_in_schema=False)
async def page() -> Response:
    """Return the page."""
    return FileResponse(_HERE / "index.html", media_type="text/html", headers={"cache-control": "no-cache"})


@router.get("/page/{name}", response_class=FileResponse, include_in_schema=False)
async def part(name: str) -> Response:
    """Return a file of the page."""
    if name not in _FILES:
        raise RefusedError(HTTPStatus.NOT_FOUND, "not-found", f"the page has no file {name[:80]!r}.")
    return FileResponse(_HERE / name, media_type=_FILES[name], headers={"cache-control": "no-cache"})


@router.post("/api/v1/session", status_code=204, openapi_extra=takes(Login))
async def login(request: Request) -> Response:
    """Keep a token as a cookie, for the page."""
    given = await read_message(request, Login)
    await enter(request, given.token)
    response = Response(status_code=HTTPStatus.NO_CONTENT)
    secure = office_of(request).settings.cert is not None
    response.set_cookie(COOKIE, given.token, httponly=True, samesite="strict", secure=secure, path="/")
    return response


@router.delete("/api/v1/session", status_code=204)
async def logout() -> Response:
    """Forget the cookie."""
    response = Response(status_code=HTTPStatus.NO_CONTENT)
    response.delete_cookie(COOKIE, path="/")
    return response
