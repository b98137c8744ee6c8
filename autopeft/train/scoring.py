"""Scoring: what each row of a batch contributes to a score, and the score of many rows together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import cross_entropy

from autopeft.methods.heads import head_family
from autopeft.space.candidate import Training
from autopeft.train.losses import preference_margins
from autopeft.train.spans import marks_spans, shared
from autopeft.workload.base_model import BaseModel, Family
from autopeft.workload.dataset import Dataset, Task
from autopeft.workload.tasks import OUTSIDE
from autopeft.workload.tokens import IGNORED

Facts = NDArray[np.float64]
"""What rows contribute, (rows, numbers); what the numbers are is for a `Scoring` to say."""


class Scoring(Protocol):
    """Scores rows of one task.

    Where the metric's interval is of a proportion or a mean, the first number of a row is its own score.
    """

    def facts(
        self, model: nn.Module, batch: Mapping[str, torch.Tensor], rows: Sequence[Any] = (), /
    ) -> torch.Tensor:
        """Run the model and say what each row contributes, (rows, numbers).

        Args:
            model: gets `batch` without its labels.
            batch: what the feed made of `rows`.
            rows: may say what a batch does not; left out, the labels say all.
        """

    def score(self, facts: Facts) -> float:
        """Return the dataset's metric on rows."""

    def further(self, facts: Facts) -> dict[str, float]:
        """Return further metrics by name."""


def make_scoring(base: BaseModel, dataset: Dataset, training: Training) -> Scoring:
    """Make what scores a dataset's rows."""
    return _SCORINGS[dataset.task](
        head_family(base.family, base.config.get("model_type", "")), dataset, training
    )


class Classes:
    """Right or wrong, 1 or 0 a row, and the row's log loss (nats)."""

    def facts(
        self, model: nn.Module, batch: Mapping[str, torch.Tensor], _: Sequence[Any] = (), /
    ) -> torch.Tensor:
        """Say which rows are right, and how surely."""
        logits, labels = _answers(model, batch)
        right = (logits.argmax(-1) == labels).float()
        return torch.stack((right, cross_entropy(logits.float(), labels, reduction="none")), dim=1)

    def score(self, facts: Facts) -> float:
        """Return the share of right rows."""
        return float(facts[:, 0].mean())

    def further(self, facts: Facts) -> dict[str, float]:
        """Return the mean log loss, which tells models apart that are right on the same rows."""
        return {"log_loss": float(facts[:, 1].mean())}


class Numbers:
    """Error of each row as a share of the training rows' spread, what was predicted and what was right."""

    def __init__(self, dataset: Dataset) -> None:
        """Know how numbers were scaled."""
        self._scale = dataset.scale

    def facts(
        self, model: nn.Module, batch: Mapping[str, torch.Tensor], _: Sequence[Any] = (), /
    ) -> torch.Tensor:
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
        if variance and np.ptp(predicted):
            found["pearson"] = float(np.corrcoef(predicted, right)[0, 1])
            found["spearman"] = float(np.corrcoef(rankdata(predicted), rankdata(right))[0, 1])
        return found


