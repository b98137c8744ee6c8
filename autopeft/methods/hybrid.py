"""Hybrids as one tuner of peft: prefix, LoRA, serial and parallel adapter in a layer, with or without gates.

MAM (He et al. 2022, arXiv:2110.04366, section 4.6): a prefix in attention and a scaled parallel adapter
at the feed-forward.

UniPELT (Mao et al. 2021, arXiv:2110.07577, section 3.2): a prefix, LoRA at query and value, and a serial
adapter behind the feed-forward. Each is multiplied by a gate of the row, the mean of sigmoid(w x + b) over
its tokens x: what goes into the matrix for LoRA (whose gate takes the place of its scale) and the prefix,
what comes out of the feed-forward for the adapter. LoRA has a gate for each matrix and padding counts as
tokens, as in AdapterHub. A gate reads the whole row, so a model that writes would see what it is to write:
UniPELT is for classification.

AutoPEFT (Zhou et al. 2024, arXiv:2301.12132, section 3.1): a serial adapter, a parallel adapter and a prefix,
each of any size or left out, in the layers that are switched on.

All parts hang on linear modules: the prefix on the one that makes the keys (see `prefix.py`), LoRA on query
and value, the adapters on the last one of the feed-forward F: F(x) + serial(F(x)) + s parallel(x). But for
the prefix, the adapted model starts as the base model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from autopeft.errors import InputError, UnsupportedError
from autopeft.methods.bottleneck import Entrance, unwrapped, width_of
from autopeft.methods.placement import block_entrance, resolve_targets, roles_of, shorten
from autopeft.methods.prefix import Prefix, join, part
from autopeft.methods.registry import number_of
from autopeft.space.candidate import Candidate

PEFT_TYPE = "HYBRID"
_SERIAL_STD = 0.02  # as in `bottleneck.py`
# The matrices that a part hangs on.
_ROLES = {"prefix": "key", "rank": "query+value", "serial": "down", "parallel": "down"}


@dataclass
class HybridConfig(PeftConfig):
    """Configuration of a hybrid; a part of size 0 is left out.

    Attributes:
        prefix: trained keys and values of each attention.
        rank: rank of LoRA.
        serial: width of the adapter behind the feed-forward.
        parallel: width of the adapter beside the feed-forward.
        scale: factor of what the parallel adapter adds.
        gated: prefix, LoRA and serial adapter each have a gate.
        target_modules: names (or their endings) of the linear modules that parts hang on.
    """

    prefix: int = 0
    rank: int = 0
    serial: int = 0
    parallel: int = 0
    scale: float = 1.0
    gated: bool = False
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    modules_to_save: list[str] | None = field(default=None)

    def __post_init__(self) -> None:
        """Name the tuner."""
        super().__post_init__()  # type: ignore[no-untyped-call]
        self.peft_type = PEFT_TYPE


class Gate(nn.Module):
    """How much a part counts in a row: the mean of sigmoid(w x + b) over the tokens x."""

    def __init__(self, width: int, **kind: Any) -> None:
        """Start as `nn.Linear` does."""
        super().__init__()
        self.linear = nn.Linear(width, 1, **kind)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map (rows, length, width) to (rows, 1, 1)."""
        read = hidden.to(self.linear.weight.dtype)
        return torch.sigmoid(self.linear(read)).mean(dim=1, keepdim=True)


