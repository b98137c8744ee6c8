"""CostEstimate: predicted memory and time of training one candidate, in parts, with a band."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field

from autopeft.cost.spread import SpreadEstimate
from autopeft.message import Message

Bound = Literal["compute", "bandwidth", "dispatch", "communication"]

UNCOUNTED = "its preparation is not counted"
"""How a guess begins that leaves out what a method does before it trains, so that nobody can say it fits."""


class MemoryParts(Message):
    """Bytes by category at the moment of the allocated peak; they sum to it.

    Attributes:
        weights: frozen base weights and buffers.   quantization: scales and tables of quantised weights.
        adapter: trained weights.                   gradients: gradients of trained weights.
        optimizer: optimizer state and its working copies.
        activations: saved in forward for backward. logits: logits and the loss made of them.
        temporary: born and gone within a phase.    kept: what the step before left behind: its outputs.
        other: batch and schedules; on a GPU also workspaces, and what the allocator rounds up.
    """

    weights: int = 0
    quantization: int = 0
    adapter: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    logits: int = 0
    temporary: int = 0
    kept: int = 0
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

    def widened(self, share: float) -> Self:
        """Return the estimate with a band wider by a share of the allocated peak, both ways."""
        more = int(share * self.allocated_peak_bytes)
        return self.model_copy(
            update={"low_bytes": self.low_bytes - more, "high_bytes": self.high_bytes + more}
        )


class TimeEstimate(Message):
    """Predicted time of one optimizer step (all its micro-batches) at the mean batch.

    Attributes:
        micro_step_seconds: forward and backward of one micro-batch.
        tokens_per_second: tokens of the batches, padding included.
        forward_seconds, backward_seconds, optimizer_seconds: parts of `step_seconds`.
        lower_seconds: every operator at its roofline, dispatch hidden.
        upper_seconds: roofline plus dispatch, nothing hidden.
        low_seconds, high_seconds: 90 % band of `step_seconds`.
        evaluation_row_seconds: forward time of one row.
        token_seconds: one more token for every row of a batch that generates: all weights are read once.
        correction: factor that measured runs put on all seconds.
        bound: what limits most of the step; "communication" where devices wait for each other longer.
    """

    step_seconds: float = Field(ge=0)
    micro_step_seconds: float = Field(default=0.0, ge=0)
    tokens_per_second: float = Field(default=0.0, ge=0)
    forward_seconds: float
    backward_seconds: float
    optimizer_seconds: float
    lower_seconds: float
    upper_seconds: float
    low_seconds: float
    high_seconds: float
    evaluation_row_seconds: float
    token_seconds: float = 0.0
    correction: float = Field(default=1.0, gt=0)
    bound: Bound

    @property
    def uncorrected(self) -> TimeEstimate:
        """The estimate before measured runs corrected it; its band stays as it is in proportion."""
        seconds = {
            name: getattr(self, name) / self.correction
            for name in type(self).model_fields
            if name.endswith("_seconds")
        }
        tokens = self.tokens_per_second * self.correction
        return self.model_copy(update=seconds | {"tokens_per_second": tokens, "correction": 1.0})


class RunTime(Message):
    """Predicted wall time of a whole run, in parts.

    Attributes:
        load_seconds: reading the weights and moving them to the device.
        training_seconds: all steps, at the lengths that batches have.
        data_seconds: making batches; they are made between steps.
        evaluation_seconds: of all evaluations.
        padding_share: tokens that are padding, of all tokens that are computed.
        steps: optimizer steps.
    """

    load_seconds: float
    training_seconds: float
    data_seconds: float
    evaluation_seconds: float
    padding_share: float = 0.0
    steps: int = Field(default=1, ge=1)

    @property
    def computed_seconds(self) -> float:
        """Seconds in which the model computes: training and evaluation."""
        return self.training_seconds + self.evaluation_seconds

    @property
    def total(self) -> float:
        """Seconds from start to end."""
        return self.load_seconds + self.data_seconds + self.computed_seconds


Objective = Literal["share", "params", "memory", "seconds", "file"]
"""What lower is better of: share and number of trained parameters, peak memory and adapter file in bytes,
time of a whole training in seconds."""


class CostEstimate(Message):
    """What training one candidate on one device will take.

    Attributes:
        trainable_params: parameters that are trained.   total_params: all, adapter included.
        adapter_file_bytes: size of the exported weights.
        run_seconds: training with its evaluations, what a trial measures; None where the rows are unknown.
        spread: where several devices share the training: what that adds; all else is of one of them.
        run: the whole run in parts, with what comes before and between the steps.
        guesses: what had to be assumed; each widens the band.
        provenance: how the numbers were made, with versions.
    """

    memory: MemoryEstimate
    time: TimeEstimate
    trainable_params: int
    total_params: int
    adapter_file_bytes: int
    run_seconds: float | None = None
    spread: SpreadEstimate | None = None
    run: RunTime | None = None
    guesses: tuple[str, ...] = ()
    provenance: str

    def amount(self, of: Objective) -> float | None:
        """Return one of the costs that a front is drawn against; None where it is unknown."""
        match of:
            case "share":
                return self.trainable_params / self.total_params if self.total_params else None
            case "params":
                return float(self.trainable_params)
            case "memory":
                return float(self.memory.reserved_peak_bytes)
            case "seconds":
                return self.run_seconds
            case "file":
                return float(self.adapter_file_bytes)

    @property
    def wall_seconds(self) -> float | None:
        """Seconds for which the device is taken, loading and batches included; None where unknown."""
        return self.run.total if self.run else self.run_seconds
