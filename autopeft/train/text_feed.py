"""TextFeed: rows of text, tokenised and padded into model inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from autopeft.space.candidate import Training
from autopeft.workload.base_model import BaseModel
from autopeft.workload.dataset import Dataset, Example
from autopeft.workload.tasks import TASKS
from autopeft.workload.tokens import IGNORED, encode, load_tokenizer

_REFERENCE_TEXTS = ("A short text.", "Another one, a little longer than the first.")


@dataclass(frozen=True)
class TextRow:
    """One tokenised row: ids, and its class, its scaled number, or an id for each place (-100: none)."""

    ids: list[int]
    target: int | float | list[int]


class TextFeed:
    """Feeds text (a `Feed`)."""

    def __init__(self, base: BaseModel, dataset: Dataset, training: Training) -> None:
        """Load the tokenizer.

        Raises:
            InputError: the model has no tokenizer at hand, or it cannot be read.
        """
        self.tokenizer = load_tokenizer(base)
        self._dataset = dataset
        self._scale = dataset.scale
        self._max_length = training.max_length

    def rows(self, split: str) -> list[TextRow]:
        """Tokenise the rows of a split, truncated at the length limit."""
        return [self._row(example) for example in getattr(self._dataset, split)]

    def length(self, row: TextRow) -> int:
        """Return a row's tokens."""
        return len(row.ids)

    def collate(self, rows: Sequence[TextRow]) -> dict[str, torch.Tensor]:
        """Pad rows to the longest: input_ids and attention_mask (rows, longest), labels to match the task."""
        longest = max(len(row.ids) for row in rows)
        targets = [
            _padded(row.target, longest, IGNORED) if isinstance(row.target, list) else row.target
            for row in rows
        ]
        pad = self.tokenizer.pad_token_id
        return {
            "input_ids": torch.tensor([_padded(row.ids, longest, pad) for row in rows]),
            "attention_mask": torch.tensor([_padded([1] * len(row.ids), longest, 0) for row in rows]),
            "labels": torch.tensor(targets),
        }

    def reference(self) -> dict[str, torch.Tensor]:
        """Make inputs of two texts."""
        rows = [self._row(Example(text=text, completion=text)) for text in _REFERENCE_TEXTS]
        batch = self.collate(rows)
        del batch["labels"]
        return batch

    def save(self, folder: Path) -> None:
        """Write the tokenizer."""
        self.tokenizer.save_pretrained(folder)

    def _row(self, example: Example) -> TextRow:
        ids, labels = encode(self.tokenizer, example, self._dataset.task, self._max_length)
        targets: dict[str, int | float | list[int]] = {
            "classes": example.label,
            "number": (example.number - self._scale.mean) / self._scale.deviation,
            "tokens": labels,
        }
        return TextRow(ids, targets[TASKS[self._dataset.task].outputs])


def _padded(values: list[int], length: int, filler: int) -> list[int]:
    return values + [filler] * (length - len(values))