class HybridLayer(nn.Module, BaseTunerLayer):
    """A linear module with the parts that hang on it."""

    adapter_layer_names = ("hybrid_parts",)

    def __init__(self, base_layer: nn.Module) -> None:
        """Wrap `base_layer`."""
        super().__init__()
        self.base_layer = base_layer
        self.hybrid_parts = nn.ModuleDict()
        self.scales: dict[str, float] = {}
        self.entrance: Entrance | None = None
        self.attention: tuple[nn.Module, ...] = ()  # a tuple, so that it is no part of this module
        self.factors: dict[str, torch.Tensor] = {}
        self.merged_adapters: list[str] = []

    def update_layer(
        self, adapter_name: str, config: HybridConfig, roles: frozenset[str], first: nn.Module
    ) -> None:
        """Add an adapter.

        Args:
            roles: what the matrix is in its layer.
            first: the first matrix of the feed-forward that this one ends.
        """
        base = self.get_base_layer()
        inside, width = width_of(base, entering=True), width_of(base)
        weight: torch.Tensor = next(base.parameters())
        dtype = weight.dtype if weight.is_floating_point() else torch.float32  # packed weights are integers
        kind: dict[str, Any] = {"device": weight.device, "dtype": dtype}
        parts = nn.ModuleDict()
        gates = {}
        if config.prefix and "key" in roles:
            parts["prefix"] = Prefix(config.prefix, _key_width(base, roles, self.attention[0]), **kind)
            gates["prefix"] = inside
        if config.rank and roles & {"query", "value"}:
            parts["lora"] = _between(inside, config.rank, width, bias=False, **kind)
            gates["lora"] = inside
        if config.serial and "down" in roles:
            parts["serial"] = _between(width, config.serial, width, **kind)
            nn.init.normal_(parts["serial"][0].weight, std=_SERIAL_STD)  # type: ignore[index]
            gates["serial"] = width
        if config.parallel and "down" in roles:
            parts["parallel"] = _between(width_of(first, entering=True), config.parallel, width, **kind)
            if self.entrance is None:
                self.entrance = Entrance(first)
        if config.gated:
            parts.update({f"{name}_gate": Gate(size, **kind) for name, size in gates.items()})
        self.hybrid_parts[adapter_name] = parts
        self.scales[adapter_name] = config.scale
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Map (..., in) to (..., out)."""
        entered = hidden if self.entrance is None else self.entrance.take()
        out: torch.Tensor = self.base_layer(hidden, *args, **kwargs)
        if self.disable_adapters:
            return out
        for name in self._active():
            parts: Any = self.hybrid_parts[name]
            if "prefix_gate" in parts:
                self.factors[name] = parts["prefix_gate"](hidden)
            added = []
            if "lora" in parts:
                added.append(_through(parts, "lora", hidden))
            if "serial" in parts:
                added.append(_through(parts, "serial", out))
            if "parallel" in parts:
                added.append(_through(parts, "parallel", entered) * self.scales[name])
            for each in added:
                out = out + each.to(out.dtype)
        return out

    def prefixes(self) -> list[tuple[Prefix, torch.Tensor | None]]:
        """Return the active prefixes with their gates, which are kept no longer."""
        if self.disable_adapters:
            return []
        parts: dict[str, Any] = {name: self.hybrid_parts[name] for name in self._active()}
        return [
            (each["prefix"], self.factors.pop(name, None)) for name, each in parts.items() if "prefix" in each
        ]

    def _active(self) -> list[str]:
        return [name for name in self.active_adapters if name in self.hybrid_parts]

    def unload_and_optionally_merge_module(
        self, *, merge: bool, safe_merge: bool, adapter_names: list[str] | None
    ) -> nn.Module:
        """Return the matrix as it was.

        Raises:
            ValueError: the parts are to be merged, which what is not linear cannot be.
        """
        del safe_merge, adapter_names
        if merge:
            raise ValueError("hybrids are not linear, so they cannot be merged; use unload().")
        if self.entrance is not None:
            self.entrance.handle.remove()
        for attention in self.attention:
            part(attention)
        return self.get_base_layer()


class HybridModel(BaseTuner):
    """Puts `HybridLayer`s into a model."""

    prefix = "hybrid_"
    tuner_layer_cls = HybridLayer
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
        if not isinstance(peft_config, HybridConfig):
            raise TypeError(f"a HybridConfig is needed, but got a {type(peft_config).__name__}.")
        roles = roles_of(current_key)
        first = target
        if peft_config.parallel and "down" in roles:
            first = self.model.get_submodule(block_entrance(self.model, current_key))
        if not isinstance(target, HybridLayer | nn.Linear | Conv1D):
            raise TypeError(f"a hybrid hangs on linear modules; {current_key} is none.")
        layer = target if isinstance(target, HybridLayer) else HybridLayer(target)
        if peft_config.prefix and "key" in roles and not layer.attention:
            join(parent, layer)
            layer.attention = (parent,)
        if layer is not target:
            layer.set_adapter(self.active_adapters)
        layer.update_layer(adapter_name, peft_config, roles, unwrapped(first))
        if layer is not target:
            self._replace_module(parent, target_name, layer, target)

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        return re.sub(rf"(\.hybrid_parts)\.{re.escape(adapter_name)}(?=\.)", r"\1", key, count=1)


def configure(model: PreTrainedModel, candidate: Candidate) -> HybridConfig:
    """Configure a hybrid for a candidate.

    Raises:
        InputError: targets are given, every part is left out, or the model has no matrix for a part.
        UnsupportedError: a prefix is to go through flash attention, which takes no mask of its own.
    """
    if candidate.targets is not None:
        raise InputError(
            f"{candidate.method} chooses its own matrices; leave out targets={candidate.targets!r}."
        )
    sizes: dict[str, Any] = {
        name: int(number_of(candidate, name)) for name in _ROLES if name in candidate.knobs
    }
    if candidate.rank is not None:
        sizes["rank"] = candidate.rank
    if not any(sizes.values()):
        raise InputError(f"{candidate.method} needs one of {', '.join(sizes)} above 0.")
    if sizes["prefix"] and candidate.training.attention == "flash":
        raise UnsupportedError(
            f"{candidate.method} needs attention=sdpa or eager for its prefix; flash has no mask."
        )
    # Each role by itself, so that a model without such a matrix is refused and not given half a hybrid.
    roles = dict.fromkeys(_ROLES[name] for name, size in sizes.items() if size)
    names = dict.fromkeys(name for role in roles for name in resolve_targets(model, role, candidate.layers))
    return HybridConfig(
        **sizes,
        scale=number_of(candidate, "scale") if "scale" in candidate.knobs else 1.0,
        gated=candidate.method == "unipelt",
        target_modules=shorten(model, names),
    )


def _key_width(matrix: nn.Module, roles: frozenset[str], attention: nn.Module) -> int:
    """Return how many features an attention's keys have: what comes out of their own matrix, or a share."""
    width = width_of(matrix)
    if "query" not in roles:
        return width
    config: Any = attention.config
    groups: int = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    share: int = width * groups // (config.num_attention_heads + 2 * groups)
    return share


def _between(inside: int, size: int, outside: int, *, bias: bool = True, **kind: Any) -> nn.Sequential:
    """Make two matrices around a narrow middle, the second zero; with biases, a ReLU between."""
    down, up = nn.Linear(inside, size, bias=bias, **kind), nn.Linear(size, outside, bias=bias, **kind)
    nn.init.zeros_(up.weight)
    if bias:
        nn.init.zeros_(down.bias)
        nn.init.zeros_(up.bias)
    return nn.Sequential(down, nn.ReLU(), up) if bias else nn.Sequential(down, up)


def _through(parts: Any, name: str, hidden: torch.Tensor) -> torch.Tensor:
    """Return what a part makes of its input, times its gate if it has one."""
    made: torch.Tensor = parts[name](hidden.to(parts[name][0].weight.dtype))
    gate = f"{name}_gate"
    return made * parts[gate](hidden) if gate in parts else made
