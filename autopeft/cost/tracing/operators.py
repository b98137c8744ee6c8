"""What one operator costs: floating-point operations, bytes touched, and whether it runs at all."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from autopeft.cost.tape import Kind

_aten = torch.ops.aten

_LIBRARIES = ("aten::", "bitsandbytes::", "autopeft::")
# These return without starting a kernel, though their schema does not say so.
_FREE = frozenset(
    (
        "aten::_unsafe_view",
        "aten::lift_fresh",
        "aten::_local_scalar_dense",
        "aten::is_same_size",
        "aten::set_",
        "aten::sym_size",
        "aten::empty",
        "aten::empty_like",
        "aten::empty_strided",
        "aten::new_empty",
        "aten::new_empty_strided",
    )
)
# These read only as many rows of their first argument as they return.
_GATHERS = frozenset(
    (
        "aten::embedding",
        "aten::index",
        "aten::index_select",
        "aten::gather",
        "aten::nll_loss_forward",
        "aten::slice_scatter",
    )
)


def tensors_in(values: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors of an operator's arguments or results: items of lists, parts of sparse ones."""
    if isinstance(values, torch.Tensor):
        if values.layout is torch.sparse_coo:
            yield from (values._indices(), values._values())
        else:
            yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from tensors_in(value)
    elif isinstance(values, dict):
        yield from tensors_in(list(values.values()))


@cache
def runs(func: torch._ops.OpOverload) -> bool:
    """Say whether an operator does work, other than making a view or reading a header."""
    schema = func._schema
    views = any(out.alias_info is not None and not out.alias_info.is_write for out in schema.returns)
    return not views and schema.name not in _FREE and schema.name.startswith(_LIBRARIES)


@cache
def kind_of(func: torch._ops.OpOverload) -> Kind:
    """Name the unit or library that an operator uses."""
    name = func._schema.name.partition("::")[2]
    if "attention" in name:
        return Kind.ATTENTION
    if name.startswith("linalg_") or "_linalg" in name:
        return Kind.LINALG
    if "_fft" in name:
        return Kind.FFT
    return Kind.MATMUL if func._overloadpacket in flop_registry else Kind.PLAIN


def flops_of(func: torch._ops.OpOverload, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> float:
    """Count the floating-point operations that count: matrix products, convolutions, attention."""
    packet = func._overloadpacket
    if packet in flop_registry:
        return float(flop_registry[packet](*args, **kwargs, out_val=out))
    if packet is _aten._scaled_dot_product_flash_attention_for_cpu:
        shapes = [tensor.shape for tensor in args[:3]]
        return float(sdpa_flop_count(*shapes))  # type: ignore[no-untyped-call]
    if packet is _aten._scaled_dot_product_flash_attention_for_cpu_backward:
        shapes = [tensor.shape for tensor in args[:4]]
        return float(sdpa_backward_flop_count(*shapes))  # type: ignore[no-untyped-call]
    return 0.0


def bytes_of(func: torch._ops.OpOverload, args: Any, kwargs: dict[str, Any], out: Any) -> float:
    """Count the bytes an operator reads and writes; an expanded tensor counts as what it is made of."""
    written = sum(map(_extent, tensors_in(out)))
    if func._schema.name in _GATHERS:
        return 2.0 * written
    read = sum(map(_extent, tensors_in(args))) + sum(map(_extent, tensors_in(kwargs)))
    return float(read + written)


def dtype_of(args: Any, out: Any) -> str:
    """Name the dtype an operator computes in: that of its first floating-point tensor."""
    first = ""
    for tensor in tensors_in([args, out]):
        name = str(tensor.dtype).removeprefix("torch.")
        if tensor.dtype.is_floating_point:
            return name
        first = first or name
    return first or "none"


def _extent(tensor: torch.Tensor) -> int:
    """Return the bytes of the distinct elements of a tensor."""
    distinct = math.prod(n for n, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride != 0)
    return distinct * tensor.element_size()
