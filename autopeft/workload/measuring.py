"""Measuring: what the cost of a dataset's rows depends on, whatever they are read from."""

from __future__ import annotations

from autopeft.workload.base_model import BaseModel
from autopeft.workload.dataset import Dataset, Lengths
from autopeft.workload.senses import SAMPLING_RATE, frames_of, hears_waveforms
from autopeft.workload.sounds import sound_seconds
from autopeft.workload.tokens import measure_lengths


def measure(dataset: Dataset, base: BaseModel, max_length: int) -> Lengths:
    """Return the lengths of the training rows in what the model counts; needs no torch for a local model.

    Text has tokens and a waveform has places of the model's encoder, both cut at `max_length`. Images and
    spectrograms have neither: all are of the size that the model takes.

    Raises:
        InputError: the model has no tokenizer at hand, or it cannot be read.
    """
    if dataset.medium == "text":
        return measure_lengths(dataset, base, max_length)
    if dataset.medium == "image" or not hears_waveforms(base.config.get("model_type", "")):
        return Lengths.constant(max_length)
    return Lengths.of([min(frames_of_file(row.file, base), max_length) for row in dataset.train])


def frames_of_file(file: str, base: BaseModel, rate: int = SAMPLING_RATE) -> int:
    """Return how many places a model of waveforms makes of a sound at its rate; of a short one, 1."""
    return max(1, frames_of(base.config, round(sound_seconds(file) * rate)))
