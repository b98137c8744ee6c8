"""TextFeed: rows of text, tokenised and padded into model inputs."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from autopeft.errors import InputError
from autopeft.methods.heads import head_family
from autopeft.space.candidate import Training
from autopeft.train.masking import mask_tokens
from autopeft.workload.base_model import BaseModel
from autopeft.workload.dataset import Dataset, Example, Scale
from autopeft.workload.tasks import Task
from autopeft.workload.tokens import IGNORED, encode, load_tokenizer, other_answer

_REFERENCE_TEXTS = ("A short text.", "Another one, a little longer than the first.")


@dataclass(frozen=True)
class TextRow:
    """One tokenised row: ids, and its class, its scaled number, or a label for each place (-100: none).

    Without any it is to be masked. `worse` is the same prompt with the answer that was rejected, `tags` are
    those of all words, also of words beyond the length limit.
    """

    ids: list[int]
    target: float | list[int] | None
    worse: TextRow | None = None
    tags: tuple[int, ...] = ()


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
        self._rows: dict[str, tuple[TextRow, ...]] = {}
        self._kind = head_family(base.family, base.config.get("model_type", ""))
        if dataset.task == "masked-lm" and self.tokenizer.mask_token_id is None:
            raise InputError(f"masked-lm needs a tokenizer with a mask, but that of {base.name} has none.")

    def rows(self, split: str) -> Sequence[TextRow]:
        """Tokenise the rows of a split, truncated at the length limit; once.

        What is masked in held-out rows depends on their place only; training rows are masked anew each time.
        """
        if split not in self._rows:
            self._rows[split] = self._made(split)
        return self._rows[split]

    def length(self, row: TextRow) -> int:
        """Return a row's tokens."""
        return max(len(row.ids), len(row.worse.ids) if row.worse else 0)

    def collate(self, rows: Sequence[TextRow]) -> dict[str, torch.Tensor]:
        """Pad rows to the longest: input_ids and attention_mask (rows, longest), labels to match the task.

        What an encoder-decoder is to write is padded to the longest of its own. Of pairs, all rejected
        answers follow all chosen ones.
        """
        rows = [*rows, *(row.worse for row in rows if row.worse)]
        rows = [self._masked(row, _dice()) if row.target is None else row for row in rows]
        longest = max(len(row.ids) for row in rows)
        widest = max(len(row.target) if isinstance(row.target, list) else 0 for row in rows)
        targets = [
            _padded(row.target, widest, IGNORED) if isinstance(row.target, list) else row.target
            for row in rows
        ]
        pad = self.tokenizer.pad_token_id
        return {
            "input_ids": torch.tensor([_padded(row.ids, longest, pad) for row in rows]),
            "attention_mask": torch.tensor([_padded([1] * len(row.ids), longest, 0) for row in rows]),
            "labels": torch.tensor(targets),
        }

    def reference(self) -> dict[str, torch.Tensor]:
        """Make inputs of two texts; an encoder-decoder is given what to write, too."""
        rows = [self._row(_example(text)) for text in _REFERENCE_TEXTS]
        batch = self.collate(rows)
        if (self._dataset.task, self._kind) != ("sft", "encoder-decoder"):
            del batch["labels"]
        return batch

    def save(self, folder: Path) -> None:
        """Write the tokenizer."""
        self.tokenizer.save_pretrained(folder)

    def _made(self, split: str) -> tuple[TextRow, ...]:
        rows = tuple(self._row(example) for example in getattr(self._dataset, split))
        if self._dataset.task != "masked-lm" or split == "train":
            return rows
        return tuple(self._masked(row, random.Random(f"{split} {at}")) for at, row in enumerate(rows))

    def _row(self, example: Example) -> TextRow:
        other = other_answer(example)
        return self._encoded(example, self._encoded(other) if other else None)

    def _encoded(self, example: Example, worse: TextRow | None = None) -> TextRow:
        task = self._dataset.task
        ids, labels = encode(self.tokenizer, example, task, self._max_length, self._kind)
        whole = _WHOLE.get(task)
        return TextRow(ids, whole(example, self._scale) if whole else labels or None, worse, example.tags)

    def _masked(self, row: TextRow, dice: random.Random) -> TextRow:
        tokenizer = self.tokenizer
        shown, wanted = mask_tokens(
            row.ids,
            mask=tokenizer.mask_token_id,
            special=frozenset(tokenizer.all_special_ids),
            vocabulary=len(tokenizer),
            dice=dice,
        )
        return TextRow(shown, wanted)


_WHOLE: dict[Task, Callable[[Example, Scale], float]] = {
    "classification": lambda example, _: example.label,
    "regression": lambda example, scale: (example.number - scale.mean) / scale.deviation,
}
"""What is to be learnt of a row as a whole; of other tasks each token has a label."""


def _example(text: str) -> Example:
    words = tuple(text.split())
    return Example(text=text, completion=text, words=words, tags=(0,) * len(words))


def _dice() -> random.Random:
    """Make dice of torch's generator, whose state a trial saves and restores."""
    return random.Random(int(torch.randint(2**31, ())))


def _padded(values: list[int], length: int, filler: int) -> list[int]:
    return values + [filler] * (length - len(values))
