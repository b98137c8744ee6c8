"""Budget: what the user can spend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from autopeft.message import Message
from autopeft.units import parse_bytes, parse_seconds, parse_share, parse_usd


def _amount(parse: Callable[[str | float], float]) -> BeforeValidator:
    """Read an amount by `parse`, and nothing but a text or a number."""

    def read(given: object) -> float:
        if isinstance(given, bool) or not isinstance(given, str | int | float):
            raise ValueError(f"it must be a text with a unit, or a number, but got {given!r}")  # noqa: TRY004
        return parse(given)

    return BeforeValidator(read, json_schema_input_type=str | float)


Bytes = Annotated[int, _amount(parse_bytes)]
Seconds = Annotated[float, _amount(parse_seconds)]
Usd = Annotated[float, _amount(parse_usd)]
Share = Annotated[float, _amount(parse_share)]

Preference = Literal["quality", "small", "fast"]
"""Which of several equally good configurations to take."""


class Budget(Message):
    """Limits on a study; None means no limit. Text ("16GB", "2h", "20usd", "1%") is read with its unit.

    Attributes:
        gpu_mem: memory of the device, all trials that run on it together; on a machine without
            a GPU the memory of the training processes.
        time: wall time; of a plan that of one training, of a search or run that of the session, from the
            command to its end. A study that goes on has what it searched before on top.
        trials: number of candidates tried, beside the default that they are compared with.
        params: largest trainable share of all parameters.
        cost: dollars; of a plan those of one training, of a search those of all of it.
        adapter_size: bytes of the exported adapter.
    """

    gpu_mem: Bytes | None = None
    time: Seconds | None = None
    trials: int | None = Field(default=None, ge=1, le=10**6)
    params: Share | None = None
    cost: Usd | None = None
    adapter_size: Bytes | None = None
