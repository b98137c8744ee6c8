"""The linear probe: logistic regression on the frozen base model's features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from autopeft.methods.backbone import build_backbone
from autopeft.space.candidate import Training
from autopeft.train.evaluate import Evaluation
from autopeft.train.feed import Feed, make_feed
from autopeft.train.scoring import make_scoring
from autopeft.workload.base_model import BaseModel
from autopeft.workload.dataset import Dataset

_HALVES = ("vision_model", "encoder")
_STRENGTHS = (0.01, 0.1, 1.0, 10.0)


def linear_probe(
    base: BaseModel, dataset: Dataset, training: Training, *, device: str = "cpu"
) -> tuple[Evaluation, Evaluation]:
    """Fit a logistic regression on mean-pooled last hidden states; return its validation and test scores.

    The strength of its penalty is the one of 0.01, 0.1, 1, 10 (inverse) that validates best.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    model = build_backbone(base, dataset.task, len(dataset.labels), training, weights=True)
    torch.nn.Module.to(model, device)
    feed, scoring = make_feed(base, dataset, training), make_scoring(base, dataset)
    features, labels = {}, {}
    for split in ("train", "validation", "test"):
        features[split] = _pooled(model, feed, feed.rows(split), torch.device(device))
        labels[split] = np.array([example.label for example in getattr(dataset, split)])
    scaler = StandardScaler().fit(features["train"])
    fitted = [
        LogisticRegression(C=strength, max_iter=1000).fit(
            scaler.transform(features["train"]), labels["train"]
        )
        for strength in _STRENGTHS
    ]
    hits = [
        {split: probe.predict(scaler.transform(features[split])) == labels[split] for split in features}
        for probe in fitted
    ]
    best = max(hits, key=lambda hit: float(hit["validation"].mean()))
    validation, test = (
        Evaluation(facts=hits.astype(float)[:, None], scoring=scoring)
        for hits in (best["validation"], best["test"])
    )
    return validation, test


def _pooled(
    model: PreTrainedModel, feed: Feed[Any], rows: Sequence[Any], device: torch.device, batch_size: int = 32
) -> np.ndarray:
    """Return the mean of the last hidden state over each row's places, shape (rows, hidden)."""
    backbone = _without_head(model).eval()
    order = sorted(range(len(rows)), key=lambda index: feed.length(rows[index]))
    pooled: list[np.ndarray] = [np.empty(0)] * len(rows)
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = feed.collate([rows[index] for index in chosen])
            inputs = {name: each.to(device) for name, each in batch.items() if name != "labels"}
            hidden = backbone(**inputs).last_hidden_state.float()
            hidden = hidden.flatten(2).transpose(1, 2) if hidden.dim() == 4 else hidden  # of convolutions
            mask = _places(backbone, inputs, hidden).unsqueeze(-1)
            means = (hidden * mask).sum(1) / mask.sum(1)
            for index, mean in zip(chosen, means.cpu().numpy(), strict=True):
                pooled[index] = mean
    return np.stack(pooled)


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
