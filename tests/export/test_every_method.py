"""The export of every method gives the recorded logits in a process that has no autopeft.

Models are tiny and random, and train for one step. All exports of a family are loaded in one process; the one
import that autopeft's own adapters need is made in another.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from recordings import SMALL
from scipy.io import wavfile
from transformers import AutoConfig, AutoModel

from autopeft.errors import AutopeftError
from autopeft.export.bundle import Bundle
from autopeft.export.check import differences
from autopeft.export.writer import bundle_format, describe, fill
from autopeft.methods.heads import head_name
from autopeft.methods.registry import METHODS, find_method, require_support
from autopeft.plan.budget import Budget
from autopeft.space.candidate import Candidate, Training
from autopeft.train.result import TrialResult
from autopeft.train.trainer import Trainer
from autopeft.workload.base_model import BaseModel, Family
from autopeft.workload.dataset import Dataset
from autopeft.workload.models import find_model
from autopeft.workload.readers import read_dataset

TRAINING = Training(learning_rate=1e-2, batch_size=8, epochs=1, max_length=16)
# Short preparations, and sizes that matrices of 32 features have room for.
KNOBS = {"fish": {"rows": 8}, "lt-sft": {"steps": 2}, "diff-pruning": {"steps": 2}, "miss": {"r": 16}} | SMALL
QUICK = "encoder"
"""The family whose additive and selective methods are tried in every run; the rest is slow."""

SMALL_RANK = 4
WITHOUT_BIASES = ("decoder", "encoder-decoder")
"""Families whose models here, a Llama and a T5, have no biases that could train."""
HEARING: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64,
    "conv_dim": (16, 16, 16), "conv_kernel": (10, 8, 4), "conv_stride": (5, 4, 4),
    "num_feat_extract_layers": 3, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 16,
}  # fmt: skip
FAMILIES: tuple[Family, ...] = ("decoder", "encoder", "encoder-decoder", "vision", "speech")

Subject = tuple[BaseModel, Dataset]
Found = dict[str, float | str]


def claimed(family: Family, *, quick: bool) -> list[str]:
    usual = [name for name, spec in METHODS.items() if family in spec.families and spec.exports != "none"]
    if family in WITHOUT_BIASES:
        usual.remove("bitfit")
    return [name for name in usual if quick == (family == QUICK and METHODS[name].family == "additive")]


SLOW = [(family, name) for family in FAMILIES for name in claimed(family, quick=False)]


@pytest.fixture(scope="session")
def subjects(
    encoder_with_weights, decoder_with_weights, seq2seq_with_weights, sentiment, turns, tmp_path_factory
) -> dict[Family, Subject]:
    """A model with weights of each family, and rows for it."""
    return {
        "encoder": (encoder_with_weights, sentiment),
        "decoder": (decoder_with_weights, turns),
        "encoder-decoder": (seq2seq_with_weights, turns),
        "vision": _vision(tmp_path_factory.mktemp("vit"), tmp_path_factory.mktemp("shades")),
        "speech": _hearing(tmp_path_factory.mktemp("wav2vec2"), tmp_path_factory.mktemp("tones")),
    }


@pytest.fixture(scope="session")
def found(subjects, sentiment, tmp_path_factory) -> Callable[[Family, bool], Found]:
    """How far the logits of each method's export are off, or why there are none."""

    @cache
    def of(family: Family, *, quick: bool) -> Found:
        folder, made, answers = tmp_path_factory.mktemp(family), [], Found()
        for method in claimed(family, quick=quick):
            base, dataset = subjects[family]
            if dataset.task not in METHODS[method].tasks:
                dataset = sentiment
            try:
                made.append(exported(base, dataset, method, folder / method))
            except (AutopeftError, RuntimeError, ValueError) as error:
                answers[method] = f"{type(error).__name__}: {error}"
        for kinds in (("peft", "model"), ("autopeft",)):
            some = [pair for pair in made if pair[1].format in kinds]
            names = [pair[1].candidate.method for pair in some]
            answers |= dict(zip(names, differences(some) if some else (), strict=True))
        return answers

    return of


def _vision(place: Path, pictures: Path) -> Subject:
    dice = np.random.default_rng(0)
    for index in range(40):
        name, low = (("dark", 0), ("bright", 150))[index % 2]
        (pictures / name).mkdir(exist_ok=True)
        pixels = dice.integers(low, low + 100, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(pictures / name / f"{index}.png")
    torch.manual_seed(0)
    widths = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}
    config = AutoConfig.for_model("vit", **widths, image_size=24, patch_size=8)
    AutoModel.from_config(config).save_pretrained(place)
    return find_model(str(place)), read_dataset(str(pictures))


def _hearing(place: Path, sounds: Path) -> Subject:
    dice = np.random.default_rng(0)
    for index in range(40):
        name, hertz = (("low", 200), ("high", 1500))[index % 2]
        (sounds / name).mkdir(exist_ok=True)
        wave = np.sin(2 * np.pi * hertz * np.arange(4000) / 16_000) + 0.1 * dice.standard_normal(4000)
        wavfile.write(sounds / name / f"{index}.wav", 16_000, (8000 * wave).astype(np.int16))
    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.for_model("wav2vec2", **HEARING)).save_pretrained(place)
    return find_model(str(place)), read_dataset(str(sounds))


def exported(base: BaseModel, dataset: Dataset, method: str, folder: Path) -> tuple[Path, Bundle]:
    """Train a step and write everything that an export holds, but for its own check."""
    rank = SMALL_RANK if METHODS[method].has_rank and method != "miss" else None
    asked = Candidate(method=method, training=TRAINING, knobs=KNOBS.get(method, {}), rank=rank)
    require_support(asked, base, dataset.task)
    run = Trainer(base, dataset, asked, seed=0)
    measured = TrialResult(state="complete", reports=(run.advance(TRAINING.batch_size),))
    folder.mkdir()
    draft = Bundle(
        path=str(folder),
        format=bundle_format(method),
        model="tiny",
        task=dataset.task,
        head=head_name(base.family, dataset.task, base.config.get("model_type", "")) or "",
        labels=dataset.labels,
        candidate=asked,
        budget=Budget(),
        predicted=None,
        measured=measured,
        metric=dataset.metric,
        test_score=0.5,
        low=0.4,
        high=0.6,
        data=dataset.name,
        data_fingerprint=dataset.fingerprint,
        seed=0,
        study="study",
        trial=0,
        versions={},
    )
    return folder, describe(folder, fill(folder, run, draft), None)


@pytest.mark.parametrize("method", claimed(QUICK, quick=True))
@pytest.mark.slow
def test_an_additive_method_s_export_gives_the_recorded_logits(method: str, found) -> None:
    assert found(QUICK, quick=True)[method] <= 1e-5


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("family", "method"), SLOW)
def test_every_other_export_gives_the_recorded_logits(
    family: Family, method: str, found, record_testsuite_property
) -> None:
    answer = found(family, quick=False)[method]
    record_testsuite_property(f"{family} {method}", answer)
    assert not isinstance(answer, str), answer
    assert answer <= 1e-5


def test_only_methods_that_peft_does_not_save_are_not_exported() -> None:
    assert {name for name in METHODS if find_method(name).exports == "none"} == {"xlora"}
