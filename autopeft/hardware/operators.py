"""How long operators take on a device by their FLOPs and bytes: the table of a measured profile."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from autopeft.hardware.profile import OperatorSpeed
from autopeft.hardware.timing import Call, Reading, fitting, layer_bytes, time_all

# Bytes that an operator moves: within a core's cache, within all caches, far beyond them.
_CPU_BYTES = (2**14, 2**18, 2**21, 2**25)
_CUDA_BYTES = (2**20, 2**24, 2**26, 2**28)
# Tokens, input and output features: linear layers of models that people train on a CPU and on a GPU, the
# products of low-rank updates, and a head over a vocabulary.
_CPU_LAYERS = tuple(
    (tokens, k, n)
    for tokens in (64, 256, 1024)
    for k, n in ((576, 8), (8, 576), (1536, 32), (384, 384), (384, 1536), (1536, 576), (768, 3072))
)
_CUDA_LAYERS = tuple(
    (tokens, k, n)
    for tokens in (512, 2048, 8192)
    for k, n in ((2048, 2048), (4096, 4096), (4096, 11008), (4096, 8), (8, 4096), (4096, 64))
)
# Rows, heads, tokens, features of a head.
_CPU_ATTENTIONS = ((2, 12, 64, 32), (8, 12, 64, 32), (8, 12, 256, 32), (4, 9, 128, 64), (2, 9, 512, 64))
_CUDA_ATTENTIONS = ((4, 32, 256, 128), (4, 32, 1024, 128), (1, 32, 4096, 128), (8, 16, 512, 64))


class Sized(NamedTuple):
    """A call with what it computes and moves."""

    call: Call
    flops: float
    moved: float


class Measured(NamedTuple):
    """Calls with the seconds they took."""

    calls: Sequence[Sized]
    readings: Sequence[Reading]

    @property
    def spread(self) -> float:
        """The median spread, which one disturbed call does not decide."""
        return float(np.median([reading.spread for reading in self.readings]))


def pointwise_table(device: torch.device, seconds: float, most_bytes: int) -> dict[str, Measured]:
    """Measure operators that move bytes, each at several sizes."""
    smallest, *larger = _CUDA_BYTES if device.type == "cuda" else _CPU_BYTES
    sizes = [smallest, *(size for size in larger if size <= most_bytes)]
    kinds = _movers(device)
    found: dict[str, Measured] = {}
    for name, make in kinds.items():
        made = [make(size) for size in sizes]
        readings = time_all([each.call for each in made], seconds / len(kinds), device)
        found[name] = Measured(made, readings)
    return found


def matmul_table(device: torch.device, dtype: torch.dtype, seconds: float, most_bytes: int) -> Measured:
    """Measure products of linear layers: forward, and of the gradients of their input and weight."""
    layers = fitting(_CUDA_LAYERS if device.type == "cuda" else _CPU_LAYERS, layer_bytes, most_bytes)
    made = [one for index, layer in enumerate(layers) for one in _products(device, dtype, layer, index)]
    made.sort(key=lambda one: one.flops)
    with torch.no_grad():
        return Measured(made, time_all([each.call for each in made], seconds, device))


def attention_tables(
    device: torch.device, dtype: torch.dtype, seconds: float, most_bytes: int
) -> tuple[Measured, Measured]:
    """Measure fused attention forward, and backward."""
    usual = _CUDA_ATTENTIONS if device.type == "cuda" else _CPU_ATTENTIONS
    shapes = fitting(usual, _attention_bytes, most_bytes)
    forward, backward = [], []
    for shape in shapes:
        rows, heads, tokens, size = shape
        flops = 4.0 * rows * heads * tokens * tokens * size
        query, key, value = (torch.rand(shape, device=device, dtype=dtype) for _ in range(3))
        moved = 4.0 * query.numel() * query.element_size()
        forward.append(Sized(_attending(query, key, value), flops, moved))
        backward.append(Sized(_attending_back(query, key, value), 2.5 * flops, 2 * moved))
    ahead = time_all([each.call for each in forward], seconds / 3, device)
    both = time_all([each.call for each in backward], seconds * 2 / 3, device)
    # What backward takes is what both take less forward with a graph, which takes as long as without.
    back = [
        Reading(max(two.value - one.value, one.value), two.spread)
        for one, two in zip(ahead, both, strict=False)
    ]
    return Measured(forward, ahead), Measured(backward, back)


def moving_speed(measured: Measured, floor: float) -> OperatorSpeed:
    """Fit seconds that grow with bytes: at one rate within the caches, at another beyond them.

    Args:
        measured: one operator at rising sizes.
        floor: seconds of the smallest operator there is, which are the host's.
    """
    seconds = np.array([reading.value for reading in measured.readings])
    moved = np.array([each.moved for each in measured.calls])[: len(seconds)]
    if len(moved) < 2:
        return OperatorSpeed(bytes_per_second=float(moved[0] / max(seconds[0] - floor, 1e-9)))
    least = 1e-13  # no memory moves faster than 10 TB/s
    slopes = np.maximum(np.diff(seconds) / np.diff(moved), least)
    fixed = max(float(seconds[0] - moved[0] * slopes[0] - floor), 0.0)
    if len(moved) < 4:
        return OperatorSpeed(seconds=fixed, bytes_per_second=float(1 / slopes[-1]))
    inside = max(float((seconds[2] - floor - fixed) / moved[2]), least)
    return OperatorSpeed(
        seconds=fixed,
        cache_bytes=float(moved[2]),
        cached_bytes_per_second=1 / inside,
        bytes_per_second=float(1 / slopes[-1]),
    )


def computing_speed(measured: Measured, floor: float) -> OperatorSpeed:
    """Fit seconds = fixed + FLOPs / speed + bytes / speed with the least relative error, none negative."""
    from scipy.optimize import nnls

    seconds = np.array([reading.value for reading in measured.readings])
    table = np.array([(1.0, each.flops, each.moved) for each in measured.calls])[: len(seconds)]
    scale = table.max(axis=0)
    found, _ = nnls(table / scale / seconds[:, None], np.maximum(seconds - floor, seconds / 10) / seconds)
    fixed, per_flop, per_byte = (float(each) for each in found / scale)
    return OperatorSpeed(
        seconds=fixed,
        flops_per_second=1 / per_flop if per_flop > 0 else None,
        bytes_per_second=1 / per_byte if per_byte > 0 else None,
        adds=True,
    )


def _attention_bytes(shape: tuple[int, int, int, int]) -> float:
    """Return the bytes of an attention in fp32: query, key, value, output and the gradients of all."""
    return 32.0 * math.prod(shape)


def _products(
    device: torch.device, dtype: torch.dtype, layer: tuple[int, int, int], index: int
) -> list[Sized]:
    """Return a layer's forward product and one of its two backward products, in turn."""
    tokens, k, n = layer
    rows = torch.rand(tokens, k, device=device).to(dtype)
    weight = torch.rand(n, k, device=device).to(dtype)
    gradient = torch.rand(tokens, n, device=device).to(dtype)
    flops = 2.0 * tokens * k * n
    moved = float(sum(each.numel() * each.element_size() for each in (rows, weight, gradient)))
    back: Call = (lambda: gradient @ weight) if index % 2 else (lambda: gradient.T @ rows)
    return [Sized(lambda: rows @ weight.T, flops, moved), Sized(back, flops, moved)]


