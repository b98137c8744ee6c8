"""Sounds are fed in the shape that the cost model plans with: spectrograms of one size, waveforms of any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import wavfile
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    WhisperFeatureExtractor,
)

from autopeft.cost.tracing.batches import make_batch
from autopeft.errors import InputError
from autopeft.space.candidate import Candidate, Training
from autopeft.train.probe import linear_probe
from autopeft.train.sound_feed import SoundFeed
from autopeft.train.trainer import Trainer
from autopeft.workload.base_model import BaseModel
from autopeft.workload.dataset import Dataset
from autopeft.workload.measuring import measure
from autopeft.workload.models import find_model
from autopeft.workload.readers import read_dataset
from autopeft.workload.senses import frames_of, samples_of

WIDTHS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
WAVES = {
    **WIDTHS,
    "conv_dim": (16, 16, 16),
    "conv_kernel": (10, 8, 4),
    "conv_stride": (5, 4, 4),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 16,
}
MODELS: dict[str, dict[str, Any]] = {
    "whisper": {
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "vocab_size": 50,
        "max_source_positions": 50,
        "max_target_positions": 40,
        "num_mel_bins": 16,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 3,
    },
    "wav2vec2": WAVES,
    "hubert": {**WAVES, "feat_extract_norm": "layer", "do_stable_layer_norm": True},
}
TRAINING = Training(learning_rate=3e-3, batch_size=8, epochs=8, max_length=150)


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Low and high tones of several lengths, with noise."""
    folder, dice = tmp_path_factory.mktemp("tones"), np.random.default_rng(0)
    for index in range(80):
        name, hertz = (("low", 200), ("high", 1500))[index % 2]
        (folder / name).mkdir(exist_ok=True)
        times = np.arange(8000 + 100 * (index % 5)) / 16_000
        wave = np.sin(2 * np.pi * hertz * times) + 0.1 * dice.standard_normal(len(times))
        wavfile.write(folder / name / f"{index}.wav", 16_000, (8000 * wave).astype(np.int16))
    return read_dataset(str(folder))


def saved(model_type: str, folder: Path) -> BaseModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **MODELS[model_type])
    AutoModelForAudioClassification.from_config(config).save_pretrained(folder)
    return find_model(str(folder))


@pytest.mark.parametrize("model_type", MODELS)
def test_a_batch_has_the_shape_of_the_one_that_is_planned_with(
    tmp_path: Path, tones: Dataset, model_type: str
) -> None:
    base = saved(model_type, tmp_path)
    feed = SoundFeed(base, tones, TRAINING)
    rows = feed.rows("train")[:5]
    real = feed.collate(rows)
    longest = max(map(feed.length, rows))
    fake = make_batch(
        AutoConfig.from_pretrained(tmp_path),
        "speech",
        "classification",
        rows=5,
        length=longest,
        padded=True,
        labels=2,
    )
    shapes = {name: (each.shape, each.dtype) for name, each in fake.items()}
    if "input_values" in real:  # what is left of the last place is no more than one step of the convolutions
        spare = real["input_values"].shape[1] - fake["input_values"].shape[1]
        assert 0 <= spare < 80
        real = {
            name: each[:, : each.shape[1] - spare] if each.dim() == 2 else each for name, each in real.items()
        }
    assert {name: (each.shape, each.dtype) for name, each in real.items()} == shapes


@pytest.mark.parametrize("frames", [1, 2, 17, 1499])
def test_places_and_samples_of_a_waveform_are_each_others_inverse(frames: int) -> None:
    assert samples_of({}, 1) == 400
    assert frames_of({}, samples_of({}, frames)) == frames
    assert frames_of({}, samples_of({}, frames) - 1) == frames - 1


def test_waveforms_are_measured_in_places_and_cut_at_the_limit(tmp_path: Path, tones: Dataset) -> None:
    base = saved("wav2vec2", tmp_path)
    lengths = measure(tones, base, 1000)
    assert (lengths.percentiles[0], lengths.longest) == (99, 104)
    cut = SoundFeed(base, tones, TRAINING.model_copy(update={"max_length": 50}))
    rows = cut.rows("train")[:3]
    assert {cut.length(row) for row in rows} == {50}
    assert cut.collate(rows)["input_values"].shape == (3, samples_of(base.config, 50))


def test_a_saved_feature_extractor_makes_the_same_numbers(tmp_path: Path, tones: Dataset) -> None:
    feed = SoundFeed(saved("whisper", tmp_path / "model"), tones, TRAINING)
    feed.save(tmp_path / "export")
    row = feed.rows("test")[0]
    rate, samples = wavfile.read(row.file)
    again = AutoFeatureExtractor.from_pretrained(tmp_path / "export")
    features = again(samples / 32768, sampling_rate=rate, return_tensors="pt")["input_features"]
    assert torch.allclose(features, feed.collate([row])["input_features"], atol=1e-5)


def test_an_encoder_of_no_whole_seconds_is_named_in_one_line(tmp_path: Path, tones: Dataset) -> None:
    base = saved("whisper", tmp_path)
    odd = base.model_copy(update={"config": {**base.config, "max_source_positions": 40}})
    with pytest.raises(InputError, match="hears 12800 samples"):
        SoundFeed(odd, tones, TRAINING)


def test_an_extractor_of_other_bands_is_named_in_one_line(tmp_path: Path, tones: Dataset) -> None:
    base = saved("whisper", tmp_path)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="must make 16 bands"):
        SoundFeed(base, tones, TRAINING)


@pytest.mark.parametrize("model_type", MODELS)
@pytest.mark.slow
def test_a_speech_model_learns_and_its_probe_reads_its_features(
    tmp_path: Path, tones: Dataset, model_type: str
) -> None:
    base = saved(model_type, tmp_path)
    training = TRAINING.model_copy(
        update={"max_length": base.max_length or TRAINING.max_length, "epochs": 12}
    )
    run = Trainer(base, tones, Candidate(method="full", training=training), seed=0)
    assert run.advance(10**9).score > 0.9
    validation, test = linear_probe(base, tones, training)
    assert min(validation.score, test.score) > 0.9
