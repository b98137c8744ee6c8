"""Layers: tell the recorder which transformer layer is at work, in forward and in backward."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from autopeft.cost.tape import Phase
from autopeft.cost.tracing.recorder import Recorder

STACK = 1000
"""Layer `i` of stack `k` has the number `STACK * k + i`."""


def find_stacks(model: nn.Module) -> dict[str, nn.ModuleList]:
    """Return the model's stacks of layers by name: the module lists that are in no other."""
    found: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if isinstance(module, nn.ModuleList) and not inside and any(True for _ in module.parameters()):
            found[name] = module
    return found


def layer_of(name: str, stacks: dict[str, nn.ModuleList]) -> int:
    """Return the number of the layer that holds a module or parameter; -1 outside the stacks."""
    for place, stack in enumerate(stacks):
        if name.startswith(f"{stack}."):
            return STACK * place + int(name[len(stack) + 1 :].partition(".")[0])
    return -1


@contextmanager
def followed(recorder: Recorder, model: nn.Module) -> Iterator[None]:
    """Keep the recorder told of the layer: by hooks in forward, by autograd's node numbers in backward.

    Nodes are numbered in the order of forward, so a node belongs to the layer that was entered last
    before its number. In forward a layer is at work until the next one is, the last one until the model
    returns: what it was given is freed after it has returned.
    """
    starts: list[int] = []
    layers: list[int] = []

    def begin(layer: int) -> None:
        starts.append(torch.autograd._get_sequence_nr())  # type: ignore[attr-defined]
        layers.append(layer)

    def entering(layer: int) -> Any:
        def hook(module: nn.Module, args: object) -> None:
            del module, args
            recorder.layer = layer
            begin(layer)

        return hook

    def leaving(module: nn.Module, args: object, output: object) -> None:
        del module, args, output
        if recorder.spans[-1].phase is Phase.FORWARD:
            begin(-1)

    def returning(module: nn.Module, args: object, output: object) -> None:
        del module, args, output
        recorder.layer = -1

    def find(number: int, runs_again: bool) -> int:  # noqa: FBT001
        place = bisect.bisect_right(starts, number) - 1
        layer = layers[place] if place >= 0 else -1
        if runs_again and layers[-1] != layer:
            begin(layer)
        return layer

    handles = [model.register_forward_hook(returning)]
    for place, stack in enumerate(find_stacks(model).values()):
        for index, layer in enumerate(stack):
            handles.append(layer.register_forward_pre_hook(entering(STACK * place + index)))
        handles.append(stack[-1].register_forward_hook(leaving))
    recorder.layer_of_node = find
    yield
    recorder.layer_of_node = None
    for handle in handles:
        handle.remove()