def _attending(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> Call:
    def call() -> object:
        with torch.no_grad():
            return functional.scaled_dot_product_attention(query, key, value)

    return call


def _attending_back(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> Call:
    leaves = [each.detach().requires_grad_() for each in (query, key, value)]
    out = torch.rand_like(query)

    def call() -> object:
        query, key, value = leaves
        attended = functional.scaled_dot_product_attention(query, key, value)
        return torch.autograd.grad(attended, leaves, out)

    return call


def dequantising(device: torch.device) -> Sized | None:
    """Return the unpacking of a 4-bit layer; None where bitsandbytes is not installed or has no kernel."""
    if importlib.util.find_spec("bitsandbytes") is None:
        return None
    from bitsandbytes import functional as bnb

    try:
        packed, state = bnb.quantize_4bit(torch.rand(1024, 1024, device=device), quant_type="nf4")
    except (RuntimeError, NotImplementedError):
        return None
    return Sized(lambda: bnb.dequantize_4bit(packed, state), 0.0, 1024 * 1024 * (4 + 0.5 + 4 / 64))


Make = Callable[[int], Sized]


def _movers(device: torch.device) -> dict[str, Make]:
    """Return operators by the name of their sort or of themselves, each for so many bytes moved."""
    aten = torch.ops.aten

    def rows(count: int) -> torch.Tensor:
        """A matrix of about so many fp32 numbers with 384 columns, as activations have."""
        return torch.rand(max(count // 384, 1), 384, device=device)

    def unary(function: Callable[[torch.Tensor], object], writes: float = 1.0) -> Make:
        def make(size: int) -> Sized:
            values = rows(int(size / 4 / (1 + writes)))
            return Sized(lambda: function(values), 0.0, 4.0 * values.numel() * (1 + writes))

        return make

    def binary(function: Callable[[torch.Tensor, torch.Tensor], object]) -> Make:
        def make(size: int) -> Sized:
            one = rows(size // 12)
            other = torch.rand_like(one)
            return Sized(lambda: function(one, other), 0.0, 12.0 * one.numel())

        return make

    def norm(size: int) -> Sized:
        values, weight = rows(size // 8), torch.ones(384, device=device)
        return Sized(
            lambda: aten.native_layer_norm(values, [384], weight, weight, 1e-5), 0.0, 8.0 * values.numel()
        )

    def norm_back(size: int) -> Sized:
        values, weight = rows(size // 12), torch.ones(384, device=device)
        _, mean, rstd = aten.native_layer_norm(values, [384], weight, weight, 1e-5)
        mask = [True, False, False]
        return Sized(
            lambda: aten.native_layer_norm_backward(values, values, [384], mean, rstd, weight, weight, mask),
            0.0,
            8.0 * values.numel(),
        )

    def gather(size: int) -> Sized:
        table = torch.rand(30_000, 384, device=device)
        places = torch.randint(0, 30_000, (max(size // 8 // 384, 1),), device=device)
        return Sized(lambda: functional.embedding(places, table), 0.0, 8.0 * places.numel() * 384)

    return {
        "pointwise": binary(torch.add),
        "aten::mul": binary(torch.mul),
        "aten::clone": unary(lambda x: x.clone()),
        "aten::_to_copy": unary(lambda x: x.to(torch.bfloat16), writes=0.5),
        "aten::cat": unary(lambda x: torch.cat((x, x), dim=-1), writes=2.0),
        "aten::neg": unary(torch.neg),
        "aten::pow": unary(lambda x: x.pow(2)),
        "function": unary(torch.exp),
        "aten::gelu": unary(functional.gelu),
        "aten::gelu_backward": binary(aten.gelu_backward),
        "aten::silu": unary(functional.silu),
        "aten::silu_backward": binary(aten.silu_backward),
        "aten::tanh": unary(torch.tanh),
        "aten::_softmax": unary(lambda x: torch.softmax(x, -1)),
        "aten::_log_softmax": unary(lambda x: torch.log_softmax(x, -1)),
        "aten::native_layer_norm": norm,
        "aten::native_layer_norm_backward": norm_back,
        "aten::native_dropout": unary(lambda x: aten.native_dropout(x, 0.1, True), writes=1.25),
        "aten::bernoulli_": unary(lambda x: x.bernoulli_(0.9), writes=0.0),
        "reduction": unary(lambda x: x.sum(-1), writes=0.0),
        "aten::mean": unary(lambda x: x.mean(-1), writes=0.0),
        "gather": gather,
        "optimizer": binary(lambda one, other: torch._foreach_add([one], [other])),
    }
