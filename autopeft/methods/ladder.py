"""Ladder side-tuning (Sung et al. 2022, arXiv:2206.06522) as a tuner of peft.

Beside the frozen layers f_i stand narrow layers g_i of the same class, with as wide heads but fewer:

    s_0 = g_0(D_0 h_0),   s_i = g_i(m_i D_i h_i + (1 - m_i) s_(i-1)),   h_(i+1) = f_i(h_i)

where h_i is what goes into layer i, D_i a linear map to the narrow width and m_i = sigmoid(a_i / 0.1) a
gate (section 3.2). The model's last layer returns h_L + U s_(L-1). U starts at zero, so the adapted model
starts as the base model. The layers f_i run without autograd: backward goes through head, U and the side
network only. Left out: the paper's start of g_i from pruned weights of f_i; here they start at random.
"""

from __future__ import annotations

import copy
import inspect
import re
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import nn
from transformers import Cache, PretrainedConfig, PreTrainedModel

from autopeft.errors import UnsupportedError
from autopeft.methods.registry import number_of
from autopeft.space.candidate import Candidate

PEFT_TYPE = "LADDER"
_TEMPERATURE = 0.1
_INNER_WIDTHS = ("intermediate_size", "moe_intermediate_size", "ffn_dim", "hidden_dim", "n_inner")
# What a layer is given for each head or feature of the wide model, which a narrow layer cannot take.
_WIDE_INPUTS = frozenset(("alibi", "position_bias", "rel_embeddings"))


@dataclass
class LadderConfig(PeftConfig):
    """Configuration of ladder side-tuning.

    Attributes:
        reduction: the side network has this many times fewer heads, and inner features, than the model.
        target_modules: pattern of the names of the layers that the side network stands beside.
    """

    reduction: int = 8
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    modules_to_save: list[str] | None = field(default=None)

    def __post_init__(self) -> None:
        """Name the tuner."""
        super().__post_init__()  # type: ignore[no-untyped-call]
        self.peft_type = PEFT_TYPE


