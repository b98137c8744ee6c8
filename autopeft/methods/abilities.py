"""What a method's row says beside its definition: packed bases, who serves it, its usual share; no torch."""

from __future__ import annotations

import functools
import json
from pathlib import Path

from autopeft.methods.lora_variants import VARIANTS, servers
from autopeft.methods.quantization.schemes import Packed
from autopeft.methods.spec import MethodSpec, Server

_ALL: tuple[Packed, ...] = ("nf4", "int8", "torchao", "gptq", "awq", "hqq")
_READS = "it reads the weights as numbers, and peft hands it packed ones as they lie in memory"
_MOVES = "it takes what it starts from out of the weights, which have to be numbers"
_WHOLE = "it is saved as a whole model, which would be saved packed"

# Methods that do not work on every packed base: those they work on, and why not on the others. nf4, int8
# and torchao are tried (tests/methods/test_quantised.py); gptq, awq and hqq are read from peft 0.21.2:
# `dispatch_gptq`, `dispatch_awq` and `dispatch_hqq` are LoRA's, `SVDQuantLinear` is AdaLoRA's.
_PACKED: dict[str, tuple[tuple[Packed, ...], str]] = {
    "full": ((), "it trains the weights themselves, which have to be numbers"),
    "probe": ((), _WHOLE),
    "bitfit": ((), _WHOLE),
    **dict.fromkeys(
        ("adamss", "delora", "frod", "glora", "hra", "osf", "peanut", "psoft", "supertuning", "tinylora"),
        ((), _READS),
    ),
    "deft": (("int8",), _READS),
    **dict.fromkeys(("loha", "lokr"), (("int8", "torchao"), _READS)),
    **dict.fromkeys(
        ("boft", "hira", "miss", "oft", "shira", "vera"),
        (("nf4", "int8"), "peft has layers of it for bitsandbytes' bases alone"),
    ),
    "unilora": (("torchao",), "peft 0.21 rounds its scales to the integers of packed weights"),
    "xlora": ((), "peft 0.21 passes its mixture to layers that are not packed only"),
    "adalora": (("nf4", "int8", "torchao", "gptq"), "peft has no layer of it for such a base"),
}
# Methods that touch no matrix, so that any base will do.
_BESIDE = frozenset(
    ("adaption_prompt", "cartridge", "cpt", "llama-adapter", "ln_tuning", "lst", "multitask_prompt_tuning")
) | {"p_tuning", "prefix_tuning", "prompt_tuning", "shadow", "trainable_tokens"}
_OF_LORA = frozenset(("lora", "rslora", "dora"))
_NO_LAYER = "peft has layers for such a base for LoRA and its kin alone"

# Who loads the adapter as it is saved; what merges is served merged by whoever serves the base model.
# vLLM: vllm/lora/peft_helper.py (rsLoRA's scale is read, DoRA is refused).
# llama.cpp: convert_lora_to_gguf.py (lora_A and lora_B, scaled by alpha / rank; aLoRA's tokens are kept).
_SERVED: dict[str, tuple[Server, ...]] = {
    "lora": ("transformers", "vllm", "llama.cpp"),
    "rslora": ("transformers", "vllm"),
    "full": ("transformers", "vllm", "llama.cpp"),
    "bitfit": ("transformers", "vllm", "llama.cpp"),
}
_SHARES = Path(__file__).with_name("shares.json")


def with_abilities(spec: MethodSpec) -> MethodSpec:
    """Return a row with what is known of it from runs and from who serves it."""
    quantised, reason = _packed(spec)
    return spec.model_copy(
        update={
            "quantised": quantised,
            "unpacked_reason": reason,
            "served": _served(spec),
            "shares": {model: found[spec.name] for model, found in _shares().items() if spec.name in found},
        }
    )


def _served(spec: MethodSpec) -> tuple[Server, ...]:
    if spec.name in VARIANTS:
        return servers(VARIANTS[spec.name])
    return _SERVED.get(spec.name, () if spec.exports == "none" else ("transformers",))


def _packed(spec: MethodSpec) -> tuple[tuple[Packed, ...], str]:
    if spec.name in VARIANTS:
        row = VARIANTS[spec.name]
        return row.packed, row.unpacked or (_MOVES if row.moves else _READS)
    if spec.name in _PACKED:
        return _PACKED[spec.name]
    if spec.name in _BESIDE | _OF_LORA:
        return _ALL, ""
    return ("nf4", "int8", "torchao"), _NO_LAYER


@functools.cache
def _shares() -> dict[str, dict[str, float]]:
    """Read what `experiments/010-methods/shares.py` counted: shares by model and method."""
    found: dict[str, dict[str, float]] = json.loads(_SHARES.read_text(encoding="utf-8"))
    return found
