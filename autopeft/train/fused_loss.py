"""Linear layer and cross entropy in one: the logits are never held, neither is anything of them saved.

After Liger Kernel (Hsu et al. 2024, arXiv:2410.10989, `ops/fused_linear_cross_entropy.py`): forward
goes through chunks of tokens and turns each chunk's logits into their gradient in place, so that it
ends with the gradients of the hidden states and of the head; backward only scales them.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from autopeft.workload.tokens import IGNORED

# Values of one slice in fp32: 16 MiB beside the chunk, where Liger's kernel has registers.
_SLICE_VALUES = 1 << 22

Finish = tuple[float, bool, float]


def fused_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    labels: torch.Tensor,
    finish: Finish = (1.0, False, 1.0),
) -> torch.Tensor:
    """Return the mean cross entropy of `hidden @ weight.T + bias`, shape ().

    Args:
        hidden: (tokens, width).
        weight: (vocabulary, width).
        labels: (tokens,); -100 is left out.
        finish: what is done to the logits, see `Logits` (before, bent, after).
    """
    loss: torch.Tensor = _Fused.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, labels, finish
    )
    return loss


def chunk_rows(tokens: int, width: int, vocabulary: int) -> int:
    """Return how many tokens a chunk has: as many as let its logits be about as large as `hidden`."""
    parts = -(-vocabulary // width)
    rows = -(-tokens // parts)
    return int(1 << (rows - 1).bit_length())


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        finish: Finish,
    ) -> torch.Tensor:
        """Go through the chunks; see the file's docstring."""
        for_hidden, for_weight, for_bias = (
            torch.zeros_like(each) if each is not None and needed else None
            for each, needed in zip((hidden, weight, bias), ctx.needs_input_grad[:3], strict=True)
        )
        device = hidden.device.type
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            hidden, weight = hidden.to(dtype), weight.to(dtype)
            bias = None if bias is None else bias.to(dtype)
        count = (labels != IGNORED).sum()
        scale = 1.0 / count.clamp(min=1).float()
        losses = torch.empty(len(labels), dtype=torch.float32, device=hidden.device)
        size = chunk_rows(len(labels), weight.shape[1], weight.shape[0])
        with torch.autocast(device, enabled=False):
            for start in range(0, len(labels), size):
                part = slice(start, start + size)
                # The chunk before lives until this one is made, in Liger too.
                logits = hidden[part] @ weight.T
                if bias is not None:
                    logits += bias
                losses[part] = _operator()(logits, labels[part], scale, *finish)
                if for_hidden is not None:
                    for_hidden[part] = logits @ weight
                if for_weight is not None:
                    _add_product(for_weight, logits.T, hidden[part])
                if for_bias is not None:
                    for_bias += logits.sum(0)
        ctx.save_for_backward(for_hidden, for_weight, for_bias)
        return losses.sum() / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Scale what forward found, in place."""
        found = [None if each is None else each.mul_(gradient) for each in ctx.saved_tensors]
        return (*found, None, None)


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


_SCHEMA = "(Tensor(a!) logits, Tensor labels, Tensor scale, float before, bool bent, float after) -> Tensor"


@cache
def _operator() -> Any:
    """Make the operator of one chunk; one for the tape too, as Liger's is one kernel."""
    operator = torch.library.custom_op(
        "autopeft::cross_entropy_",
        _turn_into_gradient,
        mutates_args=("logits",),
        schema=_SCHEMA,
    )
    operator.register_fake(_losses_of)
    return operator


def _losses_of(logits: torch.Tensor, *rest: object) -> torch.Tensor:
    del rest
    return torch.empty(len(logits), dtype=torch.float32, device=logits.device)


def _turn_into_gradient(
    logits: torch.Tensor,
    labels: torch.Tensor,
    scale: torch.Tensor,
    before: float,
    bent: bool,  # noqa: FBT001 (an operator's arguments have places)
    after: float,
) -> torch.Tensor:
    """Return the cross entropy of each row, (rows,), and leave its gradient times `scale` in `logits`."""
    losses = _losses_of(logits)
    size = max(1, _SLICE_VALUES // logits.shape[1])
    for start in range(0, len(labels), size):
        part = slice(start, start + size)
        used = labels[part] != IGNORED
        wanted = labels[part].clamp(min=0).unsqueeze(1)
        values = logits[part].float()
        # d finished / d logit is after, or after * before * (1 - tanh^2) where the logits are bent.
        slope: torch.Tensor | float = after
        if bent:
            values = values.mul_(before).tanh_()
            slope = (1 - values * values).mul_(before * after)
        values = values.mul_(after)
        top = values.amax(1, keepdim=True)
        target = values.gather(1, wanted) - top
        values = values.sub_(top).exp_()
        total = values.sum(1, keepdim=True)
        losses[part] = (total.log() - target).squeeze(1) * used
        values = values.div_(total)
        values.scatter_add_(1, wanted, torch.full_like(target, -1.0))
        logits[part] = values.mul_(slope).mul_(used.unsqueeze(1) * scale)
    return losses
