"""Lines of JSON as questions: a bad line becomes an error of its own, whatever is in it."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from autopeft.errors import AutopeftError, InputError
from autopeft.plan.question import Question, shorten
from autopeft.units import MIB

LONGEST_LINE = MIB
STDIN = "-"


@contextlib.contextmanager
def opened(source: str) -> Iterator[BinaryIO]:
    """Open a file of lines, or the standard input for "-".

    Raises:
        InputError: there is no such file, or it cannot be read.
    """
    if source == STDIN:
        yield sys.stdin.buffer
        return
    try:
        stream = Path(source).open("rb")  # noqa: SIM115 - closed below
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{source} cannot be read: {reason}; give a file of JSON lines, or -.") from None
    with stream:
        yield stream


def count(source: str) -> int:
    """Count the lines of a file; 0 where it can be read only once."""
    file = Path(source)
    if source == STDIN or not file.is_file():
        return 0
    with file.open("rb") as stream:
        return sum(part.count(b"\n") for part in iter(lambda: stream.read(MIB), b""))


def read(stream: BinaryIO, given: Mapping[str, object]) -> Iterator[Question | AutopeftError]:
    """Yield what each line asks, or why it asks nothing; empty lines are left out.

    Args:
        stream: lines of JSON in UTF-8.
        given: fields for all rows; what a row says itself wins.
    """
    number = 0
    while line := stream.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            while line and not line.endswith(b"\n"):
                line = stream.readline(LONGEST_LINE)
            yield InputError(f"line {number}: a line must be at most {LONGEST_LINE // MIB} MiB long.")
        elif line.strip():
            yield _question(line, number, given)


def _question(line: bytes, number: int, given: Mapping[str, object]) -> Question | AutopeftError:
    try:
        row = {name: value for name, value in _fields(line).items() if value is not None}
        said = {name.strip().lower().replace("-", "_") for name in row}
        return Question.build(**{name: value for name, value in given.items() if name not in said}, **row)
    except AutopeftError as error:
        return InputError(shorten(f"line {number}: {error}"))
    except RecursionError:
        return InputError(f"line {number}: a value is nested too deeply.")


def _fields(line: bytes) -> dict[str, object]:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise InputError("it is no UTF-8 text.") from None
    except json.JSONDecodeError as error:
        raise InputError(f"it is no valid JSON at column {error.colno}: {error.msg}.") from None
    except (ValueError, RecursionError):
        raise InputError("it is no usable JSON: nested too deeply, or a number too long.") from None
    if not isinstance(row, dict):
        raise InputError(f"a question must be a JSON object, but got {type(row).__name__}.")
    return row