class Tags:
    """How far each row's tags are right: what is shared, marked, to be marked; right tags, tags."""

    def __init__(self, dataset: Dataset) -> None:
        """Know the tags, and which of them marks nothing: O, or the most frequent."""
        self._names = dataset.labels
        self._spans = marks_spans(dataset.labels)
        counts = Counter(tag for row in dataset.train for tag in row.tags)
        self._outside = OUTSIDE if OUTSIDE in self._names else self._names[counts.most_common(1)[0][0]]

    def facts(
        self, model: nn.Module, batch: Mapping[str, torch.Tensor], rows: Sequence[Any] = (), /
    ) -> torch.Tensor:
        """Compare the tags of each row, at the first token of each word; what was cut off is missed."""
        logits, labels = _answers(model, batch)
        said, mask = logits[:, -labels.shape[1] :].argmax(-1), labels != IGNORED
        found = []
        for place, (one, other, of) in enumerate(zip(said, labels, mask, strict=True)):
            seen = other[of].tolist()
            cut_off = rows[place].tags[len(seen) :] if rows else ()
            found.append(self.compare(one[of].tolist(), [*seen, *cut_off]))
        return torch.stack(found)

    def compare(self, said: Sequence[int], right: Sequence[int]) -> torch.Tensor:
        """Compare two taggings of a row; what is said may end earlier, and marks nothing from there on."""
        marked, wanted = ([self._names[tag] for tag in tags] for tags in (said, right))
        marked += [self._outside] * (len(wanted) - len(marked))
        both = shared(marked, wanted, spans=self._spans, outside=self._outside)
        hits = sum(one == other for one, other in zip(said, right, strict=False))
        return torch.tensor([*both, hits, len(right)], dtype=torch.float64)

    def score(self, facts: Facts) -> float:
        """Return the F1: twice what is shared, as a share of all that is marked; 0 where nothing is."""
        return f1(facts)

    def further(self, facts: Facts) -> dict[str, float]:
        """Return precision, recall and the share of right tags."""
        hits, said, right, agreed, tags = facts.sum(0).tolist()
        return {
            "precision": hits / max(1.0, said),
            "recall": hits / max(1.0, right),
            "token_accuracy": agreed / max(1.0, tags),
        }


class Tokens:
    """Loss of the tokens to predict: mean in nats, right tokens and tokens of each row."""

    def __init__(self, kind: Family) -> None:
        """Know whether a place predicts the token after it, as a decoder's does, or its own.

        What reads and writes apart makes its decoder's inputs of the labels.
        """
        self._ahead = int(kind in ("decoder", "multimodal"))
        self._told = kind in ("encoder-decoder", "speech")

    def facts(
        self, model: nn.Module, batch: Mapping[str, torch.Tensor], _: Sequence[Any] = (), /
    ) -> torch.Tensor:
        """Take each row's loss."""
        logits, labels = _answers(model, batch, told=self._told)
        losses, hits, counts = token_losses(logits, labels, ahead=self._ahead)
        return torch.stack((losses / counts.clamp(min=1), hits.float(), counts.float()), dim=1)

    def score(self, facts: Facts) -> float:
        """Return the mean of the rows' losses."""
        return float(facts[:, 0].mean())

    def further(self, facts: Facts) -> dict[str, float]:
        """Return the share of right tokens."""
        return {"token_accuracy": float(facts[:, 1].sum() / max(1.0, facts[:, 2].sum()))}


class Pairs:
    """Whether a pair's chosen answer gained on the rejected one: 1 or 0, its loss, its margin in nats."""

    def __init__(self, beta: float) -> None:
        """Know the loss's own knob."""
        self._beta = beta

    def facts(
        self, model: nn.Module, batch: Mapping[str, torch.Tensor], _: Sequence[Any] = (), /
    ) -> torch.Tensor:
        """Compare the answers of each pair."""
        margins = self._beta * preference_margins(model, batch)
        return torch.stack(((margins > 0).float(), -nn.functional.logsigmoid(margins), margins), dim=1)

    def score(self, facts: Facts) -> float:
        """Return the share of pairs whose chosen answer gained."""
        return float(facts[:, 0].mean())

    def further(self, facts: Facts) -> dict[str, float]:
        """Return the mean loss and the mean margin of rewards."""
        return {"loss": float(facts[:, 1].mean()), "margin": float(facts[:, 2].mean())}


_SCORINGS: dict[Task, Callable[[Family, Dataset, Training], Scoring]] = {
    "classification": lambda *_: Classes(),
    "regression": lambda _, dataset, __: Numbers(dataset),
    "token-classification": lambda _, dataset, __: Tags(dataset),
    "masked-lm": lambda kind, *_: Tokens(kind),
    "sft": lambda kind, *_: Tokens(kind),
    "dpo": lambda *given: Pairs(given[-1].beta),
}


def f1(facts: Facts) -> float:
    """Return twice what is shared as a share of all that is marked, of rows that `Tags` compared."""
    hits, said, right = facts[:, :3].sum(0)
    return float(2 * hits / (said + right)) if said + right else 0.0


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


def _answers(
    model: nn.Module, batch: Mapping[str, torch.Tensor], *, told: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = {name: value for name, value in batch.items() if told or name != "labels"}
    return model(**inputs).logits, batch["labels"]
