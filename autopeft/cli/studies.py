"""Which study a command is about: its name as a word, or `--study`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autopeft.errors import InputError

if TYPE_CHECKING:
    from autopeft.request import Request

StudyWord = Annotated[
    str | None,
    typer.Argument(metavar="STUDY", show_default=False, help="Name of the study. Default: the latest."),
]
_KindOrStudy = Annotated[
    str | None,
    typer.Argument(
        metavar="KIND|STUDY",
        show_default=False,
        help="With --demo: classification (the default) or sft. With --resume: the study (default: the "
        "latest).",
    ),
]


def of_study(request: Request, name: str | None) -> Request:
    """Return a request for the study that a word names.

    Raises:
        InputError: `--study` or the configuration file names another.
    """
    if name is None:
        return request
    return request.model_copy(update={"study": _the_one(name, request.study)})


def resumes_by_word(command: Callable[..., int]) -> Callable[..., int]:
    """Let the word of a command that takes a demo's kind name the study, where it goes on with one."""

    @functools.wraps(command)
    def invoke(**given: Any) -> int:
        if given["resume"] and not given["demo"] and given["kind"] is not None:
            given |= {"study": _the_one(given["kind"], given["study"]), "kind": None}
        return command(**given)

    signature = inspect.signature(command)
    parameters = [
        one.replace(annotation=_KindOrStudy) if one.name == "kind" else one
        for one in signature.parameters.values()
    ]
    invoke.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    invoke.__annotations__ = {one.name: one.annotation for one in parameters}
    return invoke


def _the_one(word: str, flag: str | None) -> str:
    if flag not in (None, word):
        raise InputError(f"one study must be named, but got {word!r} and --study {flag!r}: leave one out.")
    return word
