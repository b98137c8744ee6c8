"""CostEstimate: predicted memory and time of training one candidate, in parts, with a band."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from autopeft.message import Message

Bound = Literal["compute", "bandwidth", "dispatch"]


class MemoryParts(Message):
    """Bytes by category at the moment of the allocated peak; they sum to it.

    Attributes:
        weights: frozen base weights and buffers.   adapter: trained weights.
        gradients: gradients of trained weights.    optimizer: optimizer state.
        activations: tensors of forward and backward that outlive an operator, logits included.
        other: batch, schedules and what outlives a step.
    """

    weights: int = 0
    adapter: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    other: int = 0

    @property
    def total(self) -> int:
        """Allocated bytes at the peak."""
        return sum(getattr(self, name) for name in type(self).model_fields)


class MemoryEstimate(Message):
    """Predicted peak memory of a training run on one device.

    Attributes:
        allocated_peak_bytes: bytes held by tensors at the peak (`torch.cuda.max_memory_allocated`).
        reserved_peak_bytes: bytes the caching allocator takes from the device
            (`torch.cuda.max_memory_reserved`); on a CPU the allocated bytes, which have no such cache.
        device_peak_bytes: reserved plus context: what the device (or the process) shows.
        low_bytes, high_bytes: 90 % band of `device_peak_bytes`.
        peak_phase: where the peak is.
    """

    parts: MemoryParts
    allocated_peak_bytes: int
    reserved_peak_bytes: int
    device_peak_bytes: int
    low_bytes: int
    high_bytes: int
    peak_phase: Literal["build", "forward", "backward", "optimizer"]

    def reported(self, device: str) -> tuple[int, int, int]:
        """Return low, expected and high bytes of what a trial on `device` reports as its peak.

        On a CPU a trial reports its whole process, context included; elsewhere what the caching
        allocator reserved, so the context comes off.
        """
        context = 0 if device == "cpu" else self.device_peak_bytes - self.reserved_peak_bytes
        return self.low_bytes - context, self.device_peak_bytes - context, self.high_bytes - context


class TimeEstimate(Message):
    """Predicted time of one optimizer step (all its micro-batches) at the mean batch.

    Attributes:
        forward_seconds, backward_seconds, optimizer_seconds: parts of `step_seconds`.
        lower_seconds: every operator at its roofline, dispatch hidden.
        upper_seconds: roofline plus dispatch, nothing hidden.
        low_seconds, high_seconds: 90 % band of `step_seconds`.
        evaluation_row_seconds: forward time of one row.
        bound: what limits most of the step.
    """

    step_seconds: float = Field(ge=0)
    forward_seconds: float
    backward_seconds: float
    optimizer_seconds: float
    lower_seconds: float
    upper_seconds: float
    low_seconds: float
    high_seconds: float
    evaluation_row_seconds: float
    bound: Bound


class CostEstimate(Message):
    """What training one candidate on one device will take.

    Attributes:
        trainable_params: parameters that are trained.   total_params: all, adapter included.
        adapter_file_bytes: size of the exported weights.
        run_seconds: whole training run with its evaluations; None where the rows are unknown.
        guesses: what had to be assumed; each widens the band.
        provenance: how the numbers were made, with versions.
    """

    memory: MemoryEstimate
    time: TimeEstimate
    trainable_params: int
    total_params: int
    adapter_file_bytes: int
    run_seconds: float | None = None
    guesses: tuple[str, ...] = ()
    provenance: str
