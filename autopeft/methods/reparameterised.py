"""Methods that learn an update of the weights: LoRA and its kin, and all that peft puts at matrices."""

from __future__ import annotations

from typing import Any

from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from transformers import PreTrainedModel

from autopeft.methods.lora_variants import VARIANTS
from autopeft.methods.peft_config import make_config
from autopeft.methods.placement import resolve_targets, shorten
from autopeft.methods.registry import find_method, number_of
from autopeft.space.candidate import Candidate

# AdaLoRA's paper starts with half as many directions again as it ends with (arXiv:2303.10512, section 4).
_ADALORA_START = 1.5


def lora(model: PreTrainedModel, candidate: Candidate) -> PeftConfig:
    """Configure LoRA (arXiv:2106.09685), rsLoRA (2312.03732), DoRA (2402.09353) or another variant."""
    if candidate.method in VARIANTS:
        fields = VARIANTS[candidate.method].fields
        candidate = candidate.model_copy(update={"knobs": fields | candidate.knobs})
    rank = candidate.rank or 1
    decided: dict[str, Any] = {"lora_alpha": round(rank * number_of(candidate, "alpha_ratio"))}
    if "target_modules" not in candidate.knobs and "target_parameters" not in candidate.knobs:
        names = resolve_targets(model, candidate.targets or "query+value", candidate.layers)
        decided["target_modules"] = shorten(model, names)
    return make_config(
        candidate,
        use_rslora=candidate.method == "rslora",
        use_dora=candidate.method == "dora",
        **decided,
    )


def at_matrices(model: PreTrainedModel, candidate: Candidate) -> PeftConfig:
    """Configure a method of peft that stands at matrices; where none are named, at those peft names."""
    decided: dict[str, Any] = {}
    targets = candidate.targets or _usual_targets(model, candidate.method)
    if "target_modules" not in candidate.knobs:
        decided["target_modules"] = shorten(model, resolve_targets(model, targets, candidate.layers))
    if candidate.method == "adalora" and candidate.rank is not None:
        decided["init_r"] = round(candidate.rank * _ADALORA_START)
    if candidate.method == "oft" and candidate.rank is not None:
        decided["oft_block_size"] = 0  # peft takes one of both, the other follows
    if candidate.method == "frod":
        decided["progressbar"] = False  # a library draws none
    return make_config(candidate, **decided)


def _usual_targets(model: PreTrainedModel, method: str) -> str | tuple[str, ...]:
    """Return the modules that peft adapts in this architecture, or query and value where it knows none."""
    tuner = PEFT_TYPE_TO_TUNER_MAPPING[find_method(method).peft_type]  # type: ignore[index]
    known = tuner.target_module_mapping.get(model.config.model_type)
    return tuple(known) if known else "query+value"
