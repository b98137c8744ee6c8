"""Feed: the rows of a dataset as a model takes them. Training and evaluation know batches, no tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from autopeft.methods.heads import head_family
from autopeft.space.candidate import Training
from autopeft.train.image_feed import ImageFeed
from autopeft.train.sound_feed import SoundFeed
from autopeft.train.text_feed import TextFeed
from autopeft.workload.base_model import BaseModel, Family
from autopeft.workload.dataset import Dataset

Row = TypeVar("Row")


class Feed(Protocol[Row]):
    """Makes rows ready once, and batches of them again and again."""

    def rows(self, split: str) -> Sequence[Row]:
        """Return the rows of a split ("train", "validation", "test") in their order."""

    def length(self, row: Row) -> int:
        """Return what a row's cost grows with: its tokens, or one number where all rows are alike."""

    def collate(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """Make model inputs of rows, `labels` among them, on the host."""

    def reference(self) -> dict[str, torch.Tensor]:
        """Make inputs that hold nothing of the user's data, by which an export is checked."""

    def save(self, folder: Path) -> None:
        """Write what turns raw inputs into model inputs (tokenizer, processor) beside an export."""


_FEEDS: dict[Family, Callable[[BaseModel, Dataset, Training], Feed[Any]]] = {
    "vision": ImageFeed,
    "speech": SoundFeed,
}
"""Makers of feeds by family; text is fed to the rest."""


def make_feed(base: BaseModel, dataset: Dataset, training: Training) -> Feed[Any]:
    """Make what feeds a dataset to a model.

    Raises:
        InputError: the model's tokenizer or processor is missing or malformed.
    """
    kind = head_family(base.family, base.config.get("model_type", ""))
    return _FEEDS.get(kind, TextFeed)(base, dataset, training)
