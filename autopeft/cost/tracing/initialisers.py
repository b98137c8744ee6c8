"""Initialisers: shapes for what peft works out from values, which fake tensors do not have.

A few methods of peft look into the weights while they are set up (cluster them, count indices) or
use sparse tensors. Here stand functions that make the same parameters and buffers, allocate and save
what the real ones do on the device, and ask for no value. Everything is undone at exit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import peft.tuners.adamss.layer as adamss
import peft.tuners.frod.model as frod
import peft.tuners.loha.layer as loha
import peft.tuners.lokr.layer as lokr
import torch
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.boft.layer import BOFTLayer
from peft.tuners.cpt.model import CPTEmbedding
from peft.tuners.frod.layer import FrodLayer
from peft.tuners.frod.layer import Linear as FrodLinear
from peft.tuners.shira.layer import Linear as ShiraLinear
from peft.tuners.shira.layer import ShiraLayer
from peft.tuners.tuners_utils import _maybe_include_all_linear_layers
from peft.tuners.unilora.model import UniLoraModel
from torch import nn
from transformers.pytorch_utils import Conv1D

from autopeft.cost.tracing.sparse import ShapedSparse, activate


@contextmanager
def initialised_on_fakes() -> Iterator[None]:
    """Let peft's methods be set up and run on fake tensors; real tensors must not be used inside."""
    with ExitStack() as stack:
        for where, name, value in _replacements():
            stack.callback(setattr, where, name, vars(where)[name])  # vars: staticmethods stay so
            setattr(where, name, value)
        yield


def held_on_host(model: nn.Module, *, moved_whole: bool) -> Iterator[torch.Tensor]:
    """Yield the tensors of an adapted model that a GPU does not hold.

    Args:
        moved_whole: the adapted model was moved to the GPU, as autopeft's and Hugging Face's trainers
            do; otherwise the base model was there before it was adapted (`device_map`, peft's
            benchmark), and what peft makes on the host and moves at each use stays there.
    """
    for module in model.modules():
        held: object = None
        if isinstance(module, FrodLayer) and any(module.runtime_offload_base_weight.values()):
            held = module.get_base_layer().weight
        elif isinstance(module, BOFTLayer) and not moved_whole:
            held = module.boft_P
        if isinstance(held, torch.Tensor):
            yield held


def _replacements() -> Iterator[tuple[Any, str, Any]]:
    yield adamss, "slice_pca", _principal
    yield adamss, "torch", _TorchWith(svd_lowrank=_svd_lowrank)
    yield adamss, "clustering_Z", _clusters
    yield adamss, "seg_locations", _locations
    yield UniLoraModel, "_assign_unilora_indices_and_scales", _assign_indices
    yield ShiraLayer, "update_layer", _updating_shira(ShiraLayer.update_layer)
    yield ShiraLinear, "get_delta_weight", _shira_delta
    yield frod.FrodModel, "_init_frod_projections", _shape_projections
    yield FrodLayer, "_calculate_frod_u_and_lambda", _shape_u_and_lambda
    yield FrodLinear, "_get_frod_tensors", _frod_tensors
    yield FrodLinear, "_sparse_activation_mm", _activate
    yield CPTEmbedding, "calculate_loss", _losing(CPTEmbedding.calculate_loss)
    for module in (loha, lokr):
        # The number drawn to leave a module out is above the rate.
        yield module, "torch", _TorchWith(rand=float)
    yield BOFTLayer, "perm2mat", _permutation


