"""The linear probe: a linear model on the frozen base model's features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from autopeft.methods.backbone import build_backbone
from autopeft.space.candidate import Training
from autopeft.train.evaluate import Evaluation
from autopeft.train.feed import Feed, make_feed
from autopeft.train.scoring import Facts, make_scoring
from autopeft.workload.base_model import BaseModel
from autopeft.workload.dataset import Dataset

_STRENGTHS = (0.01, 0.1, 1.0, 10.0)


def linear_probe(
    base: BaseModel, dataset: Dataset, training: Training, *, device: str = "cpu"
) -> tuple[Evaluation, Evaluation]:
    """Fit a linear model on mean-pooled last hidden states; return its validation and test scores.

    Logistic regression for classes, ridge regression for numbers. The strength of its penalty is the one
    of 0.01, 0.1, 1, 10 (inverse) that validates best.
    """
    from sklearn.preprocessing import StandardScaler

    model = build_backbone(base, dataset.task, dataset.outputs, training, weights=True)
    torch.nn.Module.to(model, device)
    feed, scoring = make_feed(base, dataset, training), make_scoring(base, dataset)
    features = {
        split: _pooled(model, feed, feed.rows(split), torch.device(device))
        for split in ("train", "validation", "test")
    }
    scaler = StandardScaler().fit(features["train"])
    scaled = {split: scaler.transform(each) for split, each in features.items()}
    fit = _numbers if dataset.labels == () else _classes
    found = []
    for strength in _STRENGTHS:
        facts = fit(dataset, scaled, strength)
        found.append(
            tuple(Evaluation(facts=facts(split), scoring=scoring) for split in ("validation", "test"))
        )
    better = dataset.metric.better
    best = found[0]
    for each in found[1:]:
        best = each if better(each[0].score, best[0].score) else best
    return best[0], best[1]


def _classes(
    dataset: Dataset, features: dict[str, NDArray[np.float64]], strength: float
) -> Callable[[str], Facts]:
    """Fit a logistic regression; return what says which rows of a split are right."""
    from sklearn.linear_model import LogisticRegression

    probe = LogisticRegression(C=strength, max_iter=1000)
    probe.fit(features["train"], [row.label for row in dataset.train])

    def facts(split: str) -> Facts:
        labels = np.array([row.label for row in getattr(dataset, split)])
        right: Facts = (probe.predict(features[split]) == labels).astype(float)[:, None]
        return right

    return facts


def _numbers(
    dataset: Dataset, features: dict[str, NDArray[np.float64]], strength: float
) -> Callable[[str], Facts]:
    """Fit a ridge regression; return what says how far off it is on each row of a split."""
    from sklearn.linear_model import Ridge

    probe = Ridge(alpha=len(dataset.train) / (100 * strength))
    probe.fit(features["train"], [row.number for row in dataset.train])

    def facts(split: str) -> Facts:
        right = np.array([row.number for row in getattr(dataset, split)])
        predicted = probe.predict(features[split])
        return np.stack((np.abs(predicted - right) / dataset.scale.spread, predicted, right), axis=1)

    return facts


def _pooled(
    model: PreTrainedModel, feed: Feed[Any], rows: Sequence[Any], device: torch.device, batch_size: int = 32
) -> np.ndarray:
    """Return the mean of the last hidden state over each row's tokens, shape (rows, hidden)."""
    backbone = model.base_model.eval()
    order = sorted(range(len(rows)), key=lambda index: feed.length(rows[index]))
    pooled: list[np.ndarray] = [np.empty(0)] * len(rows)
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = feed.collate([rows[index] for index in chosen])
            inputs = {name: each.to(device) for name, each in batch.items() if name != "labels"}
            hidden = backbone(**inputs).last_hidden_state.float()
            mask = inputs["attention_mask"].unsqueeze(-1)
            means = (hidden * mask).sum(1) / mask.sum(1)
            for index, mean in zip(chosen, means.cpu().numpy(), strict=True):
                pooled[index] = mean
    return np.stack(pooled)
