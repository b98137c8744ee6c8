"""Batches: tokenised rows, and how they are padded into model inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from autopeft.workload.dataset import Example, Task
from autopeft.workload.tokens import IGNORED, encode


@dataclass(frozen=True)
class Row:
    """One tokenised row: ids, and its class or the id to predict at each place (-100: none)."""

    ids: list[int]
    target: int | list[int]


def tokenize(
    tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], task: Task, max_length: int
) -> list[Row]:
    """Tokenise rows, truncated at `max_length` tokens."""
    rows = []
    for example in examples:
        ids, labels = encode(tokenizer, example, task, max_length)
        rows.append(Row(ids, labels if task == "sft" else example.label))
    return rows


def collate(rows: Sequence[Row], *, pad: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Pad rows to the longest: input_ids and attention_mask (rows, longest), labels to match the task."""
    longest = max(len(row.ids) for row in rows)
    ids = torch.tensor([row.ids + [pad] * (longest - len(row.ids)) for row in rows])
    mask = torch.tensor([[1] * len(row.ids) + [0] * (longest - len(row.ids)) for row in rows])
    targets = [
        row.target + [IGNORED] * (longest - len(row.ids)) if isinstance(row.target, list) else row.target
        for row in rows
    ]
    batch = {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor(targets)}
    return {name: tensor.to(device) for name, tensor in batch.items()}
