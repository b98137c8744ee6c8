"""Evaluation: a model's score on rows, with what each row contributed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from autopeft.train.batches import Row, collate
from autopeft.workload.dataset import Task
from autopeft.workload.tokens import IGNORED


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A score with its rows.

    Attributes:
        values: one number a row, in the order of the rows: 1 or 0 for a right or wrong class
            (classification), mean loss of the completion's tokens in nats (sft).
        extra: further metrics by name.
    """

    values: tuple[float, ...]
    extra: dict[str, float]

    @property
    def score(self) -> float:
        """The mean over rows."""
        return sum(self.values) / len(self.values)


def evaluate(
    model: nn.Module, rows: Sequence[Row], task: Task, *, pad: int, batch_size: int, device: torch.device
) -> Evaluation:
    """Score a model on rows; leaves it in evaluation mode.

    Args:
        pad: the tokenizer's padding id.
    """
    model.eval()
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].ids))
    values = [0.0] * len(rows)
    right = tokens = 0
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = collate([rows[index] for index in chosen], pad=pad, device=device)
            labels = batch.pop("labels")
            logits = model(**batch).logits
            if task == "classification":
                scores = (logits.argmax(-1) == labels).float()
            else:
                losses, hits, counts = _completion_losses(logits, labels)
                scores = losses / counts.clamp(min=1)
                right += int(hits.sum())
                tokens += int(counts.sum())
            for index, value in zip(chosen, scores.tolist(), strict=True):
                values[index] = value
    extra = {"token_accuracy": right / max(tokens, 1)} if task == "sft" else {}
    return Evaluation(values=tuple(values), extra=extra)


def _completion_losses(
    logits: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return summed loss, correct tokens and tokens of each row, shapes (rows,).

    Virtual tokens stand before the text, so the logits are aligned at their end.
    """
    logits = logits[:, -labels.shape[1] :]
    mask = labels[:, 1:] != IGNORED
    # Only the completion's places become fp32: with a large vocabulary the rest would cost gigabytes.
    predicted, wanted = logits[:, :-1][mask].float(), labels[:, 1:][mask]
    losses = torch.zeros(mask.shape, device=logits.device)
    losses[mask] = nn.functional.cross_entropy(predicted, wanted, reduction="none")
    hits = torch.zeros_like(mask)
    hits[mask] = predicted.argmax(-1) == wanted
    return losses.sum(1), hits.sum(1), mask.sum(1)
