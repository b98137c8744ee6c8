"""Methods that add scales or virtual tokens: IA3, prompts, prefixes, caches, a shadow network."""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftConfig
from torch import nn
from transformers import PreTrainedModel

from autopeft.errors import InputError
from autopeft.methods.peft_config import make_config
from autopeft.methods.placement import count_layers, resolve_targets, roles_of, shorten
from autopeft.methods.registry import number_of
from autopeft.space.candidate import Candidate

# LLaMA-Adapter leaves the first two layers alone (arXiv:2303.16199, section 4.1: 30 of 32).
_LAYERS_LEFT_ALONE = 2
# CPT's types of tokens, and the label that no loss is taken of.
_INPUT, _LABEL, _IGNORED = 2, 4, -100
_LEAST_CONTEXT = 2


def ia3(model: PreTrainedModel, candidate: Candidate) -> PeftConfig:
    """Configure IA3 (arXiv:2205.05638): keys and values scaled behind, feed-forward before the matrix."""
    names = resolve_targets(model, candidate.targets or "key+value+down", candidate.layers)
    targets = shorten(model, names)
    feedforward = [name for name in names if "down" in roles_of(name)]
    listed = [name for name in targets if any(f == name or f.endswith(f".{name}") for f in feedforward)]
    return make_config(candidate, target_modules=targets, feedforward_modules=listed)


def virtual_tokens(model: PreTrainedModel, candidate: Candidate) -> PeftConfig:
    """Configure prompt tuning (arXiv:2104.08691) or prefix tuning (arXiv:2101.00190)."""
    del model
    return make_config(candidate, num_virtual_tokens=int(number_of(candidate, "virtual_tokens", least=1)))


def context(model: PreTrainedModel, candidate: Candidate) -> PeftConfig:
    """Configure context-aware prompt tuning (arXiv:2410.17222), from the first token where none are given.

    Types of tokens count in fours, and peft adds the largest of the context to those of the input, so
    a context ends with a label (4) behind its inputs (2).
    """
    given = candidate.knobs.get("cpt_token_ids")
    count = len(given) if isinstance(given, list) else int(number_of(candidate, "num_virtual_tokens"))
    if count < _LEAST_CONTEXT:
        raise InputError(f"cpt needs a context of at least {_LEAST_CONTEXT} tokens, but got {count}.")
    start = getattr(model.config, "bos_token_id", None)
    return make_config(
        candidate,
        task_type="CAUSAL_LM",
        cpt_token_ids=[start if isinstance(start, int) else 0] * count,
        cpt_tokens_type_mask=[_INPUT] * (count - 1) + [_LABEL],
    )


def name_types(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Tell context-aware prompt tuning which tokens of a batch are labels; a forward hook."""
    del module
    labels = kwargs.get("labels")
    if labels is not None and "input_type_mask" not in kwargs:
        kwargs["input_type_mask"] = torch.where(labels == _IGNORED, _INPUT, _LABEL)
    return args, kwargs


def name_task(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Tell a method for many tasks that all rows are of the first one; a forward hook."""
    del module
    if "task_ids" not in kwargs:
        rows = next(value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor))
        kwargs["task_ids"] = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    return args, kwargs


def adaption_prompt(model: PreTrainedModel, candidate: Candidate) -> PeftConfig:
    """Configure LLaMA-Adapter (arXiv:2303.16199), in all layers but the first two."""
    layers = count_layers(model)
    return make_config(candidate, adapter_layers=max(1, layers - _LAYERS_LEFT_ALONE))


def as_given(model: PreTrainedModel, candidate: Candidate) -> PeftConfig:
    """Configure a method that needs nothing from the model."""
    del model
    return make_config(candidate)
