"""ImageFeed: rows of images, read from their files as they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from autopeft.methods.backbone import whole_config
from autopeft.space.candidate import Training
from autopeft.train.processors import load_image_processor
from autopeft.workload.base_model import BaseModel
from autopeft.workload.dataset import Dataset, Example
from autopeft.workload.images import read_image
from autopeft.workload.senses import image_channels, image_side


class ImageFeed:
    """Feeds images (a `Feed`); no more than a batch of them is in memory."""

    def __init__(self, base: BaseModel, dataset: Dataset, training: Training) -> None:
        """Load the image processor.

        Raises:
            InputError: the model has no directory at hand, or its processor cannot be read.
        """
        del training
        config = whole_config(base)
        self._dataset = dataset
        self._processor = load_image_processor(base, config)
        self._shape = (image_side(config), image_side(config), image_channels(config))

    def rows(self, split: str) -> Sequence[Example]:
        """Return the rows of a split; their files are read by `collate`."""
        rows: tuple[Example, ...] = getattr(self._dataset, split)
        return rows

    def length(self, row: Example) -> int:
        """Return 1: all images become of one size."""
        del row
        return 1

    def collate(self, rows: Sequence[Example]) -> dict[str, torch.Tensor]:
        """Read images: pixel_values (rows, channels, side, side) in fp32, and labels (rows,)."""
        grey = self._shape[2] == 1
        images = [read_image(row.file).convert("L") if grey else read_image(row.file) for row in rows]
        return self._pixels(images) | {"labels": torch.tensor([row.label for row in rows])}

    def reference(self) -> dict[str, torch.Tensor]:
        """Make two images of noise."""
        dice = np.random.default_rng(0)
        noise = [dice.integers(0, 256, self._shape, dtype=np.uint8).squeeze() for _ in range(2)]
        return self._pixels([Image.fromarray(each) for each in noise])

    def save(self, folder: Path) -> None:
        """Write the image processor."""
        self._processor.save_pretrained(folder)

    def _pixels(self, images: Sequence[object]) -> dict[str, torch.Tensor]:
        pixels: torch.Tensor = self._processor(list(images), return_tensors="pt")["pixel_values"]
        return {"pixel_values": pixels.float()}
