"""Tests of autopeft/cost/tracing/batches.py: every family takes a step, and the fake one is the true one."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Self

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch._subclasses import FakeTensorMode
from transformers import AutoConfig

from autopeft.cost.tape import Category, Phase
from autopeft.cost.tracing.batches import assumptions, make_batch
from autopeft.cost.tracing.recorder import Recorder
from autopeft.cost.tracing.shims import traced_as
from autopeft.errors import InputError, UnsupportedError
from autopeft.methods.adapt import trainable
from autopeft.methods.heads import auto_class, default_task, head_family, head_modules, peft_task_type
from autopeft.methods.placement import resolve_targets, shorten
from autopeft.space.candidate import Training
from autopeft.train.step import make_optimizer, training_step
from autopeft.workload.senses import hears_waveforms

SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
IMAGES = SIZES | {"image_size": 28, "patch_size": 14}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
STACKS = {
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "vocab_size": 100,
    "dropout": 0.0,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 3,
}
LANGUAGE = SIZES | {"num_key_value_heads": 2, "vocab_size": 100, "bos_token_id": 1, "eos_token_id": 2}
WAVES = {
    "conv_dim": (16, 16),
    "conv_kernel": (10, 8),
    "conv_stride": (5, 4),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 16,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "feat_proj_dropout": 0.0,
    "apply_spec_augment": False,
    "layerdrop": 0.0,
}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("decoder", LANGUAGE),
    "t5": (
        "encoder-decoder",
        {
            "d_model": 64,
            "num_layers": 2,
            "num_heads": 4,
            "d_kv": 16,
            "d_ff": 128,
            "vocab_size": 100,
            "dropout_rate": 0.0,
            "decoder_start_token_id": 0,
        },
    ),
    "bart": ("encoder-decoder", STACKS | {"max_position_embeddings": 64}),
    "vit": ("vision", IMAGES | NO_DROPOUT),
    "dinov2": ("vision", IMAGES | {"mlp_ratio": 2}),
    "clip": ("multimodal", {"vision_config": IMAGES, "text_config": SIZES}),
    "siglip": ("multimodal", {"vision_config": IMAGES, "text_config": SIZES}),
    "whisper": (
        "speech",
        STACKS | {"max_source_positions": 30, "max_target_positions": 40, "num_mel_bins": 8},
    ),
    "wav2vec2": ("speech", SIZES | WAVES),
    "hubert": ("speech", SIZES | WAVES | {"feat_extract_norm": "layer", "do_stable_layer_norm": True}),
    "esm": (
        "encoder",
        SIZES
        | NO_DROPOUT
        | {"vocab_size": 33, "position_embedding_type": "rotary", "pad_token_id": 1, "mask_token_id": 32},
    ),
    "qwen2_vl": (
        "multimodal",
        {
            "text_config": LANGUAGE
            | {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e6}},
            "vision_config": {"depth": 2, "embed_dim": 64, "hidden_size": 64, "num_heads": 4, "mlp_ratio": 2},
            "image_token_id": 95,
        },
    ),
    "llava": (
        "multimodal",
        {
            "text_config": LANGUAGE | {"model_type": "llama"},
            "vision_config": IMAGES | {"model_type": "clip_vision_model"},
            "image_token_id": 95,
        },
    ),
}
# They throw dice for each layer, to skip it where the result is below a rate of 0.
_DICE = {"a bool read from a tensor taken to be False"}
# HuBERT is told which samples are padding and writes zeros over their places: a few small operators more on a
# real device, not at the peak.
STEPS = [(name, default_task(family, name)) for name, (family, _) in CONFIGS.items() if name != "hubert"]
STEPS += [(name, "classification") for name in ("t5", "bart", "whisper")]
ROWS, LENGTH = 2, 16
# `unique_consecutive` keeps room for every row on a real device, and for the one it finds on a fake one.
ROOM = 8 * (ROWS - 1) * 2


class _Mode(FakeTensorMode):
    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


@contextmanager
def _faked(family: Any, name: str, target: Any, padded: bool) -> Iterator[None]:
    kind = head_family(family, name)
    shims = traced_as(
        target,
        padded=padded,
        causal_padded=padded and kind not in ("encoder-decoder", "speech"),
        reads_values=kind in ("encoder-decoder", "multimodal"),
    )
    with _Mode(allow_non_fake_inputs=True), shims:
        yield


def _config(name: str) -> Any:
    config = AutoConfig.for_model(name, **CONFIGS[name][1])
    config.num_labels = 3
    if getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = 0
    return config


def _step(name: str, task: Any, *, padded: bool, fake_on: str | None) -> Recorder:
    """Take two steps of LoRA r=4 at all linear modules, and record them."""
    config, family, training = _config(name), CONFIGS[name][0], Training()
    kind = head_family(family, name)  # type: ignore[arg-type]
    recorder = Recorder(reads_values=kind in ("encoder-decoder", "multimodal"))
    gc.collect()
    gc.disable()
    try:
        with ExitStack() as stack:
            if fake_on is not None:
                stack.enter_context(_faked(family, name, fake_on, padded))
            stack.enter_context(recorder)
            model: Any = auto_class(family, task, config).from_config(config)  # type: ignore[arg-type]
            model.config.use_cache = False
            lora = LoraConfig(
                r=4,
                target_modules=shorten(model, resolve_targets(model, "all-linear", "all")),
                task_type=peft_task_type(family, task, name),  # type: ignore[arg-type]
                modules_to_save=head_modules(model) if task == "classification" else None,
            )
            model = get_peft_model(model, lora)
            model.train()
            optimizer = make_optimizer(model, training)
            recorder.assign([*model.buffers(), *model.parameters()], Category.WEIGHTS)
            recorder.assign(trainable(model), Category.ADAPTER)
            for step in range(2):
                _record_step(
                    recorder,
                    model,
                    optimizer,
                    training,
                    step,
                    lambda: make_batch(
                        config,
                        family,
                        task,
                        rows=ROWS,
                        length=LENGTH,
                        padded=padded,
                        labels=3,  # type: ignore[arg-type]
                    ),
                )
    finally:
        gc.enable()
    return recorder


def _record_step(
    recorder: Recorder, model: Any, optimizer: Any, training: Training, step: int, make: Any
) -> None:
    phases = {"forward": Phase.FORWARD, "backward": Phase.BACKWARD, "optimizer": Phase.OPTIMIZER}

    def enter(phase: str) -> None:
        recorder.assign((p.grad for p in trainable(model) if p.grad is not None), Category.GRADIENTS)
        recorder.enter(step, 0, phases[phase])

    def batches() -> Iterator[Any]:
        enter("forward")
        with recorder.without_operators():
            batch = make()
        recorder.assign(batch.values(), Category.OTHER)
        yield batch

    gc.collect()
    training_step(model, batches(), optimizer, training, enter)
    for state in optimizer.state.values():
        recorder.assign((v for v in state.values() if isinstance(v, torch.Tensor)), Category.OPTIMIZER)


def _totals(recorder: Recorder) -> dict[str, int]:
    """Return the bytes ever allocated in the steps, by category, and the peak."""
    totals = dict.fromkeys((category.name for category in Category), 0)
    for event in recorder.events[recorder.spans[1].event :]:
        if event >= 0:
            totals[Category(recorder.categories[event]).name] += recorder.sizes[event]
    live = peak = 0
    for event in recorder.events:
        live += recorder.sizes[event] if event >= 0 else -recorder.sizes[~event]
        peak = max(peak, live)
    return totals | {"peak": peak}


@pytest.mark.parametrize("padded", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("name", "task"), STEPS)
def test_a_real_step_of_every_family_is_the_fake_one_byte_for_byte(name, task, padded):
    real = _step(name, task, padded=padded, fake_on=None)
    fake = _step(name, task, padded=padded, fake_on="cpu")
    expected, found = _totals(real), _totals(fake)
    if name in ("t5", "bart") and task == "classification":
        assert 0 <= expected["TEMPORARY"] - found["TEMPORARY"] <= ROOM
        found["TEMPORARY"] = expected["TEMPORARY"]
    assert found == expected
    assert [each[0] for each in fake.operators] == [each[0] for each in real.operators]
    assert set(fake.guesses) <= (_DICE if hears_waveforms(name) else set())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "task"), STEPS)
def test_every_family_traces_for_cuda_too(name, task):
    recorder = _step(name, task, padded=True, fake_on="cuda")
    assert set(recorder.guesses) <= (_DICE if hears_waveforms(name) else set())
    assert recorder.operators


def _batch(name: str, **fields: Any) -> dict[str, torch.Tensor]:
    family = CONFIGS[name][0]
    settings = {"task": default_task(family, name), "rows": 3, "length": 12, "padded": True, "labels": 2}
    return make_batch(_config(name), family, **(settings | fields))  # type: ignore[arg-type]


def _shapes(name: str, **fields: Any) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in _batch(name, **fields).items()}


def test_batches_have_the_shapes_that_trainers_feed():
    text = {"input_ids": (3, 12), "attention_mask": (3, 12)}
    assert _shapes("llama") == text | {"labels": (3, 12)}
    assert _shapes("esm") == text | {"labels": (3,)}
    assert _shapes("t5", target_length=5) == text | {"labels": (3, 5)}
    assert _shapes("vit") == {"pixel_values": (3, 3, 28, 28), "labels": (3,)}
    assert _shapes("whisper") == {"input_features": (3, 8, 60), "labels": (3, 12)}
    assert _shapes("wav2vec2") == {"input_values": (3, 5 * 4 * 11 + 5 * 7 + 10), "labels": (3,)}
    assert _shapes("hubert")["attention_mask"] == _shapes("hubert")["input_values"]
    assert _shapes("llava")["pixel_values"] == (3, 3, 28, 28)
    assert _shapes("qwen2_vl")["image_grid_thw"] == (3, 3)


def test_images_of_dinov2_are_cropped_as_its_processor_does():
    config = _config("dinov2")
    config.image_size = 518
    batch = make_batch(config, "vision", "classification", rows=3, length=12, padded=False, labels=2)
    assert batch["pixel_values"].shape == (3, 3, 224, 224)


def test_image_tokens_in_a_row_are_as_many_as_the_image_has_features():
    for name, merged in (("llava", 4), ("qwen2_vl", 4)):
        ids = _batch(name, length=12)["input_ids"]
        assert ((ids == 95).sum(1) == merged).all()
    grid = _batch("qwen2_vl", length=2048)["image_grid_thw"]
    assert grid.tolist() == [[1, 32, 32]] * 3


def test_only_the_first_row_is_padded_and_only_if_asked():
    for name in ("llama", "t5", "bart", "llava", "qwen2_vl"):
        mask = _batch(name)["attention_mask"]
        assert mask[0, -1] == 0
        assert mask.sum() == mask.numel() - 1
        assert _batch(name, padded=False)["attention_mask"].all()


def test_a_source_holds_one_end_token_in_its_last_place_that_is_no_padding():
    batch = _batch("bart", task="classification")
    ends = (batch["input_ids"] == 2).nonzero().tolist()
    assert ends == [[0, 10], [1, 11], [2, 11]]


def test_packed_rows_become_one_without_padding():
    batch = _batch("llama", packed=True)
    assert set(batch) == {"input_ids", "position_ids", "labels"}
    assert all(tensor.shape == (1, 36) for tensor in batch.values())
    assert (batch["position_ids"] == 0).sum() == 6


@pytest.mark.parametrize("name", ["t5", "vit", "whisper", "esm", "llava"])
def test_packing_is_for_the_fine_tuning_of_decoders(name):
    with pytest.raises(UnsupportedError, match="leave packing out"):
        _batch(name, packed=True)


def test_rows_that_the_model_cannot_take_are_input_errors():
    with pytest.raises(InputError, match="seq_len <= 40"):
        _batch("whisper", length=41)
    with pytest.raises(InputError, match="seq_len >= 7"):
        _batch("llava", length=6)


def test_a_regression_has_labels_of_floats():
    assert _batch("esm", labels=1)["labels"].dtype is torch.float32
    assert _batch("esm", labels=2)["labels"].dtype is torch.int64


def test_what_is_made_up_is_said():
    def said(name: str, **fields: Any) -> tuple[str, ...]:
        family = CONFIGS[name][0]
        return assumptions(_config(name), family, default_task(family, name), 12, **fields)  # type: ignore[arg-type]

    assert said("llama") == ()
    assert said("t5") == ("targets taken to be as long as their sources",)
    assert said("t5", target_length=4) == ()
    assert said("vit") == ("images of 28 x 28 pixels",)
    assert said("llava") == ("one image in each row",)
    assert said("qwen2_vl") == ("one image of 56 x 56 pixels in each row",)
