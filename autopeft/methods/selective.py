"""Methods that train weights the model already has: normalisations, all, or the head alone."""

from __future__ import annotations

from peft import LNTuningConfig
from transformers import PreTrainedModel

from autopeft.errors import UnsupportedError
from autopeft.methods.placement import resolve_targets, shorten
from autopeft.space.candidate import Candidate


def ln_tuning(model: PreTrainedModel, candidate: Candidate) -> LNTuningConfig:
    """Configure the tuning of normalisation layers (arXiv:2312.11420)."""
    names = resolve_targets(model, candidate.targets or "norms", candidate.layers)
    return LNTuningConfig(target_modules=shorten(model, names))


def train_all(model: PreTrainedModel) -> None:
    """Let every weight train (full fine-tuning)."""
    model.requires_grad_(True)


def train_head(model: PreTrainedModel) -> None:
    """Let only the task's head train (linear probe)."""
    model.requires_grad_(False)
    head = next(
        (getattr(model, name) for name in ("classifier", "score") if hasattr(model, name)),
        None,
    )
    if head is None:
        raise UnsupportedError(f"{type(model).__name__} has no classification head to probe with.")
    head.requires_grad_(True)
