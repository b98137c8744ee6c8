"""Hosting: what a server of a configuration would hold, from the model's own shapes."""

from __future__ import annotations

from typing import Any

from autopeft.errors import InputError, UnsupportedError
from autopeft.journey.posing import Posed, Poser
from autopeft.methods.lora_variants import MOVED
from autopeft.methods.quantization.schemes import Quantization, find_quantization
from autopeft.methods.registry import METHODS, complete
from autopeft.methods.spec import MethodSpec
from autopeft.plan.question import Question
from autopeft.plan.serving import (
    SHARE,
    WINDOWED,
    Attention,
    Serving,
    kv_token_bytes,
    lora_bytes,
    room,
    slot_rank,
)
from autopeft.workload.base_model import BaseModel

_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
Shapes = dict[str, tuple[int, int]]
"""Linear layers inside a model's layers by name: (outputs, inputs)."""


def host(question: Question, poser: Poser) -> Serving:
    """Say what a server of a configuration holds.

    Raises:
        InputError: a name is unknown, or something does not suit the model.
        UnsupportedError: the model does not write text, or keeps no keys and values.
    """
    if question.gpus > 1 or question.sharding is not None or question.offload:
        raise InputError("--serve is of one device: leave out gpus, sharding and offload.")
    posed = poser.pose(question)
    base, candidate = posed.base, complete(posed.candidate)
    if base.family != "decoder":
        raise UnsupportedError(f"--serve is for models that write text; {base.name} is {base.family}.")
    model = _shapes(posed)
    attention, linear = attention_of(base, model.config), linear_of(model)
    spec, scheme = METHODS[candidate.method], find_quantization(candidate.quantization)
    number = _BYTES[candidate.training.precision]
    weights = _weights(sum(each.numel() for each in model.parameters()), linear, scheme, number)
    token = kv_token_bytes(attention, number)
    served = Serving(
        model=base.name,
        label=candidate.label,
        dtype=_NAMES[candidate.training.precision],
        weights_bytes=weights,
        kv_token_bytes=token,
        seq_len=candidate.training.max_length,
        sequences=question.batch_size,
        limit_bytes=posed.limit_bytes,
        **_slots(base, model, candidate, spec, linear, number),
    )
    free = None if posed.limit_bytes is None else posed.limit_bytes * SHARE
    whole = spec.mergeable or spec.exports == "model"
    merged_reason = "" if whole else f"{spec.name} does not fold into the weights"
    update: dict[str, object] = {"merged_reason": merged_reason}
    if free is not None and whole:
        numbers = sum(each.numel() for each in model.parameters()) * number
        update["merged"] = room(free - numbers, token, served.seq_len)
    if free is not None and served.slot_bytes is not None:
        update["unmerged"] = room(
            free - weights, token, served.seq_len, sequences=served.sequences, slot_bytes=served.slot_bytes
        )
    if has_windows(model.config):
        update["bound"] = WINDOWED
    return served.model_copy(update=update)


def has_windows(config: Any) -> bool:
    """Say whether some layers keep only the last tokens: windows, or chunks."""
    text = config.get_text_config()
    kinds = getattr(text, "layer_types", None)
    if kinds:
        return any("sliding" in str(kind) or "chunked" in str(kind) for kind in kinds)
    return bool(getattr(text, "sliding_window", None)) and getattr(text, "use_sliding_window", True)


def attention_of(base: BaseModel, config: Any) -> Attention:
    """Read what the cache of keys and values depends on.

    Raises:
        UnsupportedError: the model keeps something else of each token, or nothing.
    """
    text = config.get_text_config()
    heads = getattr(text, "num_attention_heads", None)
    layers = getattr(text, "num_hidden_layers", None)
    if not isinstance(heads, int) or not isinstance(layers, int) or heads < 1 or _keeps_states(text):
        raise UnsupportedError(
            f"what {base.name} keeps of each token is not keys and values of all layers, which is all that "
            "--serve knows."
        )
    latent = getattr(text, "kv_lora_rank", None)
    if isinstance(latent, int):
        return Attention(
            layers=layers, kv_heads=1, head_width=0, latent=latent + getattr(text, "qk_rope_head_dim", 0)
        )
    several = getattr(text, "num_key_value_heads", None) or getattr(text, "num_kv_heads", None) or heads
    if getattr(text, "multi_query", False) and not getattr(text, "new_decoder_architecture", False):
        several = 1
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    return Attention(layers=layers, kv_heads=several, head_width=width)


def linear_of(model: Any) -> Shapes:
    """Return the shapes of the linear layers inside the transformer's layers."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    from autopeft.methods.placement import layer_of

    found: Shapes = {}
    for name, module in model.named_modules():
        if layer_of(name) < 0 or not isinstance(module, nn.Linear | Conv1D):
            continue
        rows, columns = module.weight.shape
        found[name] = (rows, columns) if isinstance(module, nn.Linear) else (columns, rows)
    return found


def _slots(
    base: BaseModel, model: Any, candidate: Any, spec: MethodSpec, linear: Shapes, number: int
) -> dict[str, Any]:
    """Return what an adapter takes in memory and on the device, or why it is not served beside the base."""
    from autopeft.methods.placement import resolve_targets

    if "vllm" not in spec.served or spec.exports == "model":
        return {"unmerged_reason": f"vLLM does not load {spec.name} as it is saved"}
    if any(getattr(model.config.get_text_config(), name, None) for name in _EXPERTS):
        return {"unmerged_reason": f"{base.name} has experts, whose slots are not counted here"}
    rank = (candidate.rank or 1) * (2 if candidate.method in MOVED else 1)
    slot = slot_rank(rank)
    if slot is None:
        return {"unmerged_reason": f"vLLM has no slots of rank {rank}"}
    if not linear:
        return {"unmerged_reason": f"{base.name} has no linear layers that a slot would be for"}
    names = resolve_targets(model, candidate.targets or "query+value", candidate.layers)
    targets = [linear[name] for name in names if name in linear]
    return {
        "adapter_bytes": lora_bytes(targets, rank, number),
        "slot_rank": slot,
        "slot_bytes": lora_bytes(list(linear.values()), slot, number),
    }


def _shapes(posed: Posed) -> Any:
    from autopeft.methods.backbone import build_shapes

    return build_shapes(posed.base, "sft", 1, posed.candidate.training)


def _weights(parameters: int, linear: Shapes, scheme: Quantization, number: int) -> int:
    """Return the bytes of the weights: of linear layers as they are packed with their scales, else whole."""
    if scheme.kind == "none":
        return parameters * number
    packed = sum(rows * columns for rows, columns in linear.values())
    scales = sum(rows for rows, _ in linear.values()) * 4.0
    if scheme.block:
        scales = packed / scheme.block * ((1 + 4 / 256) if scheme.nested else 4)
    return round(packed * scheme.bits / 8 + scales + (parameters - packed) * number)


def _keeps_states(text: Any) -> bool:
    """Say whether some layers keep a state instead of keys and values."""
    kinds = getattr(text, "layer_types", None) or getattr(text, "layers_block_type", None) or ()
    return any("attention" not in str(kind) or "linear" in str(kind) for kind in kinds)
