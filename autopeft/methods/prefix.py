"""Prefixes: trained keys and values that stand before those of the text, in any attention of transformers.

    head = softmax(q [P_k; K]^T) [P_v; V]

Source: Li and Liang 2021, arXiv:2101.00190; so written by He et al. 2022, arXiv:2110.04366, equation 6.

An attention of transformers 5 looks its kernel up by the name that its configuration has. One with a prefix
gets a copy of the configuration with a name of ours, behind which the keys and values are joined, masks and
position biases widened, and the kernel of the model's own name is called. So nothing needs a cache (as peft's
prefix tuning does, which rules out gradient checkpointing and models that see), and a cache of the text stays
as it is. A prefix has no place in the text: rotations and biases of position do not touch it.

Refused are models that attend by code of their own (Bloom, DeBERTa, Falcon, GPT-J, MPNet, MPT) and those that
make keys out of a compressed state (DeepSeek), for which no matrix is a layer's keys.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn
from torch.nn import functional
from transformers import AttentionInterface, PretrainedConfig

KERNEL = "autopeft_prefix"
_TABLE, _EAGER = "ALL_ATTENTION_FUNCTIONS", "eager_attention_forward"
_STD = 0.02


class Prefix(nn.Module):
    """Keys and values of one attention, each (tokens, width of the model's keys)."""

    def __init__(self, tokens: int, width: int, *, device: torch.device, dtype: torch.dtype) -> None:
        """Start both small."""
        super().__init__()
        self.keys = nn.Parameter(torch.empty(tokens, width, device=device, dtype=dtype))
        self.values = nn.Parameter(torch.empty(tokens, width, device=device, dtype=dtype))
        nn.init.normal_(self.keys, std=_STD)
        nn.init.normal_(self.values, std=_STD)


class Source(Protocol):
    """What knows the prefixes of an attention."""

    def prefixes(self) -> list[tuple[Prefix, torch.Tensor | None]]:
        """Return those that are active, each with a factor for every row, (rows, 1), or None."""
        ...


class _Joined(NamedTuple):
    source: Source
    config: PretrainedConfig


def join(attention: nn.Module, source: Source) -> None:
    """Let an attention attend to prefixes too; `part` undoes it.

    Raises:
        TypeError: it does not look its kernel up, so there is no place for a prefix.
    """
    names = _forward(attention).__code__.co_names
    if _TABLE not in names:
        raise TypeError(f"a prefix cannot enter the attention of a {type(attention).__name__}.")
    AttentionInterface.register(KERNEL, _attend)
    whole: Any = attention.config
    own = copy.copy(whole)
    own._attn_implementation_internal = KERNEL  # the property would rename the parts' kernels too
    attention._joined = _Joined(source, whole)  # type: ignore[assignment]
    attention.config = own


def part(attention: nn.Module) -> None:
    """Give an attention its own configuration back."""
    joined: Any = attention._joined
    attention.config = joined.config
    del attention._joined


def _attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> Any:
    """Attend to the prefixes and the text; key and value are (rows, heads, length, width of a head)."""
    joined: Any = module._joined
    name = joined.config._attn_implementation
    scope = _forward(module).__globals__
    kernel = scope[_TABLE].get_interface(name, scope.get(_EAGER))
    prefixes = joined.source.prefixes()
    tokens = sum(len(prefix.keys) for prefix, _ in prefixes)
    if tokens:
        attention_mask = _widened(attention_mask, module, query, key, tokens, kwargs, name)
        bias = kwargs.get("position_bias")
        if bias is not None:
            kwargs["position_bias"] = functional.pad(bias, (tokens, 0))
        key = torch.cat([*(_shaped(each.keys, rows, key) for each, rows in prefixes), key], dim=2)
        value = torch.cat([*(_shaped(each.values, rows, value) for each, rows in prefixes), value], dim=2)
    return kernel(module, query, key, value, attention_mask, **kwargs)


def _shaped(prefix: torch.Tensor, factors: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
    """Return a prefix for every row: (rows, heads, tokens, width of a head)."""
    rows, heads, _, width = like.shape
    heads_first = prefix.view(1, len(prefix), heads, width).transpose(1, 2)
    if factors is not None:
        heads_first = heads_first * factors.view(rows, 1, 1, 1)
    return heads_first.to(like.dtype).expand(rows, -1, -1, -1)


def _widened(
    mask: torch.Tensor | None,
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    tokens: int,
    kwargs: dict[str, Any],
    kernel: str,
) -> torch.Tensor | None:
    """Return the mask in which every place sees the prefix; made where a kernel would be told "causal"."""
    if mask is None:
        causal = kwargs.get("is_causal")
        causal = getattr(module, "is_causal", True) if causal is None else causal
        asked, known = query.shape[2], key.shape[2]
        if kernel != "sdpa" or not causal or asked == 1:
            return None
        mask = torch.ones(asked, known, dtype=torch.bool, device=query.device).tril(known - asked)[None, None]
    return functional.pad(mask, (tokens, 0), value=0.0 if mask.is_floating_point() else 1.0)


def _forward(attention: nn.Module) -> Any:
    """Return the function that an attention's class wrote, without its decorators."""
    written: Callable[..., Any] = inspect.unwrap(type(attention).forward)
    return written
