"""An optimizer's state as named tensors, so that safetensors can hold any optimizer's, and back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch

# The last part of a name says what a tensor stands for.
_NUMBERS: dict[str, type[int | float]] = {"int": int, "float": float}
_TENSOR = "tensor"


def pack_state(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return the state as tensors that share no memory, named by their path in it, in JSON."""
    return dict(_walk(optimizer.state_dict()["state"], ()))


def unpack_state(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put back what `pack_state` returned; an optimizer over the same parameters takes it."""
    state: dict[Any, Any] = {}
    for name, tensor in tensors.items():
        *path, last, kind = json.loads(name)
        place = state
        for part in path:
            place = place.setdefault(part, {})
        place[last] = tensor if kind == _TENSOR else _NUMBERS[kind](tensor.item())
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _walk(value: Any, path: tuple[int | str, ...]) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _walk(inner, (*path, name))
    elif isinstance(value, torch.Tensor):
        yield json.dumps([*path, _TENSOR]), value.detach().clone().contiguous()
    elif value is not None:
        kind = type(value).__name__
        yield (
            json.dumps([*path, kind]),
            torch.tensor(value, dtype=torch.float64 if kind == "float" else torch.int64),
        )
