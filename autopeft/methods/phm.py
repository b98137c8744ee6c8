"""Parameterised hypercomplex multiplication with rank-one factors: the matrices of Compacter."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class PhmLinear(nn.Module):
    """A linear layer whose matrix is a sum of Kronecker products: W = sum_i A_i x (s_i t_i^T).

    Source: Karimi Mahabadi et al. 2021, arXiv:2106.04647, equations 4 and 5. The n "slow" matrices A_i,
    (n, n, n) together, are shared by all layers of an adapter; s_i and t_i are this layer's own. A matrix
    of k x d so takes k + d parameters, whatever n is. At the start W has the variance 1 / d.

    Args:
        inside: width d of the input.
        outside: width k of the output.
        slow: the shared matrices, by adapter.
        adapter: whose matrices these are.

    Raises:
        ValueError: n does not divide a width.
    """

    def __init__(
        self,
        inside: int,
        outside: int,
        slow: nn.ParameterDict,
        adapter: str,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """Make s and t (normal) and a bias (zero)."""
        super().__init__()
        count = len(slow[adapter])
        if inside % count or outside % count:
            raise ValueError(
                f"division must divide the widths of the adapter's matrices, but got division={count}, "
                f"widths {inside} and {outside}."
            )
        self.left = nn.Parameter(torch.empty(count, outside // count, device=device, dtype=dtype))
        self.right = nn.Parameter(torch.empty(count, inside // count, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(outside, device=device, dtype=dtype))
        nn.init.normal_(self.left)
        nn.init.normal_(self.right, std=inside**-0.5)
        self._slow = slow, adapter  # in a tuple, so that the shared matrices are not this layer's

    def weight(self) -> torch.Tensor:
        """Return the matrix, (k, d)."""
        slow, adapter = self._slow
        fast = self.left.unsqueeze(2) * self.right.unsqueeze(1)
        blocks = torch.einsum("iab,ikl->akbl", slow[adapter].to(fast.dtype), fast)
        count, rows, _, columns = blocks.shape
        return blocks.reshape(count * rows, count * columns)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map (..., d) to (..., k)."""
        return functional.linear(hidden, self.weight(), self.bias)


def slow_matrices(count: int, device: torch.device) -> nn.Parameter:
    """Make the n shared matrices, (n, n, n), so scaled that a sum over them keeps the variance."""
    made = torch.empty(count, count, count, device=device)
    return nn.Parameter(nn.init.normal_(made, std=count**-0.5))
