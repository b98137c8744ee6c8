"""Access: who a request is from, and whether it may."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool

from autopeft.service.limits import neighbourhood
from autopeft.service.problems import RefusedError
from autopeft.service.tokens import Caller, Scope

if TYPE_CHECKING:
    from autopeft.service.office import Office

COOKIE = "autopeft_token"
LOCAL = Caller(user="local", scope="admin")
"""Whoever is on this machine, where the service listens to nobody else and asks for no tokens."""


def office_of(request: Request) -> Office:
    """Return what the service works with."""
    office: Office = request.app.state.office
    return office


def caller(request: Request) -> Caller:
    """Find out who asks, and whether not too often.

    Raises:
        RefusedError: a token is needed and there is none, it is not good, or there are too many requests.
    """
    office = office_of(request)
    client = request.client.host if request.client else "unknown"
    found = _identified(request, office, client)
    request.state.user = found.user
    wait = office.rate.wait(f"{found.user} {client}" if found is LOCAL else found.user)
    if wait:
        raise _too_often(wait)
    return found


async def enter(request: Request, text: str) -> Caller:
    """Return who has a token that was typed in.

    Raises:
        RefusedError: it is no good one, or too many bad ones came from there.
    """
    client = request.client.host if request.client else "unknown"
    return await run_in_threadpool(_known, office_of(request), text, client)


def _identified(request: Request, office: Office, client: str) -> Caller:
    text = _token_of(request)
    if text is None:
        if office.settings.needs_tokens:
            raise _unauthorized("a token is needed: Authorization: Bearer TOKEN (`autopeft token create`).")
        return LOCAL
    return _known(office, text, client)


def _known(office: Office, text: str, client: str) -> Caller:
    found = office.tokens.find(text)
    if found is None:  # a good token is let in whatever its neighbours behind the same address send
        wait = office.failures.wait(neighbourhood(client))
        if wait:
            raise _too_often(wait)
        raise _unauthorized("the token is unknown, revoked or has expired.")
    return found


def _token_of(request: Request) -> str | None:
    header = request.headers.get("authorization")
    if header is None:
        return request.cookies.get(COOKIE)
    scheme, _, text = header.partition(" ")
    return text.strip() if scheme.lower() == "bearer" else ""


def _unauthorized(detail: str) -> RefusedError:
    return RefusedError(HTTPStatus.UNAUTHORIZED, "unauthorized", detail, WWW_Authenticate="Bearer")


def _too_often(seconds: float) -> RefusedError:
    wait = max(1, round(seconds + 0.5))
    return RefusedError(
        HTTPStatus.TOO_MANY_REQUESTS,
        "rate",
        f"too many requests: try again in {wait} s.",
        Retry_After=str(wait),
    )


def _needing(scope: Scope) -> Callable[[Caller], Caller]:
    def check(who: Annotated[Caller, Depends(caller)]) -> Caller:
        if not who.may(scope):
            raise RefusedError(
                HTTPStatus.FORBIDDEN,
                "forbidden",
                f"this needs the scope {scope!r}, but the token of {who.user!r} has {who.scope!r}.",
            )
        return who

    return check


Reader = Annotated[Caller, Depends(_needing("read"))]
Submitter = Annotated[Caller, Depends(_needing("submit"))]
Admin = Annotated[Caller, Depends(_needing("admin"))]
