"""Losses: of a language model from all logits at once, in chunks, or without keeping any; of pairs.

Chunked and fused ones run the model up to its head and apply the head themselves. They keep what a model does
to its logits behind the head (a scale, a soft cap) and what peft puts before the text (virtual tokens).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from peft import PeftModel
from torch import nn
from torch.utils.checkpoint import checkpoint

from autopeft.errors import InputError, UnsupportedError
from autopeft.space.candidate import Training
from autopeft.train.fused_loss import fused_cross_entropy
from autopeft.train.head import Headless, run_headless
from autopeft.workload.tasks import Task
from autopeft.workload.tokens import IGNORED

CHUNKS = 8  # as torchtune's `num_output_chunks`


def loss_of(model: nn.Module, batch: Mapping[str, torch.Tensor], training: Training) -> torch.Tensor:
    """Return the mean loss of a batch, shape (), the way `training.loss` says; all ways give the same.

    Raises:
        InputError: the model has no such loss, as it does not predict tokens.
        UnsupportedError: what the model does to its logits, or its head, is nothing this loss can do.
    """
    if training.loss == "standard":
        loss: torch.Tensor = model(**batch).loss
        return loss
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    labels = batch["labels"]
    head = getattr(base, "get_output_embeddings", lambda: None)()
    if head is None or labels.dim() != 2:
        raise InputError(
            f"loss={training.loss} is for models that predict tokens, but {type(base).__name__} does not; "
            "leave it at standard."
        )
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    headless = run_headless(model, inputs, head)
    # Virtual tokens stand before the text; the label of a place is the next token.
    virtual = headless.hidden.shape[1] - labels.shape[1]
    following = nn.functional.pad(labels, (virtual, 1), value=IGNORED)[:, 1:].reshape(-1)
    hidden = headless.hidden.reshape(-1, headless.hidden.shape[-1])
    take = _chunked if training.loss == "chunked" else _fused
    return _with_router_loss(take(hidden, following, headless, head), base, headless)


def preference_loss(model: nn.Module, batch: Mapping[str, torch.Tensor], training: Training) -> torch.Tensor:
    """Return the mean DPO loss of pairs, shape () (Rafailov et al. 2023, arXiv:2305.18290, equation 7).

    Raises:
        InputError: `training.loss` is not standard.
    """
    if training.loss != "standard":
        raise InputError(f"loss={training.loss} is for supervised fine-tuning; leave it at standard for dpo.")
    return -nn.functional.logsigmoid(training.beta * preference_margins(model, batch)).mean()


def preference_margins(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return how much more likely the chosen answer of each pair became than the rejected one, (pairs,).

    The reference is the model without its adapter.

    Args:
        model: a model with an adapter.
        batch: all chosen answers, then all rejected ones in their order, each with its prompt.
    """
    with torch.no_grad(), model.disable_adapter():  # type: ignore[operator]
        reference = log_likelihoods(model, batch)
    chosen, rejected = (log_likelihoods(model, batch) - reference).chunk(2)
    return chosen - rejected


def log_likelihoods(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the logarithm of how likely each row's answer is, (rows,)."""
    labels = batch["labels"]
    logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
    # Virtual tokens stand before the text; the label of a place is the next token.
    logits, following = logits[:, -labels.shape[1] :][:, :-1], labels[:, 1:]
    losses = nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), following.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return -losses.view(following.shape).sum(1)


def objective(task: Task) -> Objective:
    """Return the loss that a task trains with."""
    return _OBJECTIVES.get(task, loss_of)


Objective = Callable[[nn.Module, Mapping[str, torch.Tensor], Training], torch.Tensor]
_OBJECTIVES: dict[Task, Objective] = {"dpo": preference_loss}


def _chunked(hidden: torch.Tensor, labels: torch.Tensor, headless: Headless, head: nn.Module) -> torch.Tensor:
    """Apply the head and the cross entropy to chunks, which backward does again.

    Args:
        hidden: (tokens, width).
        labels: (tokens,).
    """

    def summed(rows: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        logits = headless.logits.finish(head(rows)).float()
        return nn.functional.cross_entropy(logits, wanted, ignore_index=IGNORED, reduction="sum")

    size = -(-len(labels) // CHUNKS)
    pairs = zip(torch.split(hidden, size), torch.split(labels, size), strict=True)
    losses = [checkpoint(summed, rows, wanted, use_reentrant=False) for rows, wanted in pairs]
    return torch.stack(losses).sum() / (labels != IGNORED).sum()


def _fused(hidden: torch.Tensor, labels: torch.Tensor, headless: Headless, head: nn.Module) -> torch.Tensor:
    linear = _plain(head)
    logits = headless.logits
    return fused_cross_entropy(
        hidden, linear.weight, linear.bias, labels, (logits.before, logits.bent, logits.after)
    )


def _plain(head: nn.Module) -> nn.Linear:
    """Return the linear layer that a head is, also where peft trains a copy of it."""
    copies = getattr(head, "modules_to_save", None)
    if isinstance(copies, nn.ModuleDict):
        head = copies[head.active_adapters[0]]  # type: ignore[index]
    if not isinstance(head, nn.Linear) or not head.weight.is_floating_point():
        raise UnsupportedError(
            f"loss=fused needs a head that is a plain linear layer, but it is a {type(head).__name__}; "
            "choose loss=chunked."
        )
    return head


def _with_router_loss(loss: torch.Tensor, base: nn.Module, headless: Headless) -> torch.Tensor:
    """Add what a mixture of experts adds to balance its router."""
    balance = getattr(headless.output, "aux_loss", None)
    if not isinstance(balance, torch.Tensor):
        return loss
    return loss + float(getattr(base, "router_aux_loss_coef", 0.0)) * balance.to(loss.device)
