"""HardwareProfile: what one device can do, measured or from a datasheet."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from autopeft.message import Message

DeviceKind = Literal["cpu", "cuda", "rocm", "mps", "hpu"]


class Provenance(Message):
    """Where numbers come from."""

    kind: Literal["measured", "datasheet", "assumed"]
    source: str
    date: str


class HardwareProfile(Message):
    """One device.

    Attributes:
        total_bytes: nominal memory of the device (of the machine, for a CPU).
        usable_bytes: what programs can allocate on it, context included.
        context_bytes: what a training process holds before its first tensor: the CUDA context,
            or, on a CPU, the interpreter with its libraries.
        matmul_flops: attainable matrix-product speed by dtype name, FLOP/s.
        bandwidth_bytes_per_second: attainable memory bandwidth (read plus written bytes).
        dispatch_seconds: time the host needs to start one operator.
        cores: CPU cores that compute (0 where the device is no CPU).
    """

    name: str
    device: DeviceKind
    device_name: str
    total_bytes: int = Field(gt=0)
    usable_bytes: int = Field(gt=0)
    context_bytes: int = Field(ge=0)
    matmul_flops: dict[str, float]
    bandwidth_bytes_per_second: float = Field(gt=0)
    dispatch_seconds: float = Field(ge=0)
    cores: int = Field(default=0, ge=0)
    provenance: Provenance
    versions: dict[str, str] = {}