class LadderLayer(nn.Module, BaseTunerLayer):
    """A frozen layer of the model and the narrow layer beside it."""

    adapter_layer_names = ("ladder_down", "ladder_gate", "ladder_side", "ladder_up")

    def __init__(self, base_layer: nn.Module, below: dict[str, torch.Tensor]) -> None:
        """Wrap `base_layer`; `below` passes the side network's state up, by adapter."""
        super().__init__()
        self.base_layer = base_layer
        self.ladder_down = nn.ModuleDict()
        self.ladder_gate = nn.ParameterDict()
        self.ladder_side = nn.ModuleDict()
        self.ladder_up = nn.ModuleDict()
        self.merged_adapters: list[str] = []
        self.below = below
        if hasattr(base_layer, "attention_type"):  # by which some models choose a layer's mask
            self.attention_type = base_layer.attention_type

    def update_layer(
        self, adapter_name: str, side: nn.Module, widths: tuple[int, int], *, first: bool, last: bool
    ) -> None:
        """Add the narrow layer of an adapter, `widths` being those of the model and of the side network."""
        wide, narrow = widths
        kept = next(p for p in self.get_base_layer().parameters() if p.is_floating_point())
        kind: dict[str, Any] = {"device": kept.device, "dtype": kept.dtype}
        self.ladder_side[adapter_name] = side.to(**kind)
        self.ladder_down[adapter_name] = nn.Linear(wide, narrow, **kind)
        if not first:
            self.ladder_gate[adapter_name] = nn.Parameter(torch.zeros((), **kind))
        if last:
            up = nn.Linear(narrow, wide, **kind)
            nn.init.zeros_(up.weight)
            nn.init.zeros_(up.bias)
            self.ladder_up[adapter_name] = up

    def forward(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Map (rows, length, wide) as the model's layer does, and take the side network one layer up.

        Raises:
            ValueError: the model keeps a cache, so that later tokens may come without the earlier ones.
        """
        hidden = hidden.detach()
        with torch.no_grad():
            out = self.base_layer(hidden, *args, **kwargs)
        if self.disable_adapters:
            return out
        if any(isinstance(value, Cache) for value in (*args, *kwargs.values())):
            raise ValueError("a side network reads whole rows, so it takes no cache: set use_cache=False.")
        for name in self.active_adapters:
            if name in self.ladder_side:
                out = self._climb(name, hidden, out, args, kwargs)
        return out

    def _climb(
        self, name: str, hidden: torch.Tensor, out: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        down = self.ladder_down[name]
        dtype = next(down.parameters()).dtype
        state = down(hidden.to(dtype))
        if name in self.ladder_gate:
            gate = torch.sigmoid(self.ladder_gate[name] / _TEMPERATURE)
            state = gate * state + (1 - gate) * self.below.pop(name)
        given = [_for_side(value, dtype) for value in args]
        named = {key: _for_side(value, dtype) for key, value in kwargs.items()}
        state = _first(self.ladder_side[name](state, *given, **named))
        if name not in self.ladder_up:
            self.below[name] = state
            return out
        returned = _first(out)
        changed = returned + self.ladder_up[name](state).to(returned.dtype)
        return (changed, *out[1:]) if isinstance(out, tuple) else changed

    def unload_and_optionally_merge_module(
        self, *, merge: bool, safe_merge: bool, adapter_names: list[str] | None
    ) -> nn.Module:
        """Return the layer as it was.

        Raises:
            ValueError: the side network is to be merged, which it cannot be.
        """
        del safe_merge, adapter_names
        if merge:
            raise ValueError("a side network stands beside the model, so it cannot be merged; use unload().")
        return self.get_base_layer()


class LadderModel(BaseTuner):
    """Puts a side network beside a model."""

    prefix = "ladder_"
    tuner_layer_cls = LadderLayer
    target_module_mapping: dict[str, list[str]] = {}

    def _pre_injection_hook(self, model: nn.Module, config: PeftConfig, adapter_name: str) -> None:
        del config, adapter_name
        self.below: dict[str, torch.Tensor] = {}
        # The side network reads whole rows, so generation must not feed it one token at a time.
        whole: Any = model.config
        generation = getattr(model, "generation_config", None)
        for holder in (whole, whole.get_text_config(), generation):
            if holder is not None:
                holder.use_cache = False

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
        del current_key, parameter_name
        if not isinstance(peft_config, LadderConfig) or not isinstance(parent, nn.ModuleList):
            raise TypeError("a ladder needs a LadderConfig and a list of layers to stand beside.")
        config = self.model.config.get_text_config()
        small = narrowed(config, peft_config.reduction)
        index = int(target_name)
        base = target.get_base_layer() if isinstance(target, LadderLayer) else target
        side = _alike(base, small, index)
        side.apply(self.model._init_weights)
        layer = target if isinstance(target, LadderLayer) else LadderLayer(target, self.below)
        layer.update_layer(
            adapter_name,
            side,
            (config.hidden_size, small.hidden_size),
            first=index == 0,
            last=index == len(parent) - 1,
        )
        layer.set_adapter(self.active_adapters, inference_mode=peft_config.inference_mode)
        if layer is not target:
            self._replace_module(parent, target_name, layer, target)

    def _replace_module(
        self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module
    ) -> None:
        del child  # of which peft would take over the weight; a layer has none of its own
        setattr(parent, child_name, new_module)

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        return re.sub(rf"(\.ladder_\w+)\.{re.escape(adapter_name)}(?=\.|$)", r"\1", key, count=1)


def configure(model: PreTrainedModel, candidate: Candidate) -> LadderConfig:
    """Configure ladder side-tuning for a candidate.

    Raises:
        UnsupportedError: the model's layers are no single stack.
    """
    depth = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    stacks = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == depth
        and not re.search(r"\.\d+\.", f"{name}.")
        and len({type(layer) for layer in module}) == 1
    ]
    if len(stacks) != 1:
        raise UnsupportedError(
            f"lst needs one stack of layers of one kind, but {type(model).__name__} has {len(stacks)}."
        )
    reduction = int(number_of(candidate, "reduction", least=1))
    return LadderConfig(reduction=reduction, target_modules=rf"{re.escape(stacks[0])}\.\d+")


def narrowed(config: PretrainedConfig, reduction: int) -> PretrainedConfig:
    """Return a configuration with `reduction` times fewer heads, at least one, of the same width."""
    small = copy.deepcopy(config)
    heads = max(1, config.num_attention_heads // reduction)
    groups = getattr(config, "num_key_value_heads", None)
    if isinstance(groups, int):
        fewer = max(1, groups // reduction)
        small.num_key_value_heads = fewer if heads % fewer == 0 else 1
    for name in _INNER_WIDTHS:
        width = getattr(config, name, None)
        if isinstance(width, int):
            setattr(small, name, max(1, width // reduction))
    small.hidden_size = heads * (config.hidden_size // config.num_attention_heads)
    small.num_attention_heads = heads
    return small


def _alike(layer: nn.Module, config: PretrainedConfig, index: int) -> nn.Module:
    """Make a layer of the same class.

    Raises:
        TypeError: such layers are given what depends on the model's width.
    """
    kind = type(layer)
    wide = _WIDE_INPUTS & set(inspect.signature(kind.forward).parameters)
    if wide:
        given = ", ".join(sorted(wide))
        raise TypeError(f"its layers are given {given}, which no narrower layer takes.")
    indexed = "layer_idx" in inspect.signature(kind.__init__).parameters
    made: nn.Module = kind(config, layer_idx=index) if indexed else kind(config)
    return made


def _for_side(value: Any, dtype: torch.dtype) -> Any:
    """Return an input of the model's layer in the dtype of the side network."""
    if isinstance(value, tuple):
        return tuple(_for_side(part, dtype) for part in value)
    return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def _first(returned: Any) -> torch.Tensor:
    """Return the hidden states among what a layer returns."""
    first: torch.Tensor = returned[0] if isinstance(returned, tuple) else returned
    return first
