"""Candidate: one PEFT configuration, model-independent, with the knobs that train it."""

from __future__ import annotations

import hashlib
import json
from typing import Literal

from pydantic import Field, JsonValue

from autopeft.message import Message

Scalar = bool | int | float | str
Precision = Literal["fp32", "bf16", "fp16"]
Attention = Literal["sdpa", "eager", "flash"]
Loss = Literal["standard", "chunked", "fused"]
Schedule = Literal["linear", "constant", "cosine"]


class Training(Message):
    """The knobs of the training step and its loop.

    Attributes:
        learning_rate: peak learning rate of AdamW.
        batch_size: rows of one micro-batch.
        grad_accum: micro-batches of one optimizer step.
        epochs: passes over the training rows.
        max_length: rows are truncated to this many tokens.
        warmup_share: share of the optimizer steps in which the learning rate rises linearly.
        dropout: rate inside the base model; 0 doubles the speed on a CPU.
        precision: dtype of the frozen weights; adapters are trained in fp32.
        optimizer: name of an optimizer (`train/optimizers.py`).
        attention: which kernels attend.
        loss: how the loss of a language model is taken: from all logits at once, in chunks of them,
            or by a kernel that never holds them.
        beta: how strongly preference tuning holds on to the model as it was.
        packing: rows are packed to `max_length`, so that batches hold no padding.
    """

    learning_rate: float = Field(default=1e-3, gt=0, le=1)
    batch_size: int = Field(default=16, ge=1)
    grad_accum: int = Field(default=1, ge=1)
    epochs: float = Field(default=3.0, gt=0)
    max_length: int = Field(default=512, ge=1)
    warmup_share: float = Field(default=0.06, ge=0, lt=1)
    schedule: Schedule = "linear"
    weight_decay: float = Field(default=0.0, ge=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    max_grad_norm: float = Field(default=1.0, gt=0)
    precision: Precision = "fp32"
    gradient_checkpointing: bool = False
    optimizer: str = "adamw"
    attention: Attention = "sdpa"
    loss: Loss = "standard"
    packing: bool = False
    beta: float = Field(default=0.1, gt=0)


class Candidate(Message):
    """One PEFT configuration.

    Attributes:
        method: name of a method (`autopeft methods`).
        rank: rank of the low-rank update; None for methods that have none.
        targets: role ("attention", "mlp", "all-linear", "query+value") or names of modules;
            None for methods that choose their own place.
        layers: which layers are adapted: "all", "first-half", "last-half", "last-quarter",
            a range "4-20" (both ends included, counted from 0) or "4-" (to the last), a list of layers, or
            "switches:1011", on and off from the first to the last, spread evenly where layers are more.
        knobs: the method's own knobs, by name (see its `MethodSpec`), lists and objects of JSON included.
    """

    method: str
    rank: int | None = Field(default=None, ge=1)
    targets: str | tuple[str, ...] | None = None
    layers: str | tuple[int, ...] = "all"
    quantization: str = "none"
    knobs: dict[str, JsonValue] = {}
    training: Training = Training()

    @property
    def key(self) -> str:
        """A short stable name of this configuration."""
        return _digest(self.model_dump(mode="json"))

    @property
    def footprint(self) -> str:
        """A key shared by all candidates that cost the same memory and the same time a step."""
        free = {
            "learning_rate",
            "epochs",
            "warmup_share",
            "schedule",
            "weight_decay",
            "max_grad_norm",
            "beta",
        }
        fields = self.model_dump(mode="json", exclude={"training": free})
        fields["knobs"] = {k: v for k, v in self.knobs.items() if k not in ("alpha", "alpha_ratio")}
        return _digest(fields)

    @property
    def label(self) -> str:
        """A line for people: "lora r=16 query+value lr=0.001"."""
        return f"{self.form} lr={self.training.learning_rate:.2g}"

    @property
    def form(self) -> str:
        """What is adapted and how, without how it is trained: "lora r=16 query+value"."""
        parts = [self.method]
        if self.rank is not None:
            parts.append(f"r={self.rank}")
        if self.targets is not None:
            parts.append(self.targets if isinstance(self.targets, str) else ",".join(self.targets))
        if self.layers != "all":
            chosen = self.layers if isinstance(self.layers, str) else ",".join(map(str, self.layers))
            parts.append(f"layers={chosen}")
        if self.quantization != "none":
            parts.append(self.quantization)
        parts += [f"{name}={value}" for name, value in sorted(self.knobs.items())]
        return " ".join(parts)


def _digest(fields: object) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]
