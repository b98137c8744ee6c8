"""The one training step. The trainer runs it on real tensors; the cost model on fake ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Literal

import torch
from torch import nn

from autopeft.methods.adapt import trainable
from autopeft.space.candidate import Training
from autopeft.train.losses import Objective, loss_of, objective
from autopeft.train.mezo import Mezo
from autopeft.train.optimizers import make_optimizer, off_device

__all__ = ["Batch", "Phase", "forward_loss", "make_optimizer", "objective", "off_device", "training_step"]

Batch = Mapping[str, torch.Tensor]
Phase = Literal["forward", "backward", "optimizer"]


def forward_loss(
    model: nn.Module, batch: Batch, training: Training, loss: Objective = loss_of
) -> torch.Tensor:
    """Return what one micro-batch adds to the loss of its step, shape ()."""
    return loss(model, batch, training) / training.grad_accum


def training_step(
    model: nn.Module,
    batches: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    training: Training,
    enter: Callable[[Phase], None] | None = None,
    *,
    of: Objective = loss_of,
) -> torch.Tensor:
    """Take one optimizer step over `grad_accum` micro-batches; MeZO's has no backward.

    Args:
        batches: `training.grad_accum` micro-batches of model inputs, labels among them.
        enter: told at the start of each phase.
        of: the loss of a micro-batch (`objective` of a task).

    Returns:
        The mean loss of the micro-batches, detached, shape ().
    """
    announce = enter or _ignore
    total: torch.Tensor | None = None
    if isinstance(optimizer, Mezo):
        return _forward_only(model, batches, optimizer, training, announce, of)
    for batch in batches:
        announce("forward")
        loss = forward_loss(model, batch, training, of)
        announce("backward")
        loss.backward()  # type: ignore[no-untyped-call]
        total = loss.detach() if total is None else total + loss.detach()
        del loss
    if total is None:
        raise ValueError("a training step needs at least one micro-batch")
    announce("optimizer")
    nn.utils.clip_grad_norm_(trainable(model), training.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total


def _forward_only(
    model: nn.Module,
    batches: Iterable[Batch],
    optimizer: Mezo,
    training: Training,
    announce: Callable[[Phase], None],
    of: Objective,
) -> torch.Tensor:
    """Take one step without backward: the loss is compared on both sides, without dropout, which is noise."""
    losses = []
    mode = model.training
    model.eval()
    for batch in batches:
        announce("forward")
        losses.append(optimizer.probe(partial(forward_loss, model, batch, training, of)))
    model.train(mode)
    announce("optimizer")
    optimizer.step()
    return torch.stack(losses).sum()


def _ignore(phase: Phase) -> None:
    del phase
