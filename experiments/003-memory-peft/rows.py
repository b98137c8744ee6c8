"""Rows of PEFT's published method comparison as candidates.

`adapter_config` of a row holds what differs from the defaults of its PEFT type.
"""

from __future__ import annotations

from typing import Any

from autopeft.methods.registry import METHODS, find_method
from autopeft.space.candidate import Candidate, Training

# The comparison's loop (peft, method_comparison/MetaMathQA): see the row's own columns for the rest.
TRAINING = Training(
    learning_rate=1e-4, batch_size=4, max_length=768, weight_decay=0.1, precision="bf16", schedule="cosine"
)
# Where a field of a configuration has a name of its own in a candidate.
_VIRTUAL_TOKENS = ("prompt_tuning", "prefix_tuning")
# Fields that peft works out from the model, or that say nothing.
_DERIVED = frozenset(
    ("peft_type", "num_attention_heads", "num_layers", "num_transformer_submodules", "token_dim")
)
# Fields that newer versions of peft do not have; the rows hold them with the value that did nothing.
_GONE = {"c3a": {"fan_in_fan_out"}, "oft": {"alpha_pattern", "rank_pattern"}}
_SAID_BY_OPTIMIZER = {"AdamW": "adamw", "lora-fa": "lora-fa"}


def candidate_of(peft_type: str, adapter_config: dict[str, Any], opt: str) -> Candidate:
    """Turn a row into a candidate.

    Args:
        peft_type: the column of that name; FULL is full fine-tuning.
        adapter_config: the column of that name, read from JSON.
        opt: the column of that name.
    """
    training = TRAINING.model_copy(update={"optimizer": _SAID_BY_OPTIMIZER.get(opt, opt.lower())})
    if peft_type == "FULL":
        return Candidate(method="full", training=training)
    spec = find_method(_method_of(peft_type))
    left_out = _DERIVED | _GONE.get(spec.name, set())
    knobs = {name: value for name, value in adapter_config.items() if name not in left_out}
    targets = knobs.pop("target_modules", None)
    rank = knobs.pop(spec.rank_field, None) if spec.rank_field is not None else None
    if spec.name in _VIRTUAL_TOKENS:
        knobs["virtual_tokens"] = knobs.pop("num_virtual_tokens")
    if spec.name == "lora":
        knobs.setdefault("lora_alpha", 8)
        rank = rank or 8
    return Candidate(
        method=spec.name,
        rank=rank or None,
        targets=tuple(targets) if isinstance(targets, list) else targets,
        knobs=knobs,
        training=training,
    )


def _method_of(peft_type: str) -> str:
    """Return the first method that is this PEFT type: the plain one, where it has several."""
    return next(spec.name for spec in METHODS.values() if spec.peft_type == peft_type)
