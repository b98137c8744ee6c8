"""Methods that learn a low-rank update of the weights: LoRA and its kin."""

from __future__ import annotations

from peft import LoraConfig
from transformers import PreTrainedModel

from autopeft.methods.placement import resolve_targets, shorten
from autopeft.space.candidate import Candidate


def lora(model: PreTrainedModel, candidate: Candidate) -> LoraConfig:
    """Configure LoRA (arXiv:2106.09685), rsLoRA (2312.03732) or DoRA (2402.09353)."""
    rank = candidate.rank or 1
    names = resolve_targets(model, candidate.targets or "query+value", candidate.layers)
    return LoraConfig(
        r=rank,
        lora_alpha=round(rank * float(candidate.knobs["alpha_ratio"])),
        target_modules=shorten(model, names),
        use_rslora=candidate.method == "rslora",
        use_dora=candidate.method == "dora",
    )
