"""Answers that were kept as JSON: a plan, a capacity plan; read again, and written as pages."""

from __future__ import annotations

import json
from pathlib import Path

from autopeft.errors import ConfigError, InputError
from autopeft.plan.capacity import Capacity
from autopeft.plan.plan import Plan


def read_answer(place: Path) -> Plan | Capacity:
    """Read what `plan --json` or `capacity --json` printed.

    Raises:
        ConfigError: the file cannot be read, or holds no JSON or not all of an answer.
        InputError: it holds something else.
    """
    try:
        held = json.loads(place.read_bytes())
    except OSError as error:
        raise ConfigError(f"{place} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{place} holds no JSON.") from None
    for kind, field in ((Capacity, "demand"), (Plan, "fits")):
        if isinstance(held, dict) and field in held:
            return kind.read(place)
    raise InputError(
        f"{place} must hold the plan of one model or a capacity plan, as `autopeft plan --json` and "
        "`autopeft capacity --json` print them."
    )


def write_answer(answer: Plan | Capacity, path: Path) -> Path:
    """Write the page of an answer.

    Raises:
        StorageError: the place cannot be written.
    """
    from autopeft.report import capacity_page, plan_page

    if isinstance(answer, Capacity):
        return capacity_page.write_page(answer, path)
    return plan_page.write_page(answer, path)
