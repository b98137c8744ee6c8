"""Serving: what a server of a base model and its adapters holds in memory, by formula. Pure and torch-free.

The formulas are vLLM's: the cache of keys and values as `FullAttentionSpec.page_size_bytes`
(vllm/v1/kv_cache_interface.py), slots of adapters as `BaseLinearLayerWithLoRA.create_lora_weights`
(vllm/lora/layers/base_linear.py), of every linear layer as `get_supported_lora_modules`
(vllm/lora/utils.py), ranks as `MaxLoRARanks` (vllm/config/lora.py). Activations, captured graphs and the CUDA
context are left out, so what fits is an upper bound.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from autopeft.message import Message

SHARE = 0.92
"""Of the device's memory that vLLM takes (`gpu_memory_utilization` of vllm/config/cache.py, in 2026-10)."""

MOST_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


class Attention(Message):
    """What of a model's attention the cache of keys and values depends on.

    Attributes:
        latent: numbers that a layer keeps of a token instead of keys and values (MLA); 0 where it keeps both.
    """

    layers: int = Field(ge=1)
    kv_heads: int = Field(ge=0)
    head_width: int = Field(ge=0)
    latent: int = 0


class Room(Message):
    """What fits beside the weights, an upper bound.

    Attributes:
        tokens: of all sequences together.   sequences: of the length asked for.
        adapters: slots beside as many sequences as were asked for; None where adapters take none.
    """

    tokens: int
    sequences: int
    adapters: int | None = None


class Serving(Message):
    """A base model, served with its adapter folded in, or with adapters beside it.

    Attributes:
        weights_bytes: of the base as it is served.
        kv_token_bytes: keys and values of one token.
        seq_len, sequences: what was asked for.
        adapter_bytes: of one adapter in the host's memory, in the dtype of the base.
        slot_rank, slot_bytes: of a slot on the device, which has room for the rank at every linear layer.
        limit_bytes: the device's memory, of which `share` is used; None where no device was named.
        merged, unmerged: what fits; None without a device, or where it is not served so.
        unmerged_reason: why not.
    """

    model: str
    label: str
    dtype: str
    weights_bytes: int
    kv_token_bytes: int
    seq_len: int
    sequences: int
    adapter_bytes: int | None = None
    slot_rank: int | None = None
    slot_bytes: int | None = None
    limit_bytes: int | None = None
    share: float = SHARE
    merged: Room | None = None
    merged_reason: str = ""
    unmerged: Room | None = None
    unmerged_reason: str = ""
    bound: str = "upper bound: activations, captured graphs and the CUDA context are not counted"


WINDOWED = (
    "estimate, no upper bound: layers that keep only a window of tokens are counted as if they kept all; "
    "activations, captured graphs and the CUDA context are not counted"
)
"""`Serving.bound` of a model with layers of a window."""


def kv_token_bytes(attention: Attention, number_bytes: int) -> int:
    """Return the bytes of keys and values that one token leaves in all layers; windows are not counted on."""
    kept = attention.latent or 2 * attention.kv_heads * attention.head_width
    return attention.layers * kept * number_bytes


def lora_bytes(matrices: Sequence[tuple[int, int]], rank: int, number_bytes: int) -> int:
    """Return the bytes of A (rank, inputs) and B (outputs, rank) of matrices given as (outputs, inputs)."""
    return sum(rank * (outputs + inputs) for outputs, inputs in matrices) * number_bytes


def slot_rank(rank: int) -> int | None:
    """Return the smallest rank of a slot with room for an adapter; None where vLLM has none."""
    return next((each for each in MOST_RANKS if each >= rank), None)


def room(
    free_bytes: float, token_bytes: int, seq_len: int, *, sequences: int = 0, slot_bytes: int | None = None
) -> Room:
    """Return what fits into the memory beside the weights; nothing where that is less than none.

    Args:
        sequences: how many have to fit beside the slots.
    """
    free = max(0.0, free_bytes)
    if not slot_bytes:
        tokens = int(free // token_bytes)
        return Room(tokens=tokens, sequences=tokens // seq_len)
    beside = free - sequences * seq_len * token_bytes
    adapters = max(0, int(beside // slot_bytes))
    tokens = int(max(0.0, free - slot_bytes) // token_bytes)
    return Room(tokens=tokens, sequences=tokens // seq_len, adapters=adapters)
