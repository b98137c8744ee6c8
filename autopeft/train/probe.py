"""The linear probe: a linear model on the frozen base model's features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from autopeft.methods.backbone import build_backbone
from autopeft.space.candidate import Training
from autopeft.train.evaluate import Evaluation
from autopeft.train.feed import Feed, make_feed
from autopeft.train.scoring import Facts, Tags, make_scoring
from autopeft.workload.base_model import BaseModel
from autopeft.workload.dataset import Dataset, Example
from autopeft.workload.tasks import TASKS, Task
from autopeft.workload.tokens import IGNORED

_MOST_WORDS = 20_000
_HALVES = ("vision_model", "encoder")
_STRENGTHS = (0.01, 0.1, 1.0, 10.0)


def linear_probe(
    base: BaseModel,
    dataset: Dataset,
    training: Training,
    *,
    quantization: str = "none",
    device: str = "cpu",
) -> tuple[Evaluation, Evaluation]:
    """Fit a linear model on mean-pooled last hidden states; return its validation and test scores.

    Logistic regression for classes, ridge regression for numbers. The strength of its penalty is the one
    of 0.01, 0.1, 1, 10 (inverse) that validates best.

    Args:
        quantization: how the base is stored, as for the candidate that the probe is compared with.
    """
    from sklearn.preprocessing import StandardScaler

    model = build_backbone(
        *(base, dataset.task, dataset.outputs, training), weights=True, quantization=quantization
    )
    torch.nn.Module.to(model, device)
    spec = TASKS[dataset.task]
    feed, scoring = make_feed(base, dataset, training), make_scoring(base, dataset, training)
    features = {
        split: _features(model, feed, feed.rows(split), torch.device(device), each_token=spec.each_token)
        for split in ("train", "validation", "test")
    }
    scaler = StandardScaler().fit(np.concatenate(features["train"]))
    scaled = {split: [scaler.transform(row) for row in rows] for split, rows in features.items()}
    found = []
    for strength in _STRENGTHS:
        facts = _FITS[dataset.task](dataset, scaled, strength)
        found.append(
            tuple(Evaluation(facts=facts(split), scoring=scoring) for split in ("validation", "test"))
        )
    better = dataset.metric.better
    best = found[0]
    for each in found[1:]:
        best = each if better(each[0].score, best[0].score) else best
    return best[0], best[1]


Features = dict[str, list[NDArray[np.float64]]]
"""By split, the features of each row: one place (its mean) or those with labels, (places, hidden)."""


def _classes(dataset: Dataset, features: Features, strength: float) -> Callable[[str], Facts]:
    """Fit a logistic regression; return what says which rows of a split are right."""
    from sklearn.linear_model import LogisticRegression

    probe = LogisticRegression(C=strength, max_iter=1000)
    probe.fit(np.concatenate(features["train"]), [row.label for row in dataset.train])

    def facts(split: str) -> Facts:
        labels = np.array([row.label for row in getattr(dataset, split)])
        seen = np.concatenate(features[split])
        logs = probe.predict_log_proba(seen)
        # A class without a training row has no column, and is never expected.
        column = {label: place for place, label in enumerate(probe.classes_.tolist())}
        losses = [
            -row[column[label]] if label in column else np.inf
            for row, label in zip(logs, labels, strict=True)
        ]
        return np.stack((probe.predict(seen) == labels, np.array(losses)), axis=1).astype(float)

    return facts


def _tags(dataset: Dataset, features: Features, strength: float) -> Callable[[str], Facts]:
    """Fit a logistic regression on at most 20,000 words; return what says how far each row is right."""
    from sklearn.linear_model import LogisticRegression

    words = np.concatenate(features["train"])
    tags = np.concatenate([_seen(row, found) for row, found in _pairs(dataset, features, "train")])
    chosen = np.random.default_rng(0).permutation(len(words))[:_MOST_WORDS]
    probe = LogisticRegression(C=strength, max_iter=1000).fit(words[chosen], tags[chosen])
    scoring = Tags(dataset)

    def facts(split: str) -> Facts:
        rows = [
            scoring.compare(probe.predict(found).tolist(), row.tags).numpy()
            for row, found in _pairs(dataset, features, split)
        ]
        return np.stack(rows)

    return facts


def _pairs(dataset: Dataset, features: Features, split: str) -> zip[tuple[Example, NDArray[np.float64]]]:
    return zip(getattr(dataset, split), features[split], strict=True)


def _seen(row: Example, features: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the tags of the words that a row still has after it was cut."""
    return np.array(row.tags[: len(features)])


def _numbers(dataset: Dataset, features: Features, strength: float) -> Callable[[str], Facts]:
    """Fit a ridge regression; return what says how far off it is on each row of a split."""
    from sklearn.linear_model import Ridge

    probe = Ridge(alpha=len(dataset.train) / (100 * strength))
    probe.fit(np.concatenate(features["train"]), [row.number for row in dataset.train])

    def facts(split: str) -> Facts:
        right = np.array([row.number for row in getattr(dataset, split)])
        predicted = probe.predict(np.concatenate(features[split]))
        return np.stack((np.abs(predicted - right) / dataset.scale.spread, predicted, right), axis=1)

    return facts


_FITS: dict[Task, Callable[[Dataset, Features, float], Callable[[str], Facts]]] = {
    "classification": _classes,
    "regression": _numbers,
    "token-classification": _tags,
}


def _features(
    model: PreTrainedModel,
    feed: Feed[Any],
    rows: Sequence[Any],
    device: torch.device,
    batch_size: int = 32,
    *,
    each_token: bool,
) -> list[NDArray[np.float64]]:
    """Return of each row the mean of its last hidden states, (1, hidden), or those of places with a label."""
    backbone = _without_head(model).eval()
    order = sorted(range(len(rows)), key=lambda index: feed.length(rows[index]))
    found: list[NDArray[np.float64]] = [np.empty((0, 0))] * len(rows)
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = feed.collate([rows[index] for index in chosen])
            inputs = {name: each.to(device) for name, each in batch.items() if name != "labels"}
            hidden = backbone(**inputs).last_hidden_state.float()
            hidden = hidden.flatten(2).transpose(1, 2) if hidden.dim() == 4 else hidden  # of convolutions
            places = _places(backbone, inputs, hidden).bool().cpu()
            for index, states, mask, labels in zip(
                chosen, hidden.cpu(), places, batch["labels"], strict=True
            ):
                some = states[labels != IGNORED] if each_token else states[mask].mean(0, keepdim=True)
                found[index] = some.double().numpy()
    return found


def _without_head(model: PreTrainedModel) -> Any:
    """Return what is under a model's head: a transformer, or the half of one that sees or hears."""
    if model.base_model is not model:
        return model.base_model
    return next(getattr(model, name) for name in _HALVES if hasattr(model, name))


def _places(backbone: Any, inputs: Mapping[str, torch.Tensor], hidden: torch.Tensor) -> torch.Tensor:
    """Return which places of the hidden states, (rows, places), stand for the row and not for its padding."""
    mask = inputs.get("attention_mask")
    if mask is None:
        return torch.ones(hidden.shape[:2], device=hidden.device)
    if mask.shape[1] == hidden.shape[1]:
        return mask
    shorter: torch.Tensor = backbone._get_feature_vector_attention_mask(hidden.shape[1], mask)
    return shorter.long()
