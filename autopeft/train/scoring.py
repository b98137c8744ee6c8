"""Scoring: what each row of a batch contributes to a score, and the score of many rows together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from autopeft.methods.heads import head_family
from autopeft.workload.base_model import BaseModel, Family
from autopeft.workload.dataset import Dataset, Task
from autopeft.workload.tokens import IGNORED

Facts = NDArray[np.float64]
"""What rows contribute, (rows, numbers); what the numbers are is for a `Scoring` to say."""


class Scoring(Protocol):
    """Scores rows of one task.

    Where the metric's interval is of a proportion or a mean, the first number of a row is its own score.
    """

    def facts(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Run the model and say what each row contributes, (rows, numbers)."""

    def score(self, facts: Facts) -> float:
        """Return the dataset's metric on rows."""

    def further(self, facts: Facts) -> dict[str, float]:
        """Return further metrics by name."""


def make_scoring(base: BaseModel, dataset: Dataset) -> Scoring:
    """Make what scores a dataset's rows."""
    kind = head_family(base.family, base.config.get("model_type", ""))
    return _SCORINGS[dataset.task](kind, dataset)


class Classes:
    """Right or wrong: 1 or 0 a row."""

    def __init__(self, kind: Family, dataset: Dataset) -> None:
        """Take any dataset."""
        del kind, dataset

    def facts(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Say which rows are right."""
        logits, labels = _answers(model, batch)
        return (logits.argmax(-1) == labels).float().unsqueeze(1)

    def score(self, facts: Facts) -> float:
        """Return the share of right rows."""
        return float(facts[:, 0].mean())

    def further(self, facts: Facts) -> dict[str, float]:
        """Return nothing more."""
        del facts
        return {}


class Numbers:
    """Error of each row as a share of the training rows' spread, what was predicted and what was right."""

    def __init__(self, kind: Family, dataset: Dataset) -> None:
        """Know how numbers were scaled."""
        del kind
        self._scale = dataset.scale

    def facts(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Take each row's error, in the user's own unit."""
        logits, labels = _answers(model, batch)
        mean, deviation = self._scale.mean, self._scale.deviation
        predicted, right = (mean + deviation * each.double() for each in (logits.squeeze(-1), labels))
        return torch.stack(((predicted - right).abs() / self._scale.spread, predicted, right), dim=1)

    def score(self, facts: Facts) -> float:
        """Return the relative absolute error."""
        return float(facts[:, 0].mean())

    def further(self, facts: Facts) -> dict[str, float]:
        """Return the error in the user's unit, the share of variance explained, and correlations."""
        from scipy.stats import rankdata

        _, predicted, right = facts.T
        variance = float(((right - right.mean()) ** 2).mean())
        found = {"mean_absolute_error": float(np.abs(predicted - right).mean())}
        if variance:
            found["r2"] = 1 - float(((predicted - right) ** 2).mean()) / variance
        if variance and predicted.std():
            found["pearson"] = float(np.corrcoef(predicted, right)[0, 1])
            found["spearman"] = float(np.corrcoef(rankdata(predicted), rankdata(right))[0, 1])
        return found


class Tokens:
    """Loss of the tokens to predict: mean in nats, right tokens and tokens of each row."""

    def __init__(self, kind: Family, dataset: Dataset) -> None:
        """Know whether a place predicts the token after it, as a decoder's does, or its own."""
        del dataset
        self._ahead = int(kind in ("decoder", "multimodal"))

    def facts(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Take each row's loss."""
        logits, labels = _answers(model, batch)
        losses, hits, counts = token_losses(logits, labels, ahead=self._ahead)
        return torch.stack((losses / counts.clamp(min=1), hits.float(), counts.float()), dim=1)

    def score(self, facts: Facts) -> float:
        """Return the mean of the rows' losses."""
        return float(facts[:, 0].mean())

    def further(self, facts: Facts) -> dict[str, float]:
        """Return the share of right tokens."""
        return {"token_accuracy": float(facts[:, 1].sum() / max(1.0, facts[:, 2].sum()))}


_SCORINGS: dict[Task, Callable[[Family, Dataset], Scoring]] = {
    "classification": Classes,
    "regression": Numbers,
    "sft": Tokens,
}


def token_losses(
    logits: torch.Tensor, labels: torch.Tensor, *, ahead: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return summed loss, right tokens and tokens of each row, shapes (rows,).

    Virtual tokens stand before the text, so the logits are aligned at their end.

    Args:
        ahead: how many places after its own the label of a place stands.
    """
    places = labels.shape[1] - ahead
    logits = logits[:, -labels.shape[1] :][:, :places]
    labels = labels[:, ahead:]
    mask = labels != IGNORED
    # Only the completion's places become fp32: with a large vocabulary the rest would cost gigabytes.
    predicted, wanted = logits[mask].float(), labels[mask]
    losses = torch.zeros(mask.shape, device=logits.device)
    losses[mask] = nn.functional.cross_entropy(predicted, wanted, reduction="none")
    hits = torch.zeros_like(mask)
    hits[mask] = predicted.argmax(-1) == wanted
    return losses.sum(1), hits.sum(1), mask.sum(1)


def _answers(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    return model(**inputs).logits, batch["labels"]
