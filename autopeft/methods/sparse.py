"""Sparse updates as a tuner of peft: W + D, where D has few entries other than zero, at fixed places.

Which places is for `masks.py` to say, with data; until then they are spread evenly. An adapter holds
its values and their places in the flattened matrix (4 bytes each), and merges by adding them. Forward makes
a D for the time of one product, and backward another, so no more than one whole matrix is held at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftConfig
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from autopeft.errors import InputError
from autopeft.methods.bottleneck import width_of
from autopeft.methods.placement import resolve_targets, shorten
from autopeft.methods.registry import number_of
from autopeft.space.candidate import Candidate

PEFT_TYPE = "SPARSE"


@dataclass
class SparseConfig(PeftConfig):
    """Configuration of a sparse update.

    Attributes:
        share: share of the target matrices' entries that are updated.
        counts: how many entries of each matrix, by its name, once they are chosen; the same share of
            every matrix before.
        target_modules: names (or their endings) of the linear modules that are updated.
    """

    share: float = 0.005
    counts: dict[str, int] = field(default_factory=dict)
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    modules_to_save: list[str] | None = field(default=None)

    def __post_init__(self) -> None:
        """Name the tuner."""
        super().__post_init__()  # type: ignore[no-untyped-call]
        self.peft_type = PEFT_TYPE


class SparseLayer(nn.Module, BaseTunerLayer):
    """A linear module and the sparse updates of its matrix (out, in)."""

    adapter_layer_names = ("sparse_values",)
    other_param_names = ("sparse_places",)

    def __init__(self, base_layer: nn.Module) -> None:
        """Wrap `base_layer`."""
        super().__init__()
        self.base_layer = base_layer
        self.sparse_values = nn.ParameterDict()
        self.sparse_places = BufferDict(persistent=True)
        self.merged_adapters: list[str] = []
        self.dense: nn.Module | None = None
        self.shape = (width_of(base_layer), width_of(base_layer, entering=True))

    @property
    def entries(self) -> int:
        """How many entries the matrix has."""
        return self.shape[0] * self.shape[1]

    def update_layer(self, adapter_name: str, config: SparseConfig, count: int) -> None:
        """Add an adapter that updates `count` entries, spread evenly."""
        weight = next(self.get_base_layer().parameters())
        places = torch.arange(count, device=weight.device) * (self.entries // max(1, count))
        dtype = weight.dtype if weight.is_floating_point() else torch.float32  # packed weights are integers
        self.choose(adapter_name, places, torch.zeros(count, device=weight.device, dtype=dtype))
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def choose(self, adapter_name: str, places: torch.Tensor, values: torch.Tensor) -> None:
        """Update these entries from now on, from these values."""
        self.sparse_places[adapter_name] = places.to(torch.int32)
        self.sparse_values[adapter_name] = nn.Parameter(values)

    def forward(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Map (..., in) to (..., out)."""
        out: torch.Tensor = self.base_layer(hidden, *args, **kwargs)
        if self.disable_adapters or self.merged_adapters:
            return out
        for name in self.active_adapters:
            if name in self.sparse_values and self.sparse_values[name].numel():
                values, places = self.sparse_values[name], self.sparse_places[name]
                out = out + _product(hidden.to(values.dtype), values, places, self.shape).to(out.dtype)
        if self.dense is not None:
            matrix = self.dense()
            out = out + functional.linear(hidden.to(matrix.dtype), matrix).to(out.dtype)
        return out

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:  # noqa: FBT001, FBT002
        """Add the updates to the matrix.

        Raises:
            ValueError: the matrix is packed, so its entries cannot be changed one by one.
        """
        del safe_merge
        for name in adapter_names or self.active_adapters:
            if name in self.sparse_values and name not in self.merged_adapters:
                self._shift(name, 1)
                self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Take the updates out of the matrix again."""
        while self.merged_adapters:
            self._shift(self.merged_adapters.pop(), -1)

    def _shift(self, name: str, sign: int) -> None:
        base: Any = self.get_base_layer()
        if not base.weight.is_floating_point():
            raise ValueError("a sparse update cannot be merged into packed weights; use unload().")
        added = _spread(self.sparse_values[name].detach(), self.sparse_places[name], self.shape)
        base.weight.data += sign * (added.T if isinstance(base, Conv1D) else added).to(base.weight.dtype)


class SparseModel(BaseTuner):
    """Puts `SparseLayer`s into a model."""

    prefix = "sparse_"
    tuner_layer_cls = SparseLayer
    target_module_mapping: dict[str, list[str]] = {}

    def _create_and_replace(
        self,
        peft_config: PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        del parameter_name
        if not isinstance(peft_config, SparseConfig):
            raise TypeError(f"a SparseConfig is needed, but got a {type(peft_config).__name__}.")
        if not isinstance(target, SparseLayer | nn.Linear | Conv1D):
            raise TypeError(f"a sparse update is one of a linear module; {current_key} is none.")
        layer = target if isinstance(target, SparseLayer) else SparseLayer(target)
        if layer is not target:
            layer.set_adapter(self.active_adapters)
        usual = max(1, round(peft_config.share * layer.entries))
        layer.update_layer(adapter_name, peft_config, peft_config.counts.get(current_key, usual))
        if layer is not target:
            self._replace_module(parent, target_name, layer, target)


def configure(model: PreTrainedModel, candidate: Candidate) -> SparseConfig:
    """Configure a sparse update for a candidate.

    Raises:
        InputError: the share is no share.
    """
    share = number_of(candidate, "share")
    if not 0 < share <= 1:
        raise InputError(f"{candidate.method}'s knob share must lie above 0 and up to 1, but got {share:g}.")
    names = resolve_targets(model, candidate.targets or "all-linear", candidate.layers)
    return SparseConfig(share=share, target_modules=shorten(model, names))


class _SparseProduct(torch.autograd.Function):
    """x D^T, of which backward keeps no D: d/dx = g D, and of g^T x the values' places."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, values: torch.Tensor, places: torch.Tensor, shape: tuple[int, int]
    ) -> torch.Tensor:
        ctx.save_for_backward(hidden, values, places)
        ctx.shape = shape
        return functional.linear(hidden, _spread(values, places, shape))

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        (gradient,) = gradients
        hidden, values, places = ctx.saved_tensors
        to_hidden = gradient @ _spread(values, places, ctx.shape) if ctx.needs_input_grad[0] else None
        rows, columns = ctx.shape
        whole = gradient.reshape(-1, rows).T @ hidden.reshape(-1, columns)
        return to_hidden, whole.view(-1).index_select(0, places), None, None


def _product(
    hidden: torch.Tensor, values: torch.Tensor, places: torch.Tensor, shape: tuple[int, int]
) -> torch.Tensor:
    product: torch.Tensor = _SparseProduct.apply(hidden, values, places, shape)  # type: ignore[no-untyped-call]
    return product


def _spread(values: torch.Tensor, places: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """Return the matrix that has these values at these places, and zeros elsewhere."""
    return values.new_zeros(shape[0] * shape[1]).index_add_(0, places, values).view(shape)
