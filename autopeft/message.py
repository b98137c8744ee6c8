"""The base of every message between stages: frozen, keyword-only, validated once at birth."""

from __future__ import annotations

import html
import json
import math
from pathlib import Path
from typing import Annotated, Any, Self

import pydantic
from pydantic_core import to_json

from autopeft.errors import ConfigError, InputError
from autopeft.files import write_atomically


class Message(pydantic.BaseModel):
    """A frozen value that stages hand to each other.

    `build` turns a failed validation into one `InputError` line; use it for what a user typed.
    """

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), ser_json_inf_nan="constants"
    )

    @classmethod
    def build(cls, /, **fields: Any) -> Self:
        """Make the message from user input, or raise one readable line.

        Raises:
            InputError: a field is missing, unknown or invalid.
        """
        try:
            return cls(**fields)
        except pydantic.ValidationError as error:
            raise InputError(explain(error, cls.__name__)) from None

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the message from a JSON file written by `keep`.

        Raises:
            ConfigError: the file is missing or does not hold such a message.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}.") from None
        except pydantic.ValidationError as error:
            raise ConfigError(f"{path}: {explain(error, cls.__name__)}") from None

    def keep(self, path: Path) -> Self:
        """Write the message to a JSON file for `read`, and return it.

        Raises:
            StorageError: the disk is full or the place cannot be written.
        """
        write_atomically(path, self.model_dump_json(indent=1))
        return self

    def _repr_html_(self) -> str:
        """Show the message as a table in a notebook."""
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td><pre style='margin:0'>{html.escape(_shown(value))}</pre></td></tr>"
            for name, value in self
        )
        return f"<table><caption>{type(self).__name__}</caption>{rows}</table>"


_OR_NULL = pydantic.WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "null"}]})
Number = Annotated[
    float, pydantic.BeforeValidator(lambda given: math.nan if given is None else given), _OR_NULL
]
"""A number that may be none, which `json_of` writes as null."""
Low = Annotated[
    float, pydantic.BeforeValidator(lambda given: -math.inf if given is None else given), _OR_NULL
]
High = Annotated[
    float, pydantic.BeforeValidator(lambda given: math.inf if given is None else given), _OR_NULL
]
"""Ends of an interval, which may have none on that side."""


def json_of(answer: object, *, indent: int | None = None) -> bytes:
    """Return an answer, or what is JSON but for its numbers, as JSON that every reader takes.

    NaN and the infinities, which JSON has no words for, become null.
    """
    content = answer if isinstance(answer, bytes) else to_json(answer, indent=indent)
    if b"NaN" in content or b"Infinity" in content:
        content = to_json(json.loads(content, parse_constant=lambda _: None), indent=indent)
    return content


def explain(error: pydantic.ValidationError, what: str) -> str:
    """Say on one line which fields of `what` are wrong and why."""
    parts = []
    for fault in error.errors():
        if fault["type"] == "json_invalid":
            why = str(fault["ctx"]["error"])
            if why.startswith("EOF"):
                return f"it is not whole JSON ({why}); was it cut off?"
            return f"it is no JSON ({why})"
        where = ".".join(str(step) for step in fault["loc"]) or what
        text = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            text = f"no such field in {what}"
        elif fault["type"] not in ("missing", "value_error"):
            text = f"{text}, but got {_shown(repr(fault['input']))}"
        parts.append(f"{where}: {text}")
    return "; ".join(parts)


def _shown(value: object, most: int = 400) -> str:
    text = str(value)
    return text if len(text) <= most else text[: most - 3] + "..."
