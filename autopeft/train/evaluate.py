"""Evaluation: a model's score on rows, with what each row contributed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from autopeft.train.feed import Feed
from autopeft.train.scoring import Facts, Scoring


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A score with its rows.

    Attributes:
        facts: what each row contributed, in the order of the rows.
        scoring: what makes a score of them.
    """

    facts: Facts
    scoring: Scoring

    @property
    def values(self) -> tuple[float, ...]:
        """The score of each row, where rows have one of their own: 1 or 0 for a class, a loss."""
        return tuple(self.facts[:, 0].tolist())

    @property
    def score(self) -> float:
        """The metric over all rows."""
        return self.scoring.score(self.facts)

    @property
    def extra(self) -> dict[str, float]:
        """Further metrics by name."""
        return self.scoring.further(self.facts)


def evaluate(
    model: nn.Module,
    feed: Feed[Any],
    rows: Sequence[Any],
    scoring: Scoring,
    *,
    batch_size: int,
    device: torch.device,
) -> Evaluation:
    """Score a model on rows that `feed` made; leaves it in evaluation mode."""
    model.eval()
    order = sorted(range(len(rows)), key=lambda index: feed.length(rows[index]))
    found: list[torch.Tensor] = []
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            some = [rows[index] for index in order[start : start + batch_size]]
            batch = {name: each.to(device) for name, each in feed.collate(some).items()}
            found.append(scoring.facts(model, batch, some).cpu())
    facts = np.empty((len(rows), found[0].shape[1]))
    facts[order] = torch.cat(found).double().numpy()
    return Evaluation(facts=facts, scoring=scoring)
