"""What padding would add where the rows of a batch are taken to be equally long, as nobody said more."""

from __future__ import annotations

from typing import Any

from autopeft.cost.tracing.request import TraceRequest
from autopeft.workload.tasks import TASKS

_BIAS_BYTES = 2
_WITH_CHECKPOINTING = 1
"""Layers whose attention is held at once: the one that is recomputed."""


def padding_bytes(request: TraceRequest, length: int) -> int:
    """Return how much more memory a step would take if a shorter row of the batch were padded.

    Attention with a mask keeps for each layer a bias of (rows, length, length) and, since kernels with one
    take no grouped queries, keys and values repeated for every head (transformers, use_gqa_in_sdpa and
    repeat_kv in `integrations/sdpa_attention.py`). Traced with a mask, Llama-3.2-3B takes just that more.

    Args:
        request: what was traced, unpadded.
        length: tokens of a row.
    """
    training = request.candidate.training
    sure = request.padded or request.rows == 1 or not request.loop.rows_padded
    if sure or request.target != "cuda" or training.packing or training.attention != "sdpa":
        return 0
    if request.base.family not in ("decoder", "encoder"):
        return 0
    config: dict[str, Any] = request.base.config
    heads = _number(config, "num_attention_heads", "n_head")
    groups = _number(config, "num_key_value_heads") or heads
    width = _number(config, "head_dim") or _number(config, "hidden_size", "n_embd") // max(1, heads)
    repeated = 2 * (heads - groups) * width * length if request.base.family == "decoder" else 0
    layers = _WITH_CHECKPOINTING if training.gradient_checkpointing else request.base.layers
    answers = 2 if TASKS[request.task].reference else 1
    return layers * answers * request.rows * _BIAS_BYTES * (length * length + repeated)


def _number(config: dict[str, Any], *names: str) -> int:
    return next((config[name] for name in names if isinstance(config.get(name), int)), 0)
