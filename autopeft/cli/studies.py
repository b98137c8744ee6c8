"""Which study a command is about: its name as a word, or `--study`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Any

import typer

from autopeft.errors import InputError

StudyWord = Annotated[
    str | None,
    typer.Argument(metavar="STUDY", show_default=False, help="Name of the study. Default: the latest."),
]
StudyOrFile = Annotated[
    str | None,
    typer.Argument(
        metavar="STUDY|FILE.json",
        show_default=False,
        help="Name of the study (default: the latest), or what `plan --json` or `capacity --json` printed.",
    ),
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


def named_by(
    word: object, instead: Mapping[str, str] = MappingProxyType({})
) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Let a word name the study of a command that takes `--study`; it wins over the configuration file.

    Args:
        word: its annotation.
        instead: parameters that name something else than a study, with their flags.
    """

    def decorate(command: Callable[..., int]) -> Callable[..., int]:
        @functools.wraps(command)
        def invoke(name: str | None = None, **given: Any) -> int:
            if name is not None:
                given["study"] = _the_one(name, given["study"])
            others = [flag for parameter, flag in instead.items() if given[parameter] is not None]
            if others and given["study"] is not None:
                raise InputError(
                    f"one configuration must be named, but got the study {given['study']!r} and {others[0]}: "
                    "leave one out."
                )
            return command(**given)

        first = inspect.Parameter("name", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=word)
        return _seen_with(invoke, [first, *inspect.signature(command).parameters.values()])

    return decorate


def resumes_by_word(command: Callable[..., int]) -> Callable[..., int]:
    """Let the word of a command that takes a demo's kind name the study, where it goes on with one."""

    @functools.wraps(command)
    def invoke(**given: Any) -> int:
        if given["resume"] and not given["demo"] and given["kind"] is not None:
            given |= {"study": _the_one(given["kind"], given["study"]), "kind": None}
        return command(**given)

    parameters = [
        one.replace(annotation=_KindOrStudy) if one.name == "kind" else one
        for one in inspect.signature(command).parameters.values()
    ]
    return _seen_with(invoke, parameters)


def _seen_with(invoke: Callable[..., int], parameters: list[inspect.Parameter]) -> Callable[..., int]:
    """Give a wrapper the parameters that typer shall see."""
    invoke.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    invoke.__annotations__ = {one.name: one.annotation for one in parameters}
    return invoke


def _the_one(word: str, flag: str | None) -> str:
    if flag not in (None, word):
        raise InputError(f"one study must be named, but got {word!r} and --study {flag!r}: leave one out.")
    return word
