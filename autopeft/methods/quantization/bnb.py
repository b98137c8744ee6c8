"""bitsandbytes' linear layers: the real ones, and stand-ins that hold fake tensors.

A stand-in is an instance of the real class, so that peft wraps it in the same adapter layer. Its
forward allocates what the CUDA kernels of bitsandbytes 0.50 allocate, which the registered fake
operators hide; its backward is bitsandbytes' own.
"""

from __future__ import annotations

import copy
from math import prod
from typing import Any

import torch
from bitsandbytes import functional
from bitsandbytes.autograd._functions import MatMul4Bit, MatMul8bitLt, MatmulLtState
from bitsandbytes.nn import modules
from torch import nn
from torch._subclasses import FakeTensor

from autopeft.methods.quantization.schemes import OUTLIER_THRESHOLD, Quantization

_NN: Any = modules
_QuantState: Any = functional.QuantState
_NESTED_BLOCK = 256
# What bitsandbytes' parameters carry besides their data.
_STATE = frozenset(
    ("blocksize", "quant_type", "compress_statistics", "quant_storage", "quant_state", "bnb_quantized")
) | {"CB", "SCB", "has_fp16_weights"}


class _FakeParameter(FakeTensor):
    """A fake weight that keeps its class and attributes when a layer is copied, as DoRA does."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = _parameter(self.detach().clone(), type(self))
        memo[id(self)] = copied
        for name in _STATE & vars(self).keys():
            setattr(copied, name, copy.deepcopy(getattr(self, name), memo))
        return copied


class Params4bit(_FakeParameter):
    """A fake packed weight; peft tells bitsandbytes' parameters by the name of their class."""


class Int8Params(_FakeParameter):
    """A fake int8 weight."""


