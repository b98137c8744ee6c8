"""Stand-ins for GPTQ, AWQ, HQQ and torchao's int4 layers: packed weights, dequantised to multiply.

Plain subclasses of `nn.Linear`, which peft wraps whether or not the packages are installed. Layout
and passes are read from the packages' sources, not measured: the schemes are marked as modelled.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import nn

from autopeft.errors import UnsupportedError
from autopeft.methods.quantization.schemes import Quantization

_WORD = 32  # bits of the integers that GPTQ and AWQ pack into


class PackedLinear(nn.Linear):
    """Stands for a layer of packed weights with a scale and a zero per group."""

    bias: Any

    def __init__(self, shape: torch.Size, scheme: Quantization, compute: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = shape
        self.code, self.compute_dtype = scheme.code, compute
        packed, statistics = _layout(shape, scheme, compute)
        self.weight = nn.Parameter(packed, requires_grad=False)
        for name, tensor in statistics.items():
            self.register_buffer(name, tensor)
        self.register_parameter("bias", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply as the package's training kernel does."""
        given = x.dtype
        if self.code == "awq":
            x = x if given in (torch.float16, torch.bfloat16) else x.to(torch.float16)
        if self.code == "gptq":
            # No function of its own: autograd keeps the dequantised weight for backward.
            out = torch.matmul(x.reshape(-1, x.shape[-1]), _dequantise(self, x.dtype).t())
            out = out.reshape(*x.shape[:-1], self.out_features)
        else:
            out = _multiply(x, self)
        if self.bias is not None:
            out = out + self.bias.to(out.dtype)
        return out.to(given)

    @property
    def W_q(self) -> torch.Tensor:  # noqa: N802 (HQQ names it so)
        """The packed weight, under the name by which peft knows to ask `dequantize` for the real one."""
        return self.weight

    def dequantize(self) -> torch.Tensor:
        """Return the weight (outputs, inputs), which DoRA takes the norm of.

        Raises:
            UnsupportedError: peft does not dequantise such layers.
        """
        if self.code != "hqq":
            raise UnsupportedError(f"peft reads no weights of {self.code} layers, which this method needs.")
        return _dequantise(self, self.compute_dtype)


def fake_linear(shape: torch.Size, scheme: Quantization, compute: torch.dtype) -> nn.Linear:
    """Make a stand-in without bias, for a matrix of `shape` (outputs, inputs)."""
    return PackedLinear(shape, scheme, compute)


def state_of(module: nn.Module) -> list[torch.Tensor]:
    """Return the scales, zeros and group indices of a stand-in."""
    return list(module.buffers(recurse=False)) if isinstance(module, PackedLinear) else []


def _layout(
    shape: torch.Size, scheme: Quantization, compute: torch.dtype
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    outputs, inputs = shape
    half = compute if compute in (torch.float16, torch.bfloat16) else torch.float16
    groups = -(-inputs // scheme.block)
    each = _WORD // scheme.bits
    zeros = torch.int32
    if scheme.code == "gptq":
        return torch.empty((-(-inputs // each), outputs), dtype=torch.int32), {
            "scales": torch.empty((groups, outputs), dtype=half),
            "zeros": torch.empty((groups, -(-outputs // each)), dtype=zeros),
            "g_idx": torch.empty(inputs, dtype=torch.int32),
        }
    if scheme.code == "awq":
        return torch.empty((inputs, -(-outputs // each)), dtype=torch.int32), {
            "scales": torch.empty((groups, outputs), dtype=half),
            "zeros": torch.empty((groups, -(-outputs // each)), dtype=zeros),
        }
    if scheme.code == "torchao":
        return torch.empty((outputs, -(-inputs // 2)), dtype=torch.uint8), {
            "scales": torch.empty((groups, outputs), dtype=half),
            "zeros": torch.empty((groups, outputs), dtype=half),
        }
    blocks = -(-prod(shape) // scheme.block)
    packed = -(-prod(shape) * scheme.bits // 8)
    return torch.empty((packed, 1), dtype=torch.uint8), {
        "scales": torch.empty((blocks, 1), dtype=compute),
        "zeros": torch.empty((blocks, 1), dtype=compute),
    }


def _dequantise(layer: PackedLinear, dtype: torch.dtype) -> torch.Tensor:
    """Allocate the weight (outputs, inputs), by HQQ in three steps, by the others in one kernel."""
    shape = (layer.out_features, layer.in_features)
    weight = torch.empty(shape, dtype=dtype)
    if layer.code == "hqq":
        return (weight - weight.new_empty(())) * weight.new_empty(())
    return weight


class _Dequantised(torch.autograd.Function):
    """Dequantises in forward and again in backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: PackedLinear) -> torch.Tensor:
        """Multiply; AWQ and HQQ keep the input, though nothing reads it again."""
        ctx.layer = layer
        if layer.code in ("awq", "hqq"):
            ctx.save_for_backward(x)
        return torch.matmul(x, _dequantise(layer, x.dtype).t())

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Return the input's gradient; AWQ repeats the weight for each row of the batch."""
        (grad,) = grads
        weight = _dequantise(ctx.layer, grad.dtype)
        if ctx.layer.code == "awq" and grad.dim() == 3:
            return grad.bmm(weight.unsqueeze(0).repeat(grad.shape[0], 1, 1)), None
        return torch.matmul(grad, weight), None


_multiply: Any = _Dequantised.apply
