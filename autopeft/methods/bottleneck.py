"""Serial bottleneck adapters (Houlsby et al. 2019, arXiv:1902.00751) as a tuner of peft.

Behind each target matrix stands h + W_up relu(W_down h): with the targets attention output and
feed-forward output this is Houlsby's placement (before the residual sum), with the latter alone
Pfeiffer's. W_up starts at zero, so the adapted model starts as the base model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftConfig
from peft.mapping import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PEFT_TYPE_TO_PREFIX_MAPPING,
    PEFT_TYPE_TO_TUNER_MAPPING,
)
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from autopeft.methods.placement import resolve_targets, shorten
from autopeft.methods.registry import number_of
from autopeft.space.candidate import Candidate

PEFT_TYPE = "BOTTLENECK"


@dataclass
class BottleneckConfig(PeftConfig):
    """Configuration of serial bottleneck adapters.

    Attributes:
        size: width of the bottleneck.
        target_modules: names (or their endings) of the linear modules that get an adapter behind.
    """

    size: int = 32
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    modules_to_save: list[str] | None = field(default=None)

    def __post_init__(self) -> None:
        """Name the tuner."""
        super().__post_init__()  # type: ignore[no-untyped-call]
        self.peft_type = PEFT_TYPE


class BottleneckLayer(nn.Module, BaseTunerLayer):
    """A linear module with a bottleneck network behind it."""

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: BottleneckConfig) -> None:
        """Wrap `base_layer`."""
        super().__init__()
        self.base_layer = base_layer
        self.bottleneck_down = nn.ModuleDict()
        self.bottleneck_up = nn.ModuleDict()
        self.merged_adapters: list[str] = []
        self._active_adapter = adapter_name
        self.width: int = getattr(base_layer, "nf" if isinstance(base_layer, Conv1D) else "out_features")
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: BottleneckConfig) -> None:
        """Add an adapter."""
        weight: torch.Tensor = next(self.get_base_layer().parameters())
        down = nn.Linear(self.width, config.size, device=weight.device, dtype=weight.dtype)
        up = nn.Linear(config.size, self.width, device=weight.device, dtype=weight.dtype)
        nn.init.normal_(down.weight, std=0.02)
        nn.init.zeros_(down.bias)
        nn.init.zeros_(up.weight)
        nn.init.zeros_(up.bias)
        self.bottleneck_down[adapter_name] = down
        self.bottleneck_up[adapter_name] = up
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Map (..., in) to (..., out)."""
        out: torch.Tensor = self.base_layer(hidden, *args, **kwargs)
        if self.disable_adapters:
            return out
        for name in self.active_adapters:
            if name in self.bottleneck_down:
                down, up = self.bottleneck_down[name], self.bottleneck_up[name]
                hidden = out.to(next(down.parameters()).dtype)
                out = out + up(torch.relu(down(hidden))).to(out.dtype)
        return out


class BottleneckModel(BaseTuner):
    """Puts `BottleneckLayer`s into a model."""

    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLayer
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
        if not isinstance(peft_config, BottleneckConfig):
            raise TypeError(f"a BottleneckConfig is needed, but got a {type(peft_config).__name__}.")
        if isinstance(target, BottleneckLayer):
            target.update_layer(adapter_name, peft_config)
            return
        if not isinstance(target, nn.Linear | Conv1D):
            raise TypeError(f"a bottleneck adapter follows linear modules; {current_key} is none.")
        self._replace_module(parent, target_name, BottleneckLayer(target, adapter_name, peft_config), target)


def configure(model: PreTrainedModel, candidate: Candidate) -> BottleneckConfig:
    """Configure bottleneck adapters for a candidate."""
    names = resolve_targets(model, candidate.targets or "output+down", candidate.layers)
    return BottleneckConfig(
        size=int(number_of(candidate, "size", least=1)), target_modules=shorten(model, names)
    )


def register() -> None:
    """Make peft know this tuner, so that `PeftModel.from_pretrained` loads it."""
    # peft's tables are typed by its closed enum of methods, whose members are plain strings.
    tables: tuple[tuple[dict[Any, Any], object], ...] = (
        (PEFT_TYPE_TO_CONFIG_MAPPING, BottleneckConfig),
        (PEFT_TYPE_TO_TUNER_MAPPING, BottleneckModel),
        (PEFT_TYPE_TO_PREFIX_MAPPING, BottleneckModel.prefix),
    )
    for table, entry in tables:
        table[PEFT_TYPE] = entry
