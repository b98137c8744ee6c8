"""Bottleneck adapters as a tuner of peft: serial, parallel, and of Kronecker products.

Serial (Houlsby et al. 2019, arXiv:1902.00751): behind a target matrix stands h + W_up relu(W_down h).
With the targets attention output and feed-forward output this is Houlsby's placement (before the
residual sum), with the latter alone Pfeiffer's (arXiv:2005.00247).

Parallel (He et al. 2022, arXiv:2110.04366, table 1): h + s W_up relu(W_down x), where x is what went
into the block that the target matrix ends: the feed-forward for its last matrix, attention for its
output; any other target is a block of its own.

Compacter (arXiv:2106.04647): serial, with matrices of `phm.py`.

W_up starts at zero, so the adapted model starts as the base model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from autopeft.methods.phm import PhmLinear, slow_matrices
from autopeft.methods.placement import block_entrance, resolve_targets, shorten
from autopeft.methods.registry import number_of
from autopeft.space.candidate import Candidate

PEFT_TYPE = "BOTTLENECK"
_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu,
    "gelu": functional.gelu,
}


@dataclass
class BottleneckConfig(PeftConfig):
    """Configuration of bottleneck adapters.

    Attributes:
        size: width of the bottleneck.
        parallel: the adapter reads what goes into the block, not what comes out of the matrix.
        scale: factor of what the adapter adds.
        division: number n of Kronecker products that make a matrix; 0 for plain matrices.
        activation: "relu" or "gelu".
        target_modules: names (or their endings) of the linear modules whose output is changed.
    """

    size: int = 32
    parallel: bool = False
    scale: float = 1.0
    division: int = 0
    activation: str = "relu"
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    modules_to_save: list[str] | None = field(default=None)

    def __post_init__(self) -> None:
        """Name the tuner."""
        super().__post_init__()  # type: ignore[no-untyped-call]
        self.peft_type = PEFT_TYPE


class Entrance:
    """Keeps what went into a block until the block's last matrix takes it."""

    def __init__(self, first: nn.Module) -> None:
        """Watch the block's first matrix."""
        self._entered: torch.Tensor | None = None
        self.handle = first.register_forward_pre_hook(self.note)

    def note(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Keep the input; a forward pre-hook."""
        del module
        self._entered = args[0]

    def take(self) -> torch.Tensor:
        """Return what went in last, and keep it no longer.

        Raises:
            RuntimeError: nothing went through the block's first matrix.
        """
        entered, self._entered = self._entered, None
        if entered is None:
            raise RuntimeError("a parallel adapter's block must be run whole, but its first matrix was not.")
        return entered


class BottleneckLayer(nn.Module, BaseTunerLayer):
    """A linear module with bottleneck networks behind it or beside its block."""

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")

    def __init__(self, base_layer: nn.Module) -> None:
        """Wrap `base_layer`."""
        super().__init__()
        self.base_layer = base_layer
        self.bottleneck_down = nn.ModuleDict()
        self.bottleneck_up = nn.ModuleDict()
        self.configs: dict[str, BottleneckConfig] = {}
        self.entrance: Entrance | None = None
        self.merged_adapters: list[str] = []

    def update_layer(
        self, adapter_name: str, config: BottleneckConfig, slow: nn.ParameterDict, first: nn.Module
    ) -> None:
        """Add an adapter.

        Args:
            slow: shared matrices of Kronecker products, by adapter.
            first: the first matrix of the block that this one ends; itself where it ends none.
        """
        base = self.get_base_layer()
        width = width_of(base)
        inside = width
        if config.parallel:
            inside = width_of(first, entering=True)
            if first is not base and self.entrance is None:
                self.entrance = Entrance(first)
        weight: torch.Tensor = next(base.parameters())
        dtype = weight.dtype if weight.is_floating_point() else torch.float32  # packed weights are integers
        kind: dict[str, Any] = {"device": weight.device, "dtype": dtype}
        down: PhmLinear | nn.Linear
        up: PhmLinear | nn.Linear
        if config.division:
            down = PhmLinear(inside, config.size, slow, adapter_name, **kind)
            up = PhmLinear(config.size, width, slow, adapter_name, **kind)
            nn.init.zeros_(up.right)
        else:
            down = nn.Linear(inside, config.size, **kind)
            up = nn.Linear(config.size, width, **kind)
            if not config.parallel:  # whose W_down starts as LoRA's A does, as nn.Linear's weights do
                nn.init.normal_(down.weight, std=0.02)
            nn.init.zeros_(down.bias)
            nn.init.zeros_(up.weight)
            nn.init.zeros_(up.bias)
        self.bottleneck_down[adapter_name] = down
        self.bottleneck_up[adapter_name] = up
        self.configs[adapter_name] = config
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Map (..., in) to (..., out)."""
        entered = hidden if self.entrance is None else self.entrance.take()
        out: torch.Tensor = self.base_layer(hidden, *args, **kwargs)
        if self.disable_adapters:
            return out
        for name in self.active_adapters:
            if name in self.bottleneck_down:
                out = out + self._added(name, entered, out).to(out.dtype)
        return out

    def _added(self, name: str, entered: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        down, up, config = self.bottleneck_down[name], self.bottleneck_up[name], self.configs[name]
        read = (entered if config.parallel else out).to(next(down.parameters()).dtype)
        added: torch.Tensor = up(_ACTIVATIONS[config.activation](down(read)))
        return added if config.scale == 1 else added * config.scale

    def unload_and_optionally_merge_module(
        self, *, merge: bool, safe_merge: bool, adapter_names: list[str] | None
    ) -> nn.Module:
        """Return the matrix as it was.

        Raises:
            ValueError: the adapters are to be merged, which what is not linear cannot be.
        """
        del safe_merge, adapter_names
        if merge:
            raise ValueError("bottleneck adapters are not linear, so they cannot be merged; use unload().")
        if self.entrance is not None:
            self.entrance.handle.remove()
        return self.get_base_layer()


class BottleneckModel(BaseTuner):
    """Puts `BottleneckLayer`s into a model."""

    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLayer
    target_module_mapping: dict[str, list[str]] = {}

    def _pre_injection_hook(self, model: nn.Module, config: PeftConfig, adapter_name: str) -> None:
        del model, config, adapter_name
        self.bottleneck_slow = nn.ParameterDict()

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
        if peft_config.division and adapter_name not in self.bottleneck_slow:
            slow = slow_matrices(peft_config.division, next(target.parameters()).device)
            slow.requires_grad_(not peft_config.inference_mode)
            self.bottleneck_slow[adapter_name] = slow
        first = target
        if peft_config.parallel:
            first = self.model.get_submodule(block_entrance(self.model, current_key))
        if isinstance(target, BottleneckLayer):
            target.update_layer(adapter_name, peft_config, self.bottleneck_slow, unwrapped(first))
            return
        if not isinstance(target, nn.Linear | Conv1D):
            raise TypeError(f"a bottleneck adapter follows linear modules; {current_key} is none.")
        layer = BottleneckLayer(target)
        layer.set_adapter(self.active_adapters)
        layer.update_layer(adapter_name, peft_config, self.bottleneck_slow, unwrapped(first))
        self._replace_module(parent, target_name, layer, target)


def configure(model: PreTrainedModel, candidate: Candidate) -> BottleneckConfig:
    """Configure bottleneck adapters for a candidate."""
    names = resolve_targets(model, candidate.targets or "output+down", candidate.layers)
    knobs = candidate.knobs
    return BottleneckConfig(
        size=int(number_of(candidate, "size", least=1)),
        parallel=candidate.method == "parallel_adapter",
        scale=number_of(candidate, "scale") if "scale" in knobs else 1.0,
        division=int(number_of(candidate, "division", least=1)) if "division" in knobs else 0,
        activation="gelu" if candidate.method == "compacter" else "relu",
        target_modules=shorten(model, names),
    )


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the module that a tuner has wrapped, or the module itself."""
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module


def width_of(matrix: nn.Module, *, entering: bool = False) -> int:
    """Return how many features a linear module returns, or takes."""
    if isinstance(matrix, Conv1D):
        return int(matrix.nx if entering else matrix.nf)
    return int(matrix.in_features if entering else matrix.out_features)  # type: ignore[arg-type]