def _principal(
    weight: torch.Tensor, rank: int, device: object, dtype: torch.dtype, random_seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    del device, random_seed
    *outer, height, width = weight.shape
    rank = min(rank, height, width)
    return torch.zeros((*outer, rank, width), dtype=dtype), torch.zeros((*outer, height, rank), dtype=dtype)


def _svd_lowrank(matrix: torch.Tensor, q: int, niter: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    del niter
    height, width = matrix.shape
    return matrix.new_zeros((height, q)), matrix.new_zeros(q), matrix.new_zeros((width, q))


def _clusters(rows: torch.Tensor, count: int, iterations: int) -> tuple[list[int], int]:
    """Cluster into equal parts; how many rows a cluster gets depends on values, their sum does not."""
    del iterations
    found = min(count, rows.shape[0])
    return [row % found for row in range(rows.shape[0])], found


def _locations(clusters: list[int]) -> dict[int, torch.Tensor]:
    sizes = [clusters.count(each) for each in range(max(clusters) + 1)]
    return {each: torch.zeros(size, dtype=torch.int64) for each, size in enumerate(sizes)}


def _assign_indices(self: UniLoraModel, adapter_name: str) -> None:
    for module in self._iter_unilora_layers():
        scales = []
        for indices in (module.unilora_indices_A, module.unilora_indices_B):
            indices[adapter_name] = indices[adapter_name].clone()
            scales.append(torch.zeros(indices[adapter_name].shape))
        module.update_scaling(adapter_name, *scales)


def _updating_shira(update: Callable[..., None]) -> Callable[..., None]:
    def updated(self: ShiraLayer, adapter_name: str, mask: torch.Tensor, r: int, **kwargs: Any) -> None:
        del mask
        update(self, adapter_name, None, r, **kwargs)
        count = self.shira_weight[adapter_name].numel()
        self.shira_indices[adapter_name] = torch.zeros((2, count), dtype=torch.int32)

    return updated


def _shira_delta(self: ShiraLayer, adapter: str) -> ShapedSparse:
    values = self.shira_weight[adapter] * self.scaling[adapter]
    return ShapedSparse(self.shira_indices[adapter].long(), values)


def _shape_projections(self: Any, config: Any, adapter_name: str) -> None:
    usual = self._prepare_adapter_config(config, self.get_model_config(self.model))
    usual = _maybe_include_all_linear_layers(usual, self.model)
    inputs: dict[str, torch.Tensor] = {}
    for key, module in self.model.named_modules():
        if isinstance(module, nn.Linear | Conv1D) and self._check_target_module_exists(usual, key):
            weight = module.weight.T if isinstance(module, Conv1D) else module.weight
            inputs.setdefault(frod._category_from_key(key), weight)
    if not inputs:
        raise ValueError("FRoD needs linear modules, and its target modules are none.")
    tables = ("frod_V", "frod_s_indices", "frod_s_size")
    for name in tables:
        if not hasattr(self, name):
            setattr(self, name, nn.ModuleDict())
    for category in sorted(inputs):
        width = inputs[category].shape[1]
        away = width * width - width
        count = min(int(width * width * config.sparse_rate), away)
        if config.sparse_rate > 0 and away > 0:
            count = max(1, count)
        made = (
            torch.zeros((width, width), dtype=inputs[category].dtype),
            torch.zeros((2, count), dtype=torch.int64),
            torch.zeros(2, dtype=torch.int64),
        )
        for name, tensor in zip(tables, made, strict=True):
            table = getattr(self, name)
            if category not in table:
                table[category] = BufferDict({}, persistent=config.save_projection)
            table[category][adapter_name] = tensor


def _shape_u_and_lambda(
    self: FrodLayer, basis: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    del self, basis
    return torch.zeros(weight.shape), torch.zeros(weight.shape[1])


def _frod_tensors(
    self: FrodLayer, adapter: str, *, device: torch.device, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, ShapedSparse, torch.Tensor]:
    values = self.frod_lambda_s_values[adapter].to(device=device, dtype=dtype)
    if self.frod_s_indices is None or self.frod_V is None:
        raise ValueError("FRoD's projections are missing.")
    sparse = ShapedSparse(self.frod_s_indices[adapter].clone(), values.clone())  # coalesced
    return (
        self.frod_U[adapter].to(device=device, dtype=dtype),
        self.frod_V[adapter].to(device=device, dtype=dtype),
        sparse,
        self.frod_lambda_l[adapter].to(device=device, dtype=dtype),
    )


def _activate(self: FrodLayer, activations: torch.Tensor, sparse: ShapedSparse) -> torch.Tensor:
    del self
    return activate(activations, sparse)


def _permutation(self: BOFTLayer, indices: torch.Tensor) -> torch.Tensor:
    """Make the matrix of a permutation, whatever it is."""
    del self
    return torch.zeros((len(indices), len(indices)))


def _losing(lose: Callable[..., Any]) -> staticmethod[..., Any]:
    """Take every row to hold one target, which CPT reads from a mask."""

    def one(mask: torch.Tensor) -> torch.Tensor:
        return mask[:1].clone()

    def lost(*args: Any, **kwargs: Any) -> Any:
        unique = torch.Tensor.unique
        torch.Tensor.unique = one  # type: ignore[method-assign, assignment]
        try:
            return lose(*args, **kwargs)
        finally:
            torch.Tensor.unique = unique  # type: ignore[method-assign]

    return staticmethod(lost)


class _TorchWith:
    """torch as one module sees it, with a few functions exchanged."""

    def __init__(self, **functions: Callable[..., Any]) -> None:
        """Exchange functions by name."""
        vars(self).update(functions)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)
