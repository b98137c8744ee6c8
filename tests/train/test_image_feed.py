"""Images are fed in the shape that the cost model plans with, whatever the model's processor says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModel

from autopeft.cost.tracing.batches import make_batch
from autopeft.errors import InputError
from autopeft.space.candidate import Candidate, Training
from autopeft.train.image_feed import ImageFeed
from autopeft.train.probe import linear_probe
from autopeft.train.trainer import Trainer
from autopeft.workload.base_model import BaseModel
from autopeft.workload.dataset import Dataset
from autopeft.workload.models import find_model
from autopeft.workload.readers import read_dataset

WIDTHS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
MODELS: dict[str, dict[str, Any]] = {
    "vit": {**WIDTHS, "image_size": 24, "patch_size": 8},
    "dinov2": {**WIDTHS, "image_size": 28, "patch_size": 14, "mlp_ratio": 2},
    "swin": {
        "image_size": 32,
        "patch_size": 4,
        "embed_dim": 16,
        "depths": [1, 1],
        "num_heads": [2, 2],
        "window_size": 4,
    },
}
CROPPING = {
    "image_processor_type": "BitImageProcessor",
    "do_resize": True,
    "do_center_crop": True,
    "size": {"shortest_edge": 256},
    "crop_size": {"height": 224, "width": 224},
}
TRAINING = Training(learning_rate=1e-2, batch_size=8, epochs=8)


@pytest.fixture(scope="module")
def shades(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Dark and bright images of noise, of several sizes."""
    folder, dice = tmp_path_factory.mktemp("shades"), np.random.default_rng(0)
    for index in range(80):
        name, low = (("dark", 0), ("bright", 150))[index % 2]
        (folder / name).mkdir(exist_ok=True)
        pixels = dice.integers(low, low + 100, (20 + index % 3, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return read_dataset(str(folder))


def saved(model_type: str, folder: Path, processor: dict[str, Any] | None = None, **config: Any) -> BaseModel:
    torch.manual_seed(0)
    made = AutoConfig.for_model(model_type, **{**MODELS[model_type], **config})
    AutoModel.from_config(made).save_pretrained(folder)
    if processor:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return find_model(str(folder))


@pytest.mark.parametrize("processor", [None, CROPPING], ids=["no processor", "a cropping processor"])
@pytest.mark.parametrize("model_type", MODELS)
def test_a_batch_has_the_shape_of_the_one_that_is_planned_with(
    tmp_path: Path, shades: Dataset, model_type: str, processor: dict[str, Any] | None
) -> None:
    base = saved(model_type, tmp_path, processor)
    feed = ImageFeed(base, shades, TRAINING)
    real = feed.collate(feed.rows("train")[:3])
    config = AutoConfig.from_pretrained(tmp_path)
    fake = make_batch(config, "vision", "classification", rows=3, length=1, padded=False, labels=2)
    assert {name: (each.shape, each.dtype) for name, each in real.items()} == {
        name: (each.shape, each.dtype) for name, each in fake.items()
    }


def test_grey_images_are_fed_to_a_model_of_one_channel(tmp_path: Path, shades: Dataset) -> None:
    feed = ImageFeed(saved("vit", tmp_path, num_channels=1), shades, TRAINING)
    assert feed.collate(feed.rows("test")[:2])["pixel_values"].shape == (2, 1, 24, 24)
    assert feed.reference()["pixel_values"].shape == (2, 1, 24, 24)


def test_a_saved_processor_makes_the_same_numbers(tmp_path: Path, shades: Dataset) -> None:
    feed = ImageFeed(saved("vit", tmp_path / "model", CROPPING), shades, TRAINING)
    feed.save(tmp_path / "export")
    row = feed.rows("test")[0]
    again = AutoImageProcessor.from_pretrained(tmp_path / "export", backend="pil")
    pixels = again([Image.open(row.file)], return_tensors="pt")["pixel_values"]
    assert torch.equal(pixels, feed.collate([row])["pixel_values"])


def test_a_broken_processor_is_named_in_one_line(tmp_path: Path, shades: Dataset) -> None:
    base = saved("vit", tmp_path, {"image_processor_type": "NoSuchProcessor"})
    with pytest.raises(InputError, match=r"image processor of .* cannot be loaded"):
        ImageFeed(base, shades, TRAINING)


def test_a_vision_model_learns_and_its_probe_reads_its_features(tmp_path: Path, shades: Dataset) -> None:
    base = saved("vit", tmp_path)
    run = Trainer(base, shades, Candidate(method="lora", targets="all-linear", training=TRAINING), seed=0)
    assert run.advance(10**9).score > 0.9
    validation, test = linear_probe(base, shades, TRAINING)
    assert min(validation.score, test.score) > 0.9


@pytest.mark.parametrize("model_type", ["swin", "dinov2"])
def test_the_probe_reads_the_features_of_every_kind_of_vision_model(
    tmp_path: Path, shades: Dataset, model_type: str
) -> None:
    validation, _ = linear_probe(saved(model_type, tmp_path), shades, TRAINING)
    assert validation.score > 0.9
