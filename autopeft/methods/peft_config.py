"""From a candidate to the configuration object of its `PeftType`, every field checked."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import warnings
from typing import Any, get_args, get_type_hints

from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from pydantic import ConfigDict, TypeAdapter, ValidationError

from autopeft.errors import InputError
from autopeft.message import explain
from autopeft.methods.registry import find_method
from autopeft.space.candidate import Candidate

_COMMON = frozenset(field.name for field in dataclasses.fields(PeftConfig))
# Values that peft reads by a pattern, though their type names only an example of it.
_PATTERNS = {"init_lora_weights": re.compile(r"pissa_niter_\d+|lora_ga")}


def make_config(candidate: Candidate, **decided: Any) -> PeftConfig:
    """Make the configuration of a candidate's method.

    Args:
        candidate: complete (see `registry.complete`).
        decided: fields that autopeft decides; the candidate's rank and knobs of the same name win.

    Raises:
        InputError: a knob is neither the method's nor a field of its configuration, or has a wrong
            type, or peft refuses the values.
    """
    spec = find_method(candidate.method)
    kind: type[PeftConfig] = PEFT_TYPE_TO_CONFIG_MAPPING[spec.peft_type]  # type: ignore[index]
    fields = dict(decided)
    if spec.rank_field is not None and candidate.rank is not None:
        fields[spec.rank_field] = candidate.rank
    hints = {name: hint for name, hint in get_type_hints(kind).items() if name not in _COMMON}
    for name, value in candidate.knobs.items():
        if name in hints:
            fields[name] = _read(f"{spec.name}'s knob {name}", name, hints[name], value)
        elif name not in spec.knobs:
            raise InputError(_unknown(spec.name, name, [*spec.knobs, *hints], kind))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return kind(**fields)
    except (ImportError, TypeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"{spec.name} cannot be configured so: {reason}") from None


def fields_of(peft_type: str) -> tuple[str, ...]:
    """Name the fields of a configuration that may be given as knobs."""
    kind = PEFT_TYPE_TO_CONFIG_MAPPING[peft_type]  # type: ignore[index]
    return tuple(field.name for field in dataclasses.fields(kind) if field.name not in _COMMON)


def _read(what: str, name: str, hint: Any, value: Any) -> Any:
    """Read a JSON value as the type of a field: objects become configurations, words become enums."""
    pattern = _PATTERNS.get(name)
    if pattern is not None and isinstance(value, str) and pattern.fullmatch(value):
        return value
    _check_object(what, hint, value)
    try:
        return _adapter(hint).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        raise InputError(f"{what}: {explain(error, 'value')}.") from None


def _check_object(what: str, hint: Any, value: Any) -> None:
    """Refuse fields that a nested configuration does not have, which pydantic would drop."""
    kinds = [kind for kind in (hint, *get_args(hint)) if isinstance(kind, type)]
    nested = [kind for kind in kinds if dataclasses.is_dataclass(kind)]
    if not nested or not isinstance(value, dict) or dict in kinds:
        return
    known = [field.name for kind in nested for field in dataclasses.fields(kind)]
    for name in value:
        if name not in known:
            raise InputError(f"{what} has no field {name}{_hint(name, known)}")


def _adapter(hint: Any) -> TypeAdapter[Any]:
    if dataclasses.is_dataclass(hint):
        return TypeAdapter(hint)
    return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))


def _unknown(method: str, name: str, known: list[str], kind: type[PeftConfig]) -> str:
    hint = _hint(name, list(dict.fromkeys(known)))
    return f"{method} has no knob {name} (a field of {kind.__name__}){hint}"


def _hint(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(near)}?" if near else f"; it has: {', '.join(known)}."
