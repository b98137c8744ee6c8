"""The tuners that autopeft adds to peft's own."""

from __future__ import annotations

from typing import Any

from peft import PeftConfig
from peft.mapping import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PEFT_TYPE_TO_PREFIX_MAPPING,
    PEFT_TYPE_TO_TUNER_MAPPING,
)
from peft.tuners.tuners_utils import BaseTuner

from autopeft.methods import bottleneck, hybrid, ladder, sparse

OWN_TUNERS: dict[str, tuple[type[PeftConfig], type[BaseTuner]]] = {
    bottleneck.PEFT_TYPE: (bottleneck.BottleneckConfig, bottleneck.BottleneckModel),
    hybrid.PEFT_TYPE: (hybrid.HybridConfig, hybrid.HybridModel),
    ladder.PEFT_TYPE: (ladder.LadderConfig, ladder.LadderModel),
    sparse.PEFT_TYPE: (sparse.SparseConfig, sparse.SparseModel),
}


def register() -> None:
    """Make peft know these tuners, so that `PeftModel.from_pretrained` loads their adapters."""
    # peft's tables are typed by its closed enum of methods, whose members are plain strings.
    configs: dict[Any, Any] = PEFT_TYPE_TO_CONFIG_MAPPING
    models: dict[Any, Any] = PEFT_TYPE_TO_TUNER_MAPPING
    prefixes: dict[Any, Any] = PEFT_TYPE_TO_PREFIX_MAPPING
    for name, (config, model) in OWN_TUNERS.items():
        configs[name], models[name], prefixes[name] = config, model, model.prefix
