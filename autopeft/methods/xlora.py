"""X-LoRA (arXiv:2402.07148): a mixture of LoRA experts, trained ones or new ones.

peft mixes adapters that are files already. Where a candidate names none, new experts are made and
train together with the classifier that mixes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import peft.tuners.xlora.model as peft_xlora
from peft import LoraConfig, PeftConfig
from peft.tuners import LoraModel
from transformers import PreTrainedModel

from autopeft.methods.peft_config import make_config
from autopeft.methods.placement import resolve_targets, shorten
from autopeft.methods.registry import number_of
from autopeft.space.candidate import Candidate

_DEFAULT_RANK = 8


def configure(model: PreTrainedModel, candidate: Candidate) -> PeftConfig:
    """Configure X-LoRA with the adapters named, or with as many new experts as asked for."""
    decided: dict[str, Any] = {"hidden_size": model.config.hidden_size}
    if not candidate.knobs.get("adapters"):
        count = int(number_of(candidate, "experts", least=1))
        decided |= {"adapters": {str(index): "" for index in range(count)}, "use_trainable_adapters": True}
    return make_config(candidate, **decided)


@contextmanager
def new_experts(model: PreTrainedModel, candidate: Candidate) -> Iterator[None]:
    """Have peft make the experts that it would otherwise load; other methods see no difference."""
    if candidate.method != "xlora" or candidate.knobs.get("adapters"):
        yield
        return
    rank = candidate.rank or _DEFAULT_RANK
    names = resolve_targets(model, candidate.targets or "query+value", candidate.layers)
    expert = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=shorten(model, names))

    def make(lora_model: LoraModel, adapter_name: str, **options: Any) -> None:
        lora_model.peft_config[adapter_name] = expert
        fp32 = options["autocast_adapter_dtype"]
        lora_model.inject_adapter(lora_model.model, adapter_name, autocast_adapter_dtype=fp32)

    load = peft_xlora._load_adapter_into_lora_model
    peft_xlora._load_adapter_into_lora_model = make  # type: ignore[assignment]
    try:
        yield
    finally:
        peft_xlora._load_adapter_into_lora_model = load
