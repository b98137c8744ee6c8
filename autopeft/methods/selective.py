"""Methods that train weights the model already has: normalisations, biases, tokens, all, the head alone."""

from __future__ import annotations

from peft import PeftConfig
from torch import nn
from transformers import PreTrainedModel

from autopeft.errors import UnsupportedError
from autopeft.methods.heads import head_modules
from autopeft.methods.peft_config import make_config
from autopeft.methods.placement import resolve_targets, shorten
from autopeft.space.candidate import Candidate

_SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def ln_tuning(model: PreTrainedModel, candidate: Candidate) -> PeftConfig:
    """Configure the tuning of normalisation layers (arXiv:2312.11420)."""
    names = resolve_targets(model, candidate.targets or "norms", candidate.layers)
    return make_config(candidate, target_modules=shorten(model, names))


def trainable_tokens(model: PreTrainedModel, candidate: Candidate) -> PeftConfig:
    """Configure the training of a few embeddings; those of the special tokens where none are given."""
    found: set[int] = set()
    for name in _SPECIAL_TOKENS:
        value = getattr(model.config, name, None)
        found.update(value if isinstance(value, list) else [] if value is None else [value])
    return make_config(candidate, token_indices=sorted(found) or [0])


def train_all(model: PreTrainedModel) -> None:
    """Let every weight train (full fine-tuning)."""
    model.requires_grad_(True)


def train_head(model: PreTrainedModel) -> None:
    """Let only the task's head train (linear probe)."""
    model.requires_grad_(False)
    heads = _heads_of(model)
    if not heads:
        raise UnsupportedError(f"{type(model).__name__} has no classification head to probe with.")
    for head in heads:
        head.requires_grad_(True)


def train_biases(model: PreTrainedModel) -> None:
    """Let only the biases and the task's head train (BitFit, arXiv:2106.10199)."""
    model.requires_grad_(False)
    biases = [parameter for name, parameter in model.named_parameters() if name.endswith("bias")]
    if not biases:
        raise UnsupportedError(f"bitfit trains biases, and {type(model).__name__} has none.")
    for bias in biases:
        bias.requires_grad_(True)
    for head in _heads_of(model):
        head.requires_grad_(True)


def _heads_of(model: PreTrainedModel) -> list[nn.Module]:
    """Return the modules of a classification head; none of a model that writes."""
    usual = [getattr(model, name) for name in ("classifier", "score") if hasattr(model, name)][:1]
    if usual or not type(model).__name__.endswith("Classification"):
        return usual
    return [model.get_submodule(name) for name in head_modules(model)]
