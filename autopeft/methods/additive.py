"""Methods that add scales or virtual tokens: IA3, prompt tuning, prefix tuning."""

from __future__ import annotations

from peft import IA3Config, PrefixTuningConfig, PromptTuningConfig
from transformers import PreTrainedModel

from autopeft.methods.placement import resolve_targets, roles_of, shorten
from autopeft.space.candidate import Candidate


def ia3(model: PreTrainedModel, candidate: Candidate) -> IA3Config:
    """Configure IA3 (arXiv:2205.05638): keys and values scaled behind, feed-forward before the matrix."""
    names = resolve_targets(model, candidate.targets or "key+value+down", candidate.layers)
    targets = shorten(model, names)
    feedforward = [name for name in names if "down" in roles_of(name)]
    listed = [name for name in targets if any(f == name or f.endswith(f".{name}") for f in feedforward)]
    return IA3Config(target_modules=targets, feedforward_modules=listed)


def prompt_tuning(model: PreTrainedModel, candidate: Candidate) -> PromptTuningConfig:
    """Configure prompt tuning (arXiv:2104.08691)."""
    del model
    return PromptTuningConfig(num_virtual_tokens=int(candidate.knobs["virtual_tokens"]))


def prefix_tuning(model: PreTrainedModel, candidate: Candidate) -> PrefixTuningConfig:
    """Configure prefix tuning (arXiv:2101.00190), without the reparameterising network."""
    del model
    return PrefixTuningConfig(num_virtual_tokens=int(candidate.knobs["virtual_tokens"]))
