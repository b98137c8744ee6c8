"""Sparse matrices by shape: fake tensors cannot be sparse, so these save and allocate what sparse ones do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class ShapedSparse:
    """A matrix of which only some entries are not zero.

    Attributes:
        indices: rows and columns, shape (2, count).
        values: shape (count,).
    """

    def __init__(self, indices: torch.Tensor, values: torch.Tensor) -> None:
        """Name the entries."""
        self.indices = indices
        self.values = values

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> torch.Tensor:
        """Be added in place to a dense tensor; nothing else is asked of it."""
        del types, kwargs
        if func not in (torch.Tensor.__iadd__, torch.Tensor.add_):
            raise NotImplementedError(f"{func.__name__} of a sparse matrix cannot be traced.")
        dense, sparse = args
        added: torch.Tensor = _AddSparse.apply(dense, sparse.values, sparse.indices)  # type: ignore[no-untyped-call]
        return added


def activate(activations: torch.Tensor, sparse: ShapedSparse) -> torch.Tensor:
    """Multiply (rows, n) by a transposed sparse (n, n): dense in half precision, else by a sparse kernel."""
    if sparse.values.numel() == 0:
        return torch.zeros_like(activations)
    if activations.dtype in (torch.float16, torch.bfloat16):
        width = activations.shape[1]
        dense: torch.Tensor = _Dense.apply(sparse.values, sparse.indices, width)  # type: ignore[no-untyped-call]
        return activations @ dense.t()
    product: torch.Tensor = _Product.apply(activations, sparse.values, sparse.indices)  # type: ignore[no-untyped-call]
    return product


class _AddSparse(torch.autograd.Function):
    """dense += sparse."""

    @staticmethod
    def forward(ctx: Any, dense: torch.Tensor, values: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Add at flat positions, as the kernel does."""
        ctx.save_for_backward(indices)
        ctx.mark_dirty(dense)
        ctx.dtype = values.dtype
        dense.view(-1).index_add_(0, _flat(indices, dense.shape[1]), values.to(dense.dtype))
        return dense

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Give the entries' gradients out of the dense one, which is cast whole."""
        (indices,) = ctx.saved_tensors
        (grad,) = grads
        cast = grad.to(ctx.dtype)
        return grad, cast.reshape(-1).index_select(0, _flat(indices, grad.shape[1])), None


class _Dense(torch.autograd.Function):
    """sparse.to_dense()."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, indices: torch.Tensor, width: int) -> torch.Tensor:
        """Write the entries into zeros."""
        ctx.save_for_backward(indices, values)
        dense = torch.zeros((width, width), dtype=values.dtype)
        dense.view(-1).index_add_(0, _flat(indices, width), values)
        return dense

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Give the entries' gradients."""
        (grad,) = grads
        indices = ctx.saved_tensors[0]
        return grad.reshape(-1).index_select(0, _flat(indices, grad.shape[1])), None, None


class _Product(torch.autograd.Function):
    """torch.sparse.mm(sparse, activations.t()).t()."""

    @staticmethod
    def forward(
        ctx: Any, activations: torch.Tensor, values: torch.Tensor, indices: torch.Tensor
    ) -> torch.Tensor:
        """Multiply without a dense matrix."""
        ctx.save_for_backward(activations, values, indices)
        return torch.empty_like(activations.t()).t()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Give the gradients of activations and entries."""
        activations, values, _ = ctx.saved_tensors
        del grads
        return torch.empty_like(activations), torch.empty_like(values), None


def _flat(indices: torch.Tensor, width: int) -> torch.Tensor:
    return indices[0] * width + indices[1]
