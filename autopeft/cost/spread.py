"""Spread: over how many devices a training is spread, and how."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from autopeft.message import Message

Sharding = Literal["none", "ddp", "zero1", "zero2", "zero3", "fsdp"]
MOST_DEVICES = 16
"""Devices of the largest machines; between machines the network decides, of which a profile knows nothing."""


class Spread(Message):
    """How one training uses several devices of one machine. The batch of a candidate is that of each device.

    Attributes:
        gpus: number of devices.
        sharding: what of the training each device holds a share of only: nothing ("ddp"), the optimizer's
            state ("zero1"), the gradients too ("zero2"), the weights too ("zero3", "fsdp").
        offload: keep what is sharded in the host's memory.
    """

    gpus: int = Field(default=1, ge=1, le=MOST_DEVICES)
    sharding: Sharding = "none"
    offload: bool = False

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.gpus > 1 and self.sharding == "none":
            raise ValueError(
                f"several devices need a sharding, but got gpus={self.gpus} and sharding=none; "
                "choose ddp, zero1, zero2, zero3 or fsdp"
            )
        if self.offload and self.sharding in ("none", "ddp"):
            raise ValueError(
                f"only what is sharded can be offloaded, but got sharding={self.sharding}; "
                "choose zero1, zero2, zero3 or fsdp"
            )
        return self

    @property
    def alone(self) -> bool:
        """Whether there is nothing to share."""
        return self.gpus == 1 and not self.offload

    @property
    def words(self) -> str:
        """Name it: "4 x fsdp, offloaded"."""
        if self.alone:
            return "1 device"
        return f"{self.gpus} x {self.sharding}{', offloaded' if self.offload else ''}"


class SpreadEstimate(Message):
    """What spreading a training adds to its estimate, which is that of one of the devices.

    Attributes:
        communication_seconds: of a step, were nothing of it hidden behind the computing.
        exchanged_bytes: what each device sends in a step.
        host_bytes: what all devices together keep in the host's memory.
    """

    spread: Spread
    communication_seconds: float
    exchanged_bytes: int
    host_bytes: int


def make_spread(gpus: int | None, sharding: Sharding | None, *, offload: bool = False) -> Spread:
    """Make a spread of what was asked; several devices without a word on sharding are data parallel."""
    devices = gpus or 1
    return Spread.build(
        gpus=devices, sharding=sharding or ("ddp" if devices > 1 else "none"), offload=offload
    )
