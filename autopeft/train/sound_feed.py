"""SoundFeed: rows of sounds, read from their files as they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from autopeft.methods.backbone import DTYPES, whole_config
from autopeft.space.candidate import Training
from autopeft.train.processors import load_feature_extractor
from autopeft.workload.base_model import BaseModel
from autopeft.workload.dataset import Dataset, Example
from autopeft.workload.measuring import frames_of_file
from autopeft.workload.senses import hears_waveforms, samples_of
from autopeft.workload.sounds import read_sound

_REFERENCE_SECONDS = (0.4, 0.5)

Sound = NDArray[np.float32]


class SoundFeed:
    """Feeds sounds with a class (a `Feed`); no more than a batch of them is in memory.

    A model of waveforms is given the samples, cut at the length limit and padded to the longest row; one of
    spectrograms, always as long a spectrogram as its encoder takes.
    """

    def __init__(self, base: BaseModel, dataset: Dataset, training: Training) -> None:
        """Load the feature extractor.

        Raises:
            InputError: the model has no directory at hand, or its feature extractor cannot be read.
        """
        config = whole_config(base)
        self._base, self._dataset = base, dataset
        self._extractor = load_feature_extractor(base, config)
        self._rate: int = self._extractor.sampling_rate
        self._dtype = DTYPES[training.precision]
        self._waveforms = hears_waveforms(config.model_type)
        self._config = config.to_dict()
        self._frames = training.max_length
        self._lengths: dict[str, int] = {}

    def rows(self, split: str) -> Sequence[Example]:
        """Return the rows of a split; their files are read by `collate`."""
        rows: tuple[Example, ...] = getattr(self._dataset, split)
        return rows

    def length(self, row: Example) -> int:
        """Return the places that a model of waveforms makes of a row; 1 of a spectrogram."""
        if not self._waveforms:
            return 1
        if row.file not in self._lengths:
            self._lengths[row.file] = min(frames_of_file(row.file, self._base, self._rate), self._frames)
        return self._lengths[row.file]

    def collate(self, rows: Sequence[Example]) -> dict[str, torch.Tensor]:
        """Read sounds: input_values (rows, samples) or input_features (rows, bands, frames), and labels."""
        sounds = [read_sound(row.file, self._rate) for row in rows]
        return self._inputs(sounds) | {"labels": torch.tensor([row.label for row in rows])}

    def reference(self) -> dict[str, torch.Tensor]:
        """Make two sounds of noise."""
        dice = np.random.default_rng(0)
        seconds = [round(share * self._rate) for share in _REFERENCE_SECONDS]
        return self._inputs([dice.standard_normal(samples).astype(np.float32) for samples in seconds])

    def save(self, folder: Path) -> None:
        """Write the feature extractor."""
        self._extractor.save_pretrained(folder)

    def _inputs(self, sounds: Sequence[Sound]) -> dict[str, torch.Tensor]:
        if not self._waveforms:
            made = self._extractor(sounds, sampling_rate=self._rate, return_tensors="pt")
            return {"input_features": made["input_features"].to(self._dtype)}
        shortest, longest = (samples_of(self._config, frames) for frames in (1, self._frames))
        cut = [np.pad(each[:longest], (0, max(0, shortest - len(each)))) for each in sounds]
        made = self._extractor(cut, sampling_rate=self._rate, padding=True, return_tensors="pt")
        inputs = {"input_values": made["input_values"].to(self._dtype)}
        if "attention_mask" in made:
            inputs["attention_mask"] = made["attention_mask"].long()
        return inputs