class Linear4bit(modules.Linear4bit):
    """Stands for a 4-bit layer on CUDA."""

    weight: Any
    bias: Any

    def __init__(
        self, shape: torch.Size, scheme: Quantization, stored: torch.dtype, compute: torch.dtype
    ) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = shape
        self.compute_dtype, self.compute_type_is_set = compute, True
        self.quant_storage = torch.uint8
        self.support_avx512bf16_for_cpu = False
        self.quant_state = _quant_state(shape, scheme, stored)
        packed = torch.empty(((prod(shape) + 1) // 2, 1), dtype=torch.uint8)
        self.weight = _parameter(packed, Params4bit)
        self.weight.blocksize = scheme.block
        self.weight.quant_type = scheme.code
        self.weight.compress_statistics = scheme.nested
        self.weight.quant_storage = torch.uint8
        self.weight.quant_state = self.quant_state
        self.weight.bnb_quantized = True
        self.register_parameter("bias", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Do what the real layer does: compute in its dtype, return the input's."""
        given = x.dtype
        x = x.to(self.compute_dtype)
        bias = self.bias
        if bias is not None:
            if bias.dtype != x.dtype:
                bias.data = bias.data.to(x.dtype)
            bias = bias.to(self.compute_dtype)
        out: torch.Tensor = _apply(_Matmul4bit)(x, self.weight.view(-1, 1), None, bias, self.quant_state)
        return out.to(given)


class Linear8bitLt(modules.Linear8bitLt):
    """Stands for an LLM.int8() layer on CUDA."""

    weight: Any
    bias: Any
    state: Any

    def __init__(self, shape: torch.Size) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = shape
        self.index = None
        self.weight = _parameter(torch.empty(shape, dtype=torch.int8), Int8Params)
        self.weight.CB, self.weight.SCB, self.weight.has_fp16_weights = None, None, False
        self.state = MatmulLtState()
        self.state.threshold, self.state.has_fp16_weights = OUTLIER_THRESHOLD, False
        self.state.CB = self.weight.data
        self.state.SCB = torch.empty(shape[0], dtype=torch.float32)
        self.register_parameter("bias", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Do what the real layer does on CUDA."""
        self.state.is_training = self.training
        if self.bias is not None and self.bias.dtype != x.dtype:
            self.bias.data = self.bias.data.to(x.dtype)
        out: torch.Tensor = _apply(_Matmul8bit)(x, self.weight, None, self.bias, self.state)
        return out


def fake_linear(
    shape: torch.Size, scheme: Quantization, stored: torch.dtype, compute: torch.dtype
) -> nn.Linear:
    """Make a stand-in without bias, for a matrix of `shape` (outputs, inputs).

    Args:
        stored: dtype of the weights before they are quantised, which the backward pass returns to.
        compute: dtype of the matrix product.
    """
    return Linear4bit(shape, scheme, stored, compute) if scheme.kind == "4bit" else Linear8bitLt(shape)


def real_linear(weight: torch.Tensor, scheme: Quantization, compute: torch.dtype) -> Any:
    """Quantise a matrix (outputs, inputs) on the device it is on; the bias is left to the caller."""
    outputs, inputs = weight.shape
    if scheme.kind == "4bit":
        four = _NN.Linear4bit(
            inputs,
            outputs,
            bias=False,
            compute_dtype=compute,
            compress_statistics=scheme.nested,
            quant_type=scheme.code,
            device="meta",
        )
        four.weight = _NN.Params4bit(
            weight.contiguous(),
            requires_grad=False,
            compress_statistics=scheme.nested,
            quant_type=scheme.code,
            module=four,
        ).to(weight.device)
        return four
    eight = _NN.Linear8bitLt(
        inputs, outputs, bias=False, has_fp16_weights=False, threshold=OUTLIER_THRESHOLD, device="meta"
    )
    # Int8Params quantises on its way from the host to a device, even if that is the host.
    eight.weight = _NN.Int8Params(weight.contiguous().cpu(), requires_grad=False).to(weight.device)
    return eight


def state_of(module: Any) -> list[torch.Tensor]:
    """Return the statistics of a real or fake layer, which are neither parameters nor buffers."""
    if isinstance(module, _NN.Linear8bitLt):
        scale = module.state.SCB if module.state.SCB is not None else module.weight.SCB
        return [] if scale is None else [scale]
    if isinstance(module, _NN.Linear4bit):
        state = module.weight.quant_state
        tensors = [state.absmax, state.code]
        if state.nested:
            tensors += [state.offset, state.state2.absmax, state.state2.code]
        return tensors
    return []


def _apply(function: Any) -> Any:
    return function.apply


def _parameter(data: torch.Tensor, named: type[FakeTensor]) -> Any:
    parameter: Any = nn.Parameter(data, requires_grad=False)
    parameter.__class__ = named
    return parameter


def _quant_state(shape: torch.Size, scheme: Quantization, stored: torch.dtype) -> Any:
    blocks = -(-prod(shape) // scheme.block)
    state = _QuantState(
        absmax=torch.empty(blocks, dtype=torch.uint8 if scheme.nested else torch.float32),
        shape=shape,
        code=torch.empty(16, dtype=torch.float32),
        blocksize=scheme.block,
        quant_type=scheme.code,
        dtype=stored,
    )
    if scheme.nested:
        state.nested = True
        state.offset = torch.empty((), dtype=torch.float32)
        state.state2 = _QuantState(
            absmax=torch.empty(-(-blocks // _NESTED_BLOCK), dtype=torch.float32),
            code=torch.empty(256, dtype=torch.float32),
            blocksize=_NESTED_BLOCK,
            dtype=torch.float32,
        )
    return state


class _Matmul4bit(MatMul4Bit):
    """Multiplies as `_dequant_linear_fallback` of bitsandbytes' CUDA backend does.

    A fused kernel that never holds the dequantised matrix serves short inputs (at most 4 to 1536
    tokens, by architecture and shape). It is left out: backward dequantises at any length.
    """

    @staticmethod
    def forward(
        ctx: Any,
        A: torch.Tensor,  # noqa: N803 (bitsandbytes names it so)
        B: torch.Tensor,  # noqa: N803
        out: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
        quant_state: Any = None,
    ) -> torch.Tensor:
        """Return the product, and save for backward what `MatMul4Bit` saves."""
        del out
        state = quant_state
        ctx.is_empty, ctx.state = False, state
        ctx.dtype_A, ctx.dtype_B, ctx.dtype_bias = A.dtype, B.dtype, None if bias is None else bias.dtype
        ctx.tensors = (None, B) if any(ctx.needs_input_grad[:2]) else (None, None)
        absmax = state.absmax
        if state.nested:
            ops = torch.ops.bitsandbytes
            second = state.state2
            scales = ops.dequantize_blockwise(
                absmax, second.absmax, second.code, second.blocksize, torch.float32
            )
            absmax = scales + state.offset
        weight = torch.ops.bitsandbytes.dequantize_4bit(
            B, absmax, state.blocksize, state.quant_type, state.shape, A.dtype
        )
        return nn.functional.linear(A, weight, bias)


class _Matmul8bit(MatMul8bitLt):
    """Multiplies as `MatMul8bitLt.forward` and the CUDA backend do, with no outlier found.

    How many columns hold outliers depends on the data; each costs a 16-bit column of the input, kept
    for backward: a few in a thousand of what is there anyway.
    """

    @staticmethod
    def forward(
        ctx: Any,
        A: torch.Tensor,  # noqa: N803 (bitsandbytes names it so)
        B: torch.Tensor,  # noqa: N803
        out: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
        state: Any = None,
    ) -> torch.Tensor:
        """Return the product, and keep for backward what `MatMul8bitLt` keeps."""
        del B, out
        ctx.is_empty, ctx.state = False, state
        ctx.grad_shape, ctx.dtype_A = A.shape, A.dtype
        ctx.dtype_bias = None if bias is None else bias.dtype
        if A.dim() == 3:
            A = A.reshape(-1, A.shape[-1])  # noqa: N806
        quantised, row_scale = _quantise_rows(A.to(torch.float16))
        product = _scaled_product(quantised, row_scale, state, bias, A.dtype)
        if any(ctx.needs_input_grad[:2]):
            # As attributes, as bitsandbytes does: they live as long as the loss.
            ctx.tensors, ctx.tensor_states = (None, A.new_empty(0), A), (None, None)
        else:
            ctx.tensors, ctx.tensor_states = [None, None, None], (None, None)
        return product.reshape(*ctx.grad_shape[:-1], product.shape[-1])


def _quantise_rows(half: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Allocate what `int8_vectorwise_quant` does on CUDA."""
    scale = torch.empty(half.shape[0], dtype=torch.float32)
    quantised = torch.empty(half.shape, dtype=torch.int8)
    outliers = half.abs() >= OUTLIER_THRESHOLD
    outliers.any()
    del outliers
    return quantised, scale


def _scaled_product(
    quantised: torch.Tensor,
    row_scale: torch.Tensor,
    state: Any,
    bias: torch.Tensor | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Allocate what `int8_scaled_mm` does on CUDA: int32, then fp16, then the input's dtype."""
    ops = torch.ops.bitsandbytes
    exact = ops.int8_linear_matmul(quantised, state.CB)
    half: torch.Tensor = ops.int8_mm_dequant(exact, row_scale, state.SCB, dtype=torch.float16)
    if bias is not None and bias.dtype is not torch.float16:
        half.add_(bias)
    return half.to(dtype)
