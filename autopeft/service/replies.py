"""Replies and bodies: JSON in and out, entity tags, pages of lists."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator, Sequence
from http import HTTPStatus
from typing import Any, Generic, TypeVar
from urllib.parse import urlencode

from fastapi import Request
from fastapi.responses import Response
from pydantic import Field, ValidationError

from autopeft.errors import InputError
from autopeft.message import Message, explain, json_of
from autopeft.service.problems import RefusedError
from autopeft.service.settings import JSON_BYTES

Item = TypeVar("Item")
Made = TypeVar("Made", bound=Message)
PAGE, LARGEST_PAGE = 100, 1000
BODY_SECONDS = 60.0
"""A body that is no upload has so long to come."""
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class Page(Message, Generic[Item]):
    """Part of a list.

    Attributes:
        total: items of the whole list.   next: address of the part after this one; None at the end.
    """

    items: tuple[Item, ...]
    total: int = Field(ge=0)
    next: str | None = None


def reply(answer: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return an answer as JSON; numbers that are none become null."""
    content = json_of(answer)
    return Response(content, status, headers, media_type="application/json")


def tagged(request: Request, answer: object) -> Response:
    """Return an answer with an entity tag; where the client has it already, only say so (304)."""
    content = json_of(answer)
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"etag": tag, "cache-control": "private, no-cache"}
    known = {each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")}
    if tag in known or "*" in known:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return reply(content, headers=headers)


def paged(request: Request, items: Sequence[object], offset: int, limit: int) -> dict[str, object]:
    """Return one page of a list."""
    after = offset + limit
    following = None
    if after < len(items):
        rest = [(name, value) for name, value in request.query_params.multi_items() if name != "offset"]
        following = f"{request.url.path}?{urlencode([*rest, ('offset', str(after))])}"
    return {"items": items[offset:after], "total": len(items), "next": following}


async def read_body(request: Request, limit: int) -> bytes:
    """Read a request's body.

    Raises:
        RefusedError: it is larger than the limit, or compressed, or too slow.
    """
    check_body(request, limit)
    parts, size = [], 0
    async for part in in_time(request, BODY_SECONDS):
        size += len(part)
        if size > limit:
            raise too_large(limit)
        parts.append(part)
    return b"".join(parts)


async def in_time(request: Request, seconds: float) -> AsyncIterator[bytes]:
    """Yield a body as it comes.

    Raises:
        RefusedError: it has not come to its end after so many seconds.
    """
    until, stream = asyncio.get_running_loop().time() + seconds, aiter(request.stream())
    while True:
        try:
            async with asyncio.timeout_at(until):
                part = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError:
            words = f"a body must have come within {seconds:g} s here."
            raise RefusedError(HTTPStatus.REQUEST_TIMEOUT, "slow", words, Connection="close") from None
        yield part


def check_body(request: Request, limit: int) -> None:
    """Refuse a body that says of itself that it is too large, or that would grow when it is unpacked."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise RefusedError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "media-type",
            "a compressed body is not taken: send it as it is.",
        )
    said = request.headers.get("content-length", "")
    if said.isdecimal() and (len(said) > 18 or int(said) > limit):
        raise too_large(limit)


def too_large(limit: int) -> RefusedError:
    """Return the refusal of a body that is too large."""
    return RefusedError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too-large", f"a body may have {limit:,} bytes at most here."
    )


async def read_json(request: Request) -> dict[str, Any]:
    """Read a body that must be a JSON object.

    Raises:
        RefusedError: it is of another type, too large, or no JSON.
        InputError: it is JSON, but no object.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RefusedError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "media-type",
            f"the body must be application/json, but is {kind[:80] or 'of no type'!r}.",
        )
    try:
        body = await read_body(request, JSON_BYTES)
        content = json.loads(body.decode(), parse_constant=_no_number)
        if _SURROGATE.search(body):
            json.dumps(content, ensure_ascii=False).encode()
    except UnicodeError:
        raise _syntax("it is no UTF-8 text, or half of a surrogate pair") from None
    except json.JSONDecodeError as error:
        raise _syntax(f"at line {error.lineno}, column {error.colno}: {error.msg}") from None
    except (ValueError, RecursionError):
        raise _syntax("nested too deeply, or a number that is none or too long") from None
    if not isinstance(content, dict):
        raise InputError(f"the body must be a JSON object, but is a {type(content).__name__}.")
    return content


async def read_message(request: Request, message: type[Made]) -> Made:
    """Read a body into a message.

    Raises:
        InputError: a field is unknown or invalid.
    """
    return strictly(message, await read_json(request))


def strictly(message: type[Made], fields: dict[str, Any]) -> Made:
    """Make a message of fields, none of which is taken for another type than it has; null is left out.

    Raises:
        InputError: a field is unknown or invalid.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    try:
        return message.model_validate_json(json.dumps(given), strict=True)
    except ValidationError as error:
        raise InputError(explain(error, message.__name__)) from None


def _no_number(text: str) -> float:
    raise ValueError(text)


def _syntax(reason: str) -> RefusedError:
    return RefusedError(HTTPStatus.BAD_REQUEST, "syntax", f"the body is no valid JSON: {reason}.")
