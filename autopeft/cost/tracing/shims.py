"""Shims: what makes fake CPU tensors take the ways that real tensors take on the target device.

A fake tensor on a CUDA device needs a CUDA build of torch, so tracing always uses fake CPU tensors and
changes the few places where torch chooses by device. Everything is undone at exit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any

import torch
import torch._meta_registrations
import torch.nn.functional
import transformers.masking_utils
from torch import nn
from torch._subclasses import FakeTensor, fake_tensor

from autopeft.cost.tape import Target

_aten = torch.ops.aten
_MOST_KEPT = 1 << 20
"""Elements of the largest tensor whose values are kept where the model reads them."""


@contextmanager
def traced_as(
    target: Target,
    *,
    padded: bool,
    packed: bool = False,
    causal_padded: bool | None = None,
    reads_values: bool = False,
) -> Iterator[None]:
    """Make fake tensors behave as real ones on `target`.

    Args:
        target: the kind of device that is traced.
        padded: whether batches hold padding, so that attention gets a mask; transformers looks into
            real masks to find out, and cannot look into fake ones.
        packed: whether rows hold several documents that must not see each other.
        causal_padded: whether causal attention meets padding; None where it does as all attention does.
            Targets of encoder-decoders have none, whatever their sources have.
        reads_values: keep the values of small tensors made from lists, which the model looks into.
    """
    causal = padded if causal_padded is None else causal_padded
    with ExitStack() as stack:
        for where, name, value in _replacements(target, padded=padded, packed=packed, causal_padded=causal):
            stack.callback(setattr, where, name, getattr(where, name))
            setattr(where, name, value)
        if reads_values:
            stack.callback(setattr, fake_tensor, "CONSTANT_NUMEL_LIMIT", fake_tensor.CONSTANT_NUMEL_LIMIT)
            fake_tensor.CONSTANT_NUMEL_LIMIT = _MOST_KEPT
        yield


def _replacements(
    target: Target, *, padded: bool, packed: bool, causal_padded: bool
) -> Iterator[tuple[Any, str, Any]]:
    # By name: torch.optim hides its module of this name behind the class.
    foreach, optimizer = map(import_module, ("torch.utils._foreach_utils", "torch.optim.optimizer"))
    yield nn.Module, "_apply", _apply
    yield nn.init, "_no_grad_trunc_normal_", _as_it_is  # which draws until values suit it
    # The foreach ways ask for exact types; a fake tensor stands for a plain one.
    for module in (foreach, optimizer):
        yield module, "_foreach_supported_types", [*module._foreach_supported_types, FakeTensor]
    masks = transformers.masking_utils
    yield masks, "is_tracing", _never
    yield masks, "fast_all", _looking(masks.fast_all, finds=not causal_padded)
    yield masks, "find_packed_sequence_indices", _finding_packed(packed=packed)
    bidirectional = masks._ignore_bidirectional_mask_sdpa
    yield masks, "_ignore_bidirectional_mask_sdpa", _deciding(bidirectional, padded=padded)
    if target == "cuda":
        devices = [*foreach._get_foreach_kernels_supported_devices(), "cpu"]
        for module in (foreach, optimizer):
            yield module, "_get_foreach_kernels_supported_devices", lambda: devices
        yield torch._meta_registrations, "device_hint", _cuda
        yield nn.functional, "scaled_dot_product_attention", _attention
        yield nn.functional, "dropout", _dropout


def _apply(module: nn.Module, convert: Callable[[Any], Any], recurse: bool = True) -> nn.Module:  # noqa: FBT001, FBT002
    """Do what `nn.Module._apply` does to real parameters: keep the Parameter, exchange its data.

    torch exchanges whole fake tensors instead, which fails as soon as anything refers to them.
    """
    if recurse:
        for child in module.children():
            child._apply(convert)  # type: ignore[no-untyped-call]
    for parameter in module._parameters.values():
        if parameter is not None:
            with torch.no_grad():
                converted = convert(parameter)
            if converted is not parameter:
                parameter.data = converted
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = convert(buffer)
    return module


def _never(tensor: object = None) -> bool:
    """Say that nothing is traced: transformers would otherwise skip what it does in training."""
    del tensor
    return False


def _as_it_is(tensor: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
    """Initialise nothing: fake tensors have no values."""
    del args, kwargs
    return tensor


def _finding_packed(*, packed: bool) -> Callable[[torch.Tensor], torch.Tensor | None]:
    """Number the documents of each row by its positions, as transformers does, and find what is known."""

    def found(position_ids: torch.Tensor) -> torch.Tensor | None:
        steps = torch.diff(position_ids, prepend=position_ids[:, :1] - 1, dim=-1)
        numbers = (steps != 1).cumsum(-1)
        (numbers[:, -1] == 0).all()
        return numbers if packed else None

    return found


def _looking(look: Callable[[Any], Any], *, finds: bool) -> Callable[[torch.Tensor], bool]:
    """Look whether a mask is full as `look` does, and find what is known."""

    def looked(mask: torch.Tensor) -> bool:
        look(mask)
        return finds

    return looked


def _deciding(decide: Callable[..., bool], *, padded: bool) -> Callable[..., bool]:
    """Decide whether a bidirectional mask can be left out, which `decide` reads from the mask."""

    def decided(padding_mask: torch.Tensor | None, *args: Any, **kwargs: Any) -> bool:
        if padding_mask is None:
            return decide(None, *args, **kwargs)
        padding_mask.all()
        return not padded and decide(None, *args, **kwargs)

    return decided


def _cuda(tensor: object) -> str:
    """Name the device that a tensor stands for."""
    del tensor
    return "cuda"


def _dropout(
    input: torch.Tensor,  # noqa: A002 (torch names it so)
    p: float = 0.5,
    training: bool = True,  # noqa: FBT001, FBT002
    inplace: bool = False,  # noqa: FBT001, FBT002
) -> torch.Tensor:
    """Drop as CUDA does, with one fused kernel that saves a mask of bytes."""
    del inplace
    if not training or p == 0:
        return input
    dropped: torch.Tensor = torch.native_dropout(input, p, training)[0]
    return dropped


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,  # noqa: FBT001, FBT002
    scale: float | None = None,
    enable_gqa: bool = False,  # noqa: FBT001, FBT002
) -> torch.Tensor:
    """Attend as CUDA does: flash without a mask in half precision, else memory-efficient, else plain.

    See `aten/src/ATen/native/transformers/cuda/sdp_utils.cpp` for the conditions.
    """
    size = query.shape[-1]
    half = query.dtype in (torch.float16, torch.bfloat16)
    alike = query.dtype == key.dtype == value.dtype and value.shape[-1] == size
    if attn_mask is None and half and alike and size <= 256 and size % 8 == 0:
        flash = _aten._scaled_dot_product_flash_attention
        return flash(query, key, value, dropout_p, is_causal, False, scale=scale)[0]  # type: ignore[no-any-return]
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
    if not alike or size % (8 if half else 4) != 0:
        plain = _aten._scaled_dot_product_attention_math
        return plain(query, key, value, attn_mask, dropout_p, is_causal, scale=scale)[0]  # type: ignore[no-any-return]
    bias = None if attn_mask is None else _bias(attn_mask, query, key.shape[-2])
    trains = torch.is_grad_enabled() and any(each.requires_grad for each in (query, key, value))
    efficient = _aten._scaled_dot_product_efficient_attention
    return efficient(query, key, value, bias, trains, dropout_p, is_causal, scale=scale)[0]  # type: ignore[no-any-return]


def _bias(mask: torch.Tensor, query: torch.Tensor, keys: int) -> torch.Tensor:
    """Turn a mask into the additive bias that the efficient kernel reads, rows aligned to 8."""
    if mask.dtype is torch.bool:
        nothing = torch.zeros((), dtype=query.dtype)
        mask = torch.where(mask, nothing, torch.full((), -float("inf"), dtype=query.dtype))
    length = mask.shape[-1]
    if length % 8:
        mask = nn.functional.pad(mask, (0, 8 - length % 8))[..., :length]
    return mask.expand(*query.shape[:-1], keys)
