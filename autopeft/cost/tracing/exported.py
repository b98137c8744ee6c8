"""Exported: the parameters of an adapted model, and what of it, parameter or not, the exported file holds."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from peft import PeftModel, get_peft_model_state_dict
from torch import nn

from autopeft.cost.tracing.layers import layer_of
from autopeft.cost.tracing.take import Parameter


def parameters_of(model: nn.Module, stacks: dict[str, nn.ModuleList], *, whole: bool) -> Iterator[Parameter]:
    """Yield every parameter, then what else the file holds, as parameters of no elements.

    peft says what it saves: projections that no optimizer knows (VeRA), indices (SHiRA), the prompts that
    a network makes instead of the network (P-tuning).

    Args:
        whole: all parameters are exported, not an adapter.
    """
    state = _state_of(model)
    if not whole:
        state = _chosen_by_peft(model, state)
    owned: dict[int, int] = {id(parameter): 0 for parameter in model.parameters()}
    others: list[tuple[str, int]] = []
    for name, tensor in state.items():
        if id(tensor) not in owned:
            others.append((name, _bytes_of(tensor)))
        elif not (whole and owned[id(tensor)]):  # a whole model's tied weights are saved once
            owned[id(tensor)] += _bytes_of(tensor)
    for name, parameter in model.named_parameters():
        elements = _unpacked(model, name) or parameter.numel()
        size = owned[id(parameter)]
        yield Parameter(layer_of(name, stacks), elements, parameter.requires_grad, size)
    for name, size in others:
        yield Parameter(layer_of(name, stacks), 0, False, size)


def _chosen_by_peft(model: nn.Module, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return what peft saves of a state, or makes of it to save."""
    if not isinstance(model, PeftModel):
        return {}
    with torch.no_grad():
        chosen: dict[str, torch.Tensor] = get_peft_model_state_dict(model, state_dict=state)
    return chosen


def _state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Name all tensors that a model would save: those shared under every name, packed ones as they are."""
    found: dict[str, torch.Tensor] = {}
    for place, module in model.named_modules(remove_duplicate=False):
        own = {
            name: tensor
            for name, tensor in (*module._parameters.items(), *module._buffers.items())
            if tensor is not None and name not in module._non_persistent_buffers_set
        }
        found |= {f"{place}.{name}" if place else name: tensor for name, tensor in own.items()}
    return found


def _bytes_of(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _unpacked(model: nn.Module, name: str) -> int | None:
    """Return how many weights a packed matrix stands for; None where it is not packed."""
    holder, _, own = name.rpartition(".")
    module = model.get_submodule(holder)
    if own != "weight" or not isinstance(module, nn.Linear) or module.weight.dtype.is_floating_point:
        return None
    return int(module.in_features * module.out_features)
