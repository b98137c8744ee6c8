"""Budget: what the user can spend."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from autopeft.message import Message
from autopeft.units import parse_bytes, parse_seconds, parse_share, parse_usd

Bytes = Annotated[int, BeforeValidator(parse_bytes, json_schema_input_type=str | float)]
Seconds = Annotated[float, BeforeValidator(parse_seconds, json_schema_input_type=str | float)]
Usd = Annotated[float, BeforeValidator(parse_usd, json_schema_input_type=str | float)]
Share = Annotated[float, BeforeValidator(parse_share, json_schema_input_type=str | float)]

Preference = Literal["quality", "small", "fast"]
"""Which of several equally good configurations to take."""


class Budget(Message):
    """Limits on a study; None means no limit. Text ("16GB", "2h", "20usd", "1%") is read with its unit.

    Attributes:
        gpu_mem: memory of the device, all trials that run on it together; on a machine without
            a GPU the memory of the training processes.
        time: wall time of the whole search, final training included.
        trials: number of candidates tried, beside the default that they are compared with.
        params: largest trainable share of all parameters.
        cost: dollars; of a plan those of one training, of a search those of all of it.
        adapter_size: bytes of the exported adapter.
    """

    gpu_mem: Bytes | None = None
    time: Seconds | None = None
    trials: int | None = Field(default=None, ge=1)
    params: Share | None = None
    cost: Usd | None = None
    adapter_size: Bytes | None = None
