"""Closed formulas that traces are checked against. Small on purpose: the trace is the cost model."""

from __future__ import annotations

from collections.abc import Iterable

_BYTES = {"fp32": 4, "bf16": 2}


def weight_bytes(parameters: int, precision: str) -> int:
    """Return the bytes of so many weights; buffers are left out."""
    return parameters * _BYTES[precision]


def lora_params(shapes: Iterable[tuple[int, int]], rank: int) -> int:
    """Return the trained parameters of LoRA on matrices of shapes (out, in): A (r, in) and B (out, r).

    arXiv:2106.09685, section 4.1. Left out: the task's head, which trains beside it.
    """
    return sum(rank * (inputs + outputs) for outputs, inputs in shapes)


def adamw_state_bytes(trainable: int) -> int:
    """Return the bytes of AdamW's two moments of fp32 parameters, without its step counters."""
    return 2 * 4 * trainable
