"""Flags: what the command line calls what a body has under another name; a body may say it so, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.cost.money import Tariff
from autopeft.errors import InputError
from autopeft.plan.budget import Budget
from autopeft.plan.capacity import rows_of
from autopeft.plan.question import Question
from autopeft.units import parse_count

BUDGET: dict[str, Any] = Budget.model_json_schema()["properties"]
"""Schemas of `--gpu-mem`, `--time` and so on, which are fields of `budget`."""

_NAMES = {"type": "array", "items": {"type": "string"}, "minItems": 1}
_PLACES = {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]}, "minItems": 1}
DEMAND: dict[str, Any] = {
    "methods": _NAMES | {"description": "`ways` by their names."},
    "gpu": _NAMES | {"description": "`gpus`, the devices by name."},
    "gpus": _PLACES | {"description": "Devices by name; where they are numbers, `counts`."},
    "tokens": {"anyOf": [{"type": "integer"}, {"type": "string"}], "description": "Instead of `examples`."},
    **Tariff.model_json_schema()["properties"],
}
"""Schemas of what `autopeft capacity` calls otherwise than a demand."""

_SETTINGS = ("rank", "targets", "layers", "quantization", "grad_accum", "gradient_checkpointing", "precision")
_ROWS = ("seq_len", "batch_size", "epochs")
QUESTION: dict[str, Any] = {
    name: Question.model_json_schema()["properties"][name] for name in ("method", *_SETTINGS, *_ROWS)
}
"""Schemas of the flags by which `autopeft recipe` says a configuration: fields of `question`."""


def with_budget(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a request with what limits it under `budget`.

    Raises:
        InputError: a limit is said twice.
    """
    limits = _said(fields, BUDGET)
    rest = _without(fields, BUDGET)
    return _nested(rest, "budget", limits) if limits else rest


def demand_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a demand by their own names.

    Raises:
        InputError: something is said twice.
    """
    found = _without(fields, ("methods", "gpu", "tokens", *Tariff.model_fields))
    numbers = fields.get("gpus")
    if isinstance(numbers, list) and numbers and all(type(each) is int for each in numbers):
        del found["gpus"]
        _say(found, "counts", numbers, "gpus")
    for flag, name in (("methods", "ways"), ("gpu", "gpus")):
        if fields.get(flag) is not None:
            _say(found, name, fields[flag], flag)
    tokens = fields.get("tokens")
    if tokens is not None:
        count = tokens if type(tokens) is int else parse_count(str(tokens))
        length = found.get("seq_len")
        _say(found, "examples", rows_of(count, length if type(length) is int else None), "tokens")
    price = _said(fields, Tariff.model_fields)
    return _nested(found, "tariff", price) if price else found


def recipe_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a recipe's request with a configuration that is said by flags as a `question`.

    Raises:
        InputError: a question is there already, or settings without a method.
    """
    said = _said(fields, QUESTION)
    if not said:
        return dict(fields)
    if "method" not in said:
        raise InputError(f"{', '.join(sorted(said))} are of a method: give method, too, or a question.")
    found = _without(fields, (*QUESTION, "model"))
    _say(found, "question", said | _said(fields, ("model",)), "method")
    return found


def _said(fields: Mapping[str, Any], names: Any) -> dict[str, Any]:
    return {name: fields[name] for name in names if fields.get(name) is not None}


def _without(fields: Mapping[str, Any], names: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in names}


def _say(found: dict[str, Any], name: str, value: object, flag: str) -> None:
    if found.get(name) is not None:
        raise InputError(f"{flag} and {name} both say the same: leave out one of them.")
    found[name] = value


def _nested(fields: dict[str, Any], name: str, inner: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields with others taken into one of them, which must not say them already."""
    before = fields.get(name) or {}
    if not isinstance(before, dict):
        return fields  # which is refused for what it is
    twice = [each for each in inner if before.get(each) is not None]
    if twice:
        raise InputError(f"{twice[0]} and {name}.{twice[0]} both say the same: leave out one of them.")
    return fields | {name: before | dict(inner)}
