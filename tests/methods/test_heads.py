"""Tests of autopeft/methods/heads.py: every family gets the head of its task, or a reason why not."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from peft import TaskType
from transformers import AutoConfig

from autopeft.errors import UnsupportedError
from autopeft.methods.heads import auto_class, default_task, head_modules, peft_task_type
from autopeft.workload.base_model import Family

HEADS = [
    ("llama", "decoder", "sft", "AutoModelForCausalLM"),
    ("llama", "decoder", "classification", "AutoModelForSequenceClassification"),
    ("bert", "encoder", "classification", "AutoModelForSequenceClassification"),
    ("esm", "encoder", "classification", "AutoModelForSequenceClassification"),
    ("t5", "encoder-decoder", "sft", "AutoModelForSeq2SeqLM"),
    ("t5", "encoder-decoder", "classification", "AutoModelForSequenceClassification"),
    ("bart", "encoder-decoder", "classification", "AutoModelForSequenceClassification"),
    ("vit", "vision", "classification", "AutoModelForImageClassification"),
    ("dinov2", "vision", "classification", "AutoModelForImageClassification"),
    ("clip", "multimodal", "classification", "AutoModelForImageClassification"),
    ("siglip", "multimodal", "classification", "AutoModelForImageClassification"),
    ("whisper", "speech", "sft", "AutoModelForSpeechSeq2Seq"),
    ("whisper", "speech", "classification", "AutoModelForAudioClassification"),
    ("qwen2_vl", "multimodal", "sft", "AutoModelForImageTextToText"),
    ("llava", "multimodal", "sft", "AutoModelForImageTextToText"),
]


@pytest.mark.parametrize(("model_type", "family", "task", "name"), HEADS)
def test_a_family_gets_the_class_that_builds_the_head_of_its_task(model_type, family, task, name):
    assert auto_class(family, task, AutoConfig.for_model(model_type)).__name__ == name


@pytest.mark.parametrize(
    ("model_type", "family", "task", "way_out"),
    [
        ("bert", "encoder", "sft", "use task classification"),
        ("vit", "vision", "sft", "use task classification"),
        ("clip", "multimodal", "sft", "use task classification"),
        ("llava", "multimodal", "classification", "use task sft"),
        ("marian", "encoder-decoder", "classification", "use task sft"),
        ("wav2vec2", "speech", "sft", "use task classification"),
        ("vit_mae", "vision", "classification", "another model"),
    ],
)
def test_a_head_that_does_not_exist_is_unsupported_with_the_way_out(model_type, family, task, way_out):
    with pytest.raises(UnsupportedError, match=way_out):
        auto_class(family, task, AutoConfig.for_model(model_type))


@pytest.mark.parametrize("family", get_args(Family))
def test_every_family_has_a_usual_task(family):
    expected = "classification" if family in ("encoder", "vision") else "sft"
    assert default_task(family) == expected


def test_dual_encoders_are_classified_with_although_they_are_multimodal():
    assert default_task("multimodal", "clip") == default_task("multimodal", "siglip") == "classification"


def test_peft_is_told_no_task_where_models_take_no_tokens():
    assert peft_task_type("vision", "classification", "vit") is None
    assert peft_task_type("multimodal", "classification", "clip") is None
    assert peft_task_type("speech", "sft", "whisper") is None
    assert peft_task_type("encoder-decoder", "sft", "t5") is TaskType.SEQ_2_SEQ_LM
    assert peft_task_type("encoder-decoder", "classification", "t5") is TaskType.SEQ_CLS
    assert peft_task_type("multimodal", "sft", "llava") is TaskType.CAUSAL_LM


@pytest.mark.parametrize(
    ("model_type", "family", "expected"),
    [
        ("bert", "encoder", ["classifier"]),
        ("llama", "decoder", ["score"]),
        ("t5", "encoder-decoder", ["classification_head"]),
        ("bart", "encoder-decoder", ["classification_head"]),
        ("vit", "vision", ["classifier"]),
        ("clip", "multimodal", ["classifier"]),
        ("whisper", "speech", ["projector", "classifier"]),
    ],
)
def test_the_modules_of_a_head_are_found_in_every_family(model_type, family, expected):
    config = AutoConfig.for_model(model_type)
    with torch.device("meta"):
        model = auto_class(family, "classification", config).from_config(config)
    assert head_modules(model) == expected
