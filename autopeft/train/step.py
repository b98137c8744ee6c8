"""The one training step. The trainer runs it on real tensors; the cost model on fake ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import torch
from torch import nn

from autopeft.methods.adapt import trainable
from autopeft.space.candidate import Training

Batch = Mapping[str, torch.Tensor]
Phase = Literal["forward", "backward", "optimizer"]


def make_optimizer(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    """Make AdamW (arXiv:1711.05101) over the parameters that train."""
    return torch.optim.AdamW(trainable(model), lr=training.learning_rate, weight_decay=training.weight_decay)


def training_step(
    model: nn.Module,
    batches: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    training: Training,
    enter: Callable[[Phase], None] | None = None,
) -> torch.Tensor:
    """Take one optimizer step over `grad_accum` micro-batches.

    Args:
        batches: `training.grad_accum` micro-batches of model inputs, labels among them.
        enter: told at the start of each phase.

    Returns:
        The mean loss of the micro-batches, detached, shape ().
    """
    announce = enter or _ignore
    total: torch.Tensor | None = None
    for batch in batches:
        announce("forward")
        loss = model(**batch).loss / training.grad_accum
        announce("backward")
        loss.backward()
        total = loss.detach() if total is None else total + loss.detach()
        del loss
    if total is None:
        raise ValueError("a training step needs at least one micro-batch")
    announce("optimizer")
    nn.utils.clip_grad_norm_(trainable(model), training.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total


def _ignore(phase: Phase) -> None:
    del phase
