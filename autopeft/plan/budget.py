"""Budget: what the user can spend."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from autopeft.message import Message
from autopeft.units import parse_bytes, parse_seconds

Bytes = Annotated[int, BeforeValidator(parse_bytes)]
Seconds = Annotated[float, BeforeValidator(parse_seconds)]


class Budget(Message):
    """Limits on a study; None means no limit. Text such as "16GB" or "2h" is read with its unit.

    Attributes:
        gpu_mem: memory of the device, all trials that run on it together; on a machine without
            a GPU the memory of the training processes.
        time: wall time of the whole search, final training included.
        trials: number of candidates tried.
        params: largest trainable share of all parameters.
    """

    gpu_mem: Bytes | None = None
    time: Seconds | None = None
    trials: int | None = Field(default=None, ge=1)
    params: float | None = Field(default=None, gt=0, le=1)
