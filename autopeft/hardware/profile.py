"""HardwareProfile: what one device can do, measured or from a datasheet."""

from __future__ import annotations

import hashlib
import json
import re
import statistics
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from autopeft.message import Message

DeviceKind = Literal["cpu", "cuda", "rocm", "mps", "hpu"]
Speed = Annotated[float, Field(gt=0)]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+-]{0,99}")
# What predicted times do not depend on: the rest says whose predictions a correction was learnt from.
_TIMELESS = frozenset(
    (
        *("name", "total_bytes", "usable_bytes", "context_bytes", "power_watts", "link_bytes_per_second"),
        *("spreads", "disturbance", "warnings", "versions", "provenance"),
        *("share_of", "sharers"),
    )
)

# Some quantities' repeats differ widely on an idle machine, too; the middle one's by less than a tenth.
UNSTEADY, DISTURBED = 0.25, 0.1
_MOST_DOUBT = 0.6


class Provenance(Message):
    """Where numbers come from."""

    kind: Literal["measured", "datasheet", "assumed"]
    source: str
    date: str


class _Finite(Message):
    """A message whose numbers are finite."""

    model_config = ConfigDict(allow_inf_nan=False)


class OperatorSpeed(_Finite):
    """What operators of one sort take: `seconds`, and FLOPs and bytes at their speeds.

    Attributes:
        seconds: of the smallest one, beyond its dispatch.
        flops_per_second: None where they do not compute.
        bytes_per_second: None where bytes do not matter.
        cache_bytes, cached_bytes_per_second: the first so many bytes move at this speed.
        adds: computing and moving add up; otherwise the longer of both counts.
    """

    seconds: float = Field(default=0.0, ge=0)
    flops_per_second: float | None = Field(default=None, gt=0)
    bytes_per_second: float | None = Field(default=None, gt=0)
    cache_bytes: float | None = Field(default=None, gt=0)
    cached_bytes_per_second: float | None = Field(default=None, gt=0)
    adds: bool = False

    def shared(self, among: int) -> Self:
        """Return what one of several processes gets that compute side by side: its share of each speed."""
        speeds = ("flops_per_second", "bytes_per_second", "cached_bytes_per_second")
        known = {name: getattr(self, name) for name in speeds}
        return self.model_copy(update={name: speed and speed / among for name, speed in known.items()})


class HostSpeed(_Finite):
    """Seconds that the host needs per operator, by what it is doing."""

    forward: float = Field(ge=0)
    backward: float = Field(ge=0)
    optimizer: float = Field(ge=0)


class HardwareProfile(_Finite):
    """One device.

    Attributes:
        name: a file's name without its ending; neither folders nor other signs are in it.
        total_bytes: nominal memory of the device (of the machine, for a CPU).
        usable_bytes: what programs can allocate on it, context included.
        context_bytes: what a training process holds before its first tensor: the CUDA context,
            or, on a CPU, the interpreter with its libraries.
        matmul_flops: attainable matrix-product speed by dtype name, FLOP/s.
        bandwidth_bytes_per_second: attainable memory bandwidth (read plus written bytes).
        dispatch_seconds: time the host needs to start one operator.
        cores: CPU cores that compute (0 where the device is no CPU).
        power_watts: what the board may draw (TDP); None where nobody publishes it.
        link_bytes_per_second: to the other devices of the same host, in one direction, all links
            together: NVLink where the board has it, else PCIe; None where there is none.
        host_to_device_bytes_per_second: from pinned memory; None where it is the same memory or unknown.
        host: seconds per operator by phase, measured on a small transformer; None: `dispatch_seconds`.
        operators: measured speeds by sort of operator ("pointwise", "matmul.float32", ...).
        bandwidths: measured bytes per second of "read", "write" and "copy".
        spreads: by measured quantity, (largest - smallest) / median of its repeats.
        disturbance: share of the cores it was measured with that other work had meanwhile.
        warnings: what makes the numbers doubtful.
        share_of: digest of the whole device where this is what one of several trials gets of it.
        sharers: how many trials share it then.
    """

    name: str
    device: DeviceKind
    device_name: str
    total_bytes: int = Field(gt=0)
    usable_bytes: int = Field(gt=0)
    context_bytes: int = Field(ge=0)
    matmul_flops: dict[str, Speed]
    bandwidth_bytes_per_second: float = Field(gt=0)
    dispatch_seconds: float = Field(ge=0)
    cores: int = Field(default=0, ge=0)
    power_watts: float | None = Field(default=None, gt=0)
    link_bytes_per_second: float | None = Field(default=None, gt=0)
    host_to_device_bytes_per_second: float | None = Field(default=None, gt=0)
    host: HostSpeed | None = None
    operators: dict[str, OperatorSpeed] = {}
    bandwidths: dict[str, Speed] = {}
    spreads: dict[str, float] = {}
    disturbance: float = Field(default=0.0, ge=0, le=1)
    warnings: tuple[str, ...] = ()
    provenance: Provenance
    versions: dict[str, str] = {}
    share_of: str | None = None
    sharers: int | None = Field(default=None, ge=1)

    @field_validator("name")
    @classmethod
    def _name_a_file(cls, name: str) -> str:
        fault = name_fault(name)
        if fault:
            raise ValueError(fault)
        return name

    @model_validator(mode="after")
    def _use_no_more_than_there_is(self) -> Self:
        if self.usable_bytes > self.total_bytes:
            raise ValueError(
                f"`usable_bytes <= total_bytes` must hold, but got ({self.usable_bytes}, {self.total_bytes})"
            )
        return self

    @property
    def unsteadiness(self) -> float:
        """How far the repeats of the middle quantity differ. A few that differ are usual; most are not."""
        return statistics.median(self.spreads.values()) if self.spreads else 0.0

    @property
    def doubt(self) -> float:
        """Share by which other work may have changed the speeds; 0 where it showed in nothing."""
        disturbed = self.disturbance if self.disturbance > DISTURBED else 0.0
        unsteady = self.unsteadiness if self.unsteadiness > UNSTEADY else 0.0
        return min(max(disturbed, unsteady), _MOST_DOUBT)

    @property
    def usual_precision(self) -> Literal["fp32", "bf16", "fp16"]:
        """What is trained in on this device where nobody says: the best of what it computes itself."""
        if self.device == "cpu":
            return "fp32"
        return "bf16" if "bfloat16" in self.matmul_flops else "fp16"

    @property
    def digest(self) -> str:
        """What tells the device's speeds from others; a share of a device has that of the whole."""
        if self.share_of is not None:
            return self.share_of
        speeds = self.model_dump(mode="json", exclude=set(_TIMELESS)) | {"kind": self.provenance.kind}
        return hashlib.sha256(json.dumps(speeds, sort_keys=True).encode()).hexdigest()[:16]


def name_fault(name: str) -> str | None:
    """Say why a name cannot be a profile's; None where it can."""
    if _NAME.fullmatch(name):
        return None
    return (
        "a profile's name must be letters, digits, spaces, dots, dashes, plus signs and underscores, "
        f"100 of them at most, but got {name[:120]!r}"
    )
