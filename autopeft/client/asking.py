"""Asking: what every verb of a client does: send a question, read the answer as the library's type."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from typing import Any, TypeVar

import pydantic

from autopeft.connection import Connection
from autopeft.message import Message
from autopeft.plan.budget import Budget
from autopeft.search.study import Study

Read = TypeVar("Read")
Item = TypeVar("Item", bound=Message)


class Asking:
    """Asks a service.

    Args:
        url: where it is.   token: who asks; None takes `AUTOPEFT_TOKEN`, and nothing where that is not set.
        seconds: how long to wait for an answer.
        context: of TLS, for certificates of your own.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        seconds: float = 600.0,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._service = Connection(url, token, seconds, context)

    def _ask(self, path: str, read: pydantic.TypeAdapter[Read], body: dict[str, Any] | None = None) -> Read:
        content = self._service.get(path) if body is None else self._service.post(path, body)
        return read.validate_json(content)

    def _pages(self, place: str | None, item: type[Item]) -> Iterator[Item]:
        """Yield the items of a list, page by page."""
        while place is not None:
            page = json.loads(self._service.get(place))
            yield from (item.model_validate(each) for each in page["items"])
            place = page["next"] and page["next"].removeprefix("/api/v1/")


def name_of(study: Study | str) -> str:
    """Return the name of a study."""
    return study if isinstance(study, str) else study.name


def plain(message: Message) -> dict[str, Any]:
    """Return what was set in a message."""
    return message.model_dump(mode="json", exclude_unset=True)


def fields_of(*, budget: Budget | None = None, **options: Any) -> dict[str, Any]:
    """Return the fields of a request's body, without its files."""
    given = {name: value for name, value in options.items() if value is not None and name != "test_data"}
    return given if budget is None else given | {"budget": plain(budget)}
