"""torchao's int8 and float8 weight-only layers: the real ones, and a stand-in that holds fake tensors.

torchao changes a layer's weight to a tensor of its own kind, whose product is ordinary operators;
the stand-in runs the same ones, so its tape is the real one. peft wraps it like any linear layer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from autopeft.methods.quantization.schemes import Quantization


class RowwiseLinear(nn.Linear):
    """Stands for a layer whose weight is an `Int8Tensor` or a `Float8Tensor` with a scale per row."""

    scale: torch.Tensor
    bias: Any

    def __init__(self, shape: torch.Size, scheme: Quantization, stored: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = shape
        self.stored_dtype = stored
        dtype = torch.int8 if scheme.code == "int8" else torch.float8_e4m3fn
        self.weight = nn.Parameter(torch.empty(shape, dtype=dtype), requires_grad=False)
        self.register_buffer("scale", torch.empty((shape[0], 1), dtype=torch.float32))
        self.register_parameter("bias", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply with the dequantised weight, which autograd keeps for backward."""
        out = self._int8(x) if self.weight.dtype is torch.int8 else self._float8(x)
        return out.to(x.dtype)

    @property
    def W_q(self) -> torch.Tensor:  # noqa: N802 (HQQ names it so)
        """The packed weight, under the name by which peft knows to ask `dequantize` for the real one."""
        return self.weight

    def dequantize(self) -> torch.Tensor:
        """Return the weight (outputs, inputs), which DoRA takes the norm of."""
        return (self.weight.to(torch.float32) * self.scale).to(self.stored_dtype)

    def _int8(self, x: torch.Tensor) -> torch.Tensor:
        product = torch.mm(x.reshape(-1, x.shape[-1]), self.weight.t().to(x.dtype))
        product = product * self.scale.to(product.dtype).flatten()
        product = product.reshape(*x.shape[:-1], self.out_features)
        if self.bias is not None:
            product += self.bias
        return product

    def _float8(self, x: torch.Tensor) -> torch.Tensor:
        weight = (self.weight.t().to(torch.float32) * self.scale.t()).to(x.dtype)
        product = torch.matmul(x, weight)
        return product if self.bias is None else product + self.bias


def fake_linear(shape: torch.Size, scheme: Quantization, stored: torch.dtype) -> nn.Linear:
    """Make a stand-in without bias, for a matrix of `shape` (outputs, inputs) and dtype `stored`."""
    return RowwiseLinear(shape, scheme, stored)


def real_linear(weight: torch.Tensor, scheme: Quantization) -> nn.Linear:
    """Quantise a matrix (outputs, inputs) on the device it is on; the bias is left to the caller."""
    from torchao.quantization import quantize_

    outputs, inputs = weight.shape
    linear = nn.Linear(inputs, outputs, bias=False, device="meta")
    linear.weight = nn.Parameter(weight.detach(), requires_grad=False)
    quantize_(linear, config_of(scheme))
    return linear


def config_of(scheme: Quantization) -> Any:
    """Return torchao's configuration of a scheme."""
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig

    return Int8WeightOnlyConfig() if scheme.code == "int8" else Float8WeightOnlyConfig()


def state_of(module: nn.Module) -> list[torch.Tensor]:
    """Return the scales of a real or fake layer."""
    if isinstance(module, RowwiseLinear):
        return [module.scale]
    scale = getattr(getattr(module, "weight", None), "scale", None)
    return [scale] if isinstance(scale, torch.Tensor) else []
