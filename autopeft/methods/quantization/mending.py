"""What bitsandbytes' layers need so that every method trains on them and evaluating changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


def mend(model: nn.Module) -> None:
    """Keep a packed model trainable on a CPU, in place; a model that is not packed stays as it is.

    bitsandbytes 0.50 lays 4-bit weights out anew at the first evaluation on a CPU with AVX512-BF16, for
    a kernel without a backward pass: from then on no gradient passes these layers, and who reads the
    weights, as DoRA does, reads nonsense. On a CPU, peft 0.21 loses the scales of an 8-bit layer
    whose weights it reads.
    """
    for module in _packed(model):
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
        if _is_8bit(module):
            module.register_forward_pre_hook(_find_scales)


def hand_out_copies(model: nn.Module) -> None:
    """Let adapters add in place to what packed layers return, which may be a view."""
    for module in _packed(model):
        module.register_forward_hook(_copy)


def _packed(model: nn.Module) -> Iterator[Any]:
    for module in model.modules():
        if any(base.__module__.startswith("bitsandbytes.") for base in type(module).__mro__):
            yield module


def _is_8bit(module: nn.Module) -> bool:
    return any(base.__name__ == "Linear8bitLt" for base in type(module).__mro__)


def _find_scales(module: Any, args: object) -> None:
    del args
    weight, state = module.weight, module.state
    if weight.CB is not None and weight.SCB is None:
        weight.SCB = state.SCB


def _copy(module: nn.Module, args: object, output: torch.Tensor) -> torch.Tensor:
    del module, args
    return output.clone()
