"""Pristine: a loaded model of which every copy starts untouched, whatever became of the copies before.

Its weights lie in files: in the checkpoint, where that holds them as they are, else in a file in memory.
Each copy maps them privately (mmap(2), MAP_PRIVATE): the kernel gives it a page of its own at the first
write, and nothing it writes reaches the file. So a copy costs its modules and the pages that it writes, no
second set of weights, and no method has to be trusted to put back what it changed.
"""

from __future__ import annotations

import copy
import itertools
import mmap
import os
import sys
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers import PreTrainedModel

_LEAST_BYTES = 4096
"""Smaller tensors are copied with their module."""

_ALIGNED = 64
_CHUNK = 1 << 24
_Region = tuple[int, int, int, str]


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies.

    Attributes:
        file: number of the file.   offset: in bytes.
        same: attributes of the parameter that are the same tensor, as bitsandbytes' 8-bit ones have.
    """

    file: int
    offset: int
    dtype: torch.dtype
    shape: torch.Size
    same: tuple[str, ...]


class Pristine:
    """A model to be copied again and again.

    Attributes:
        bytes_in_memory: what its own file takes of the memory; 0 where the checkpoint holds all weights.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """Take over a model on the host; it can be used no more.

        Raises:
            TypeError: it has weights that cannot be mapped (torchao's, or some that overlap), or this is not
                Linux.
        """
        if sys.platform != "linux":
            raise TypeError("weights can be kept on Linux only")
        self._files: list[int] = []
        weakref.finalize(self, _close, self._files)
        self._opened: dict[str, int] = {}
        self._own: int | None = None
        self.bytes_in_memory = 0
        regions = _mapped_checkpoints()
        self._places: dict[str, _Place] = {}
        for name, tensor in _placeable(model):
            self._places[name] = self._put(tensor, regions)
        for _, tensor in _tensors(model):
            # However small, a view of the checkpoint would keep all of it mapped beside the copies' maps.
            tensor.data = tensor.data.clone()
        self._skeleton = model

    def copy(self) -> PreTrainedModel:
        """Return the model as it was, to do with as one likes."""
        model = copy.deepcopy(self._skeleton)
        maps = [mmap.mmap(file, 0, access=mmap.ACCESS_COPY) for file in self._files]
        found: dict[str, Any] = dict(_tensors(model))
        for name, place in self._places.items():
            count = place.shape.numel()
            flat = torch.frombuffer(maps[place.file], dtype=place.dtype, count=count, offset=place.offset)
            tensor = found[name]
            tensor.data = flat.view(place.shape)
            for attribute in place.same:
                setattr(tensor, attribute, tensor.data)
        _take_in(model)
        return model

    def _put(self, tensor: Any, regions: list[_Region]) -> _Place:
        """See where a tensor lies, or put it into the file in memory, and leave none of it in the model."""
        data = tensor.data
        raw = data.view(-1).view(torch.uint8).numpy()
        file, offset = self._in_checkpoint(raw, data.dtype.itemsize, regions) or self._in_memory(raw)
        attributes = {name: value for name, value in vars(tensor).items() if isinstance(value, torch.Tensor)}
        same = tuple(name for name, value in attributes.items() if value.data_ptr() == tensor.data_ptr())
        empty = torch.empty(0, dtype=data.dtype)
        tensor.data = empty
        for name in same:
            setattr(tensor, name, empty)
        return _Place(file, offset, data.dtype, data.shape, same)

    def _in_checkpoint(
        self, raw: NDArray[np.uint8], unit: int, regions: list[_Region]
    ) -> tuple[int, int] | None:
        """Return the checkpoint that a tensor is mapped from, and where, if it holds the same bytes."""
        at = raw.ctypes.data
        region = next((each for each in regions if each[0] <= at and at + raw.nbytes <= each[1]), None)
        if region is None:
            return None
        start, _, first, path = region
        offset = first + at - start
        if path not in self._opened:
            try:
                self._files.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            except OSError:
                return None
            self._opened[path] = len(self._files) - 1
        file = self._opened[path]
        descriptor = self._files[file]
        same = offset % unit == 0 and all(
            os.pread(descriptor, _CHUNK, offset + begin)[: raw.nbytes - begin]
            == raw[begin : begin + _CHUNK].tobytes()
            for begin in range(0, raw.nbytes, _CHUNK)
        )
        return (file, offset) if same else None

    def _in_memory(self, raw: NDArray[np.uint8]) -> tuple[int, int]:
        """Write a tensor behind what the file in memory holds."""
        if self._own is None:
            self._files.append(os.memfd_create("base"))
            self._own = len(self._files) - 1
        offset = -(-self.bytes_in_memory // _ALIGNED) * _ALIGNED
        descriptor, done = self._files[self._own], 0
        while done < raw.nbytes:
            done += os.pwrite(descriptor, raw[done : done + _CHUNK].tobytes(), offset + done)
        self.bytes_in_memory = offset + raw.nbytes
        return self._own, offset


def _tensors(model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield parameters and buffers, those that are tied once."""
    yield from model.named_parameters()
    yield from model.named_buffers()


def _placeable(model: PreTrainedModel) -> list[tuple[str, Any]]:
    """Return the tensors that are large enough to be kept in a file, and in one piece."""
    found: list[tuple[str, Any]] = []
    tensor: Any
    for name, tensor in _tensors(model):
        if is_traceable_wrapper_subclass(tensor) or tensor.device.type != "cpu":
            raise TypeError(f"{name} is a {type(tensor).__name__} on {tensor.device}")
        if tensor.nbytes >= _LEAST_BYTES and tensor.is_contiguous():
            found.append((name, tensor))
    ends = sorted((each.data_ptr(), each.data_ptr() + each.nbytes) for _, each in found)
    if any(end > begin for (_, end), (begin, _) in itertools.pairwise(ends)):
        raise TypeError("two weights share memory, which their copies would not")
    return found


def _take_in(model: PreTrainedModel) -> None:
    """Make the modules of a copy the owners of their weights: bitsandbytes' 4-bit ones keep the old owner."""
    for module in model.modules():
        weight: Any = module._parameters.get("weight")
        if getattr(weight, "module", None) is not None:
            weight.module = module
            if getattr(module, "quant_state", None) is not None:
                module.quant_state = weight.quant_state


def _mapped_checkpoints() -> list[_Region]:
    """Return where safetensors files are mapped: first address, address behind, place in the file, path."""
    found = []
    with open("/proc/self/maps", encoding="utf-8") as lines:
        for line in lines:
            fields = line.rstrip("\n").split(maxsplit=5)
            if len(fields) == 6 and fields[5].endswith(".safetensors"):
                start, end = (int(part, 16) for part in fields[0].split("-"))
                found.append((start, end, int(fields[2], 16), fields[5]))
    return found


def _close(files: list[int]) -> None:
    for file in files:
        os.close(file)
