"""Ladder side-tuning: parameters, where it starts, and that backward stays out of the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoConfig, AutoModelForImageClassification, AutoModelForSequenceClassification

from autopeft.errors import InputError, UnsupportedError
from autopeft.methods.adapt import adapt, trainable
from autopeft.methods.backbone import build_backbone
from autopeft.methods.registry import complete
from autopeft.space.candidate import Candidate, Training
from autopeft.workload.base_model import BaseModel

TRAINING = Training(max_length=32)
MODELS = ["tiny_bert", "tiny_llama", "tiny_gpt2"]


def tiny(base: BaseModel, training: Training = TRAINING) -> Any:
    torch.manual_seed(0)
    return build_backbone(base, "classification", 2, training, weights=False)


def ladder(base: BaseModel, training: Training = TRAINING, **knobs: Any) -> Any:
    candidate = Candidate(method="lst", knobs=knobs, training=training)
    return adapt(tiny(base, training), candidate, "classification")


def batch() -> dict[str, torch.Tensor]:
    ids = torch.arange(4, 52).reshape(4, 12)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.tensor([0, 1, 0, 1])}


def layers_of(model: Any) -> list[Any]:
    return [module for module in model.modules() if type(module).__name__ == "LadderLayer"]


def shaken(model: Any) -> Any:
    """Move the side network away from its start, at which it adds nothing."""
    torch.manual_seed(1)
    for layer in layers_of(model):
        for up in layer.ladder_up.values():
            nn.init.normal_(up.weight, std=0.1)
    return model


@pytest.fixture(params=MODELS)
def base(request: pytest.FixtureRequest) -> BaseModel:
    return request.getfixturevalue(request.param)


def test_the_adapted_model_starts_as_the_base_model(base: BaseModel) -> None:
    with torch.inference_mode():
        before = tiny(base).eval()(**batch()).logits
        assert torch.allclose(ladder(base).eval()(**batch()).logits, before, atol=1e-6)
        assert not torch.allclose(shaken(ladder(base)).eval()(**batch()).logits, before, atol=1e-3)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_backward_never_enters_the_model_s_layers(base: BaseModel, checkpointing: bool) -> None:
    model = shaken(ladder(base, Training(max_length=32, gradient_checkpointing=checkpointing))).train()
    inside = False
    kept = {True: 0, False: 0}
    made: list[torch.Tensor] = []

    def enter(module: nn.Module, args: object) -> None:
        nonlocal inside
        inside = True

    def leave(module: nn.Module, args: object, out: torch.Tensor) -> None:
        nonlocal inside
        inside = False
        made.append(out)

    for layer in layers_of(model):
        layer.base_layer.register_forward_pre_hook(enter)
        layer.base_layer.register_forward_hook(leave)

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[inside] += 1
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(**batch()).loss
    assert kept[True] == 0 < kept[False]
    assert len(made) == len(layers_of(model))
    assert not any(out.requires_grad for out in made)
    loss.backward()
    frozen = [p for layer in layers_of(model) for p in layer.base_layer.parameters()]
    assert all(p.grad is None for p in frozen)
    assert all(p.grad is not None and p.grad.any() for n, p in model.named_parameters() if ".ladder_up." in n)
    moved = [
        n for n, p in model.named_parameters() if "ladder_down" in n and n.endswith("weight") and p.grad.any()
    ]
    assert len(moved) == len(layers_of(model))


def test_the_side_network_of_a_bert_has_the_parameters_of_its_formula(tiny_bert: BaseModel) -> None:
    """Width d = 32 becomes e = 16 with two heads of four, the inner width 64 becomes f = 32."""
    d, e, f, layers = 32, 16, 32, 4
    down = d * e + e
    side = 4 * (e * e + e) + 2 * e * f + f + e + 2 * 2 * e
    gates, up = layers - 1, e * d + d
    model = ladder(tiny_bert, reduction=2)
    trained = sum(p.numel() for n, p in model.named_parameters() if p.requires_grad and "ladder" in n)
    assert trained == layers * (down + side) + gates + up


def test_a_layer_mixes_the_layer_below_and_the_model_by_its_gate(tiny_bert: BaseModel) -> None:
    model = ladder(tiny_bert).eval()
    second = layers_of(model)[1]
    entered: list[torch.Tensor] = []
    second.ladder_side["default"].register_forward_pre_hook(lambda module, args: entered.append(args[0]))
    below: list[torch.Tensor] = []
    layers_of(model)[0].ladder_side["default"].register_forward_hook(
        lambda module, args, out: below.append(out)
    )
    hidden: list[torch.Tensor] = []
    second.register_forward_pre_hook(lambda module, args: hidden.append(args[0]))
    nn.init.constant_(second.ladder_gate["default"], 0.05)
    with torch.no_grad():
        model(**batch())
        gate = torch.sigmoid(torch.tensor(0.05 / 0.1))
        expected = gate * second.ladder_down["default"](hidden[0]) + (1 - gate) * below[0]
    assert torch.allclose(entered[0], expected, atol=1e-6)


def test_nothing_is_kept_from_one_forward_to_the_next(base: BaseModel) -> None:
    model = ladder(base)
    model(**batch())
    assert not any(layer.below for layer in layers_of(model))


def test_generation_gives_what_whole_rows_give(tiny_llama: BaseModel) -> None:
    torch.manual_seed(0)
    plain = build_backbone(tiny_llama, "sft", 2, TRAINING, weights=False)
    model = shaken(adapt(plain, Candidate(method="lst"), "sft")).eval()
    ids = batch()["input_ids"][:1]
    with torch.no_grad():
        written = model.generate(input_ids=ids, max_new_tokens=4, min_new_tokens=4, do_sample=False)
        for place in range(ids.shape[1], written.shape[1]):
            assert model(input_ids=written[:, :place]).logits[0, -1].argmax() == written[0, place]


def test_a_cache_is_refused(tiny_llama: BaseModel) -> None:
    with pytest.raises(ValueError, match="set use_cache=False"):
        ladder(tiny_llama)(**batch(), use_cache=True)


def test_a_disabled_side_network_leaves_the_base_model(tiny_llama: BaseModel) -> None:
    before = tiny(tiny_llama).eval()(**batch()).logits
    model = shaken(ladder(tiny_llama)).eval()
    with model.disable_adapter():
        assert torch.allclose(model(**batch()).logits, before, atol=1e-6)
    with pytest.raises(ValueError, match="cannot be merged"):
        model.merge_and_unload()
    assert not layers_of(model.unload())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_side_network_of_a_16_bit_model_is_trained_in_32_bits(base: BaseModel, attention: str) -> None:
    model = tiny(base, Training(max_length=32, precision="bf16"))
    model.set_attn_implementation(attention)
    model = adapt(model, Candidate(method="lst"), "classification")
    assert {p.dtype for n, p in model.named_parameters() if ".ladder_" in n} == {torch.float32}
    inputs = batch()
    inputs["attention_mask"][0, 6:] = 0
    model(**inputs).loss.backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if "ladder_down" in n)


def test_another_name_of_the_adapter_loads_too(tiny_llama: BaseModel, tmp_path: Path) -> None:
    model = shaken(ladder(tiny_llama)).eval()
    model.save_pretrained(str(tmp_path))
    loaded = PeftModel.from_pretrained(tiny(tiny_llama), str(tmp_path), adapter_name="side").eval()
    assert torch.allclose(loaded(**batch()).logits, model(**batch()).logits, atol=1e-5)


SMALL = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 60}
KINDS: dict[str, dict[str, Any]] = {
    "opt": {**SMALL, "num_hidden_layers": 2, "ffn_dim": 64, "word_embed_proj_dim": 32},
    "gpt_neox": {**SMALL, "num_hidden_layers": 2},
    "qwen2": {**SMALL, "num_hidden_layers": 2, "num_key_value_heads": 2},
    "gemma2": {**SMALL, "num_hidden_layers": 2, "num_key_value_heads": 2, "head_dim": 8},
    "mistral": {**SMALL, "num_hidden_layers": 2, "num_key_value_heads": 2},
    "roberta": {**SMALL, "num_hidden_layers": 2},
    "modernbert": {**SMALL, "num_hidden_layers": 2},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "vocab_size": 60},
}


@pytest.mark.parametrize("kind", KINDS)
def test_text_models_of_many_kinds_take_a_side_network(kind: str) -> None:
    config = AutoConfig.for_model(kind, **KINDS[kind], pad_token_id=0)
    plain = AutoModelForSequenceClassification.from_config(config)
    model = shaken(adapt(plain, Candidate(method="lst"), "classification"))
    model(**batch()).loss.backward()
    assert all(p.grad is not None for p in trainable(model))


def test_a_vision_model_takes_a_side_network_that_reloads(tmp_path: Path) -> None:
    config = AutoConfig.for_model("vit", **SMALL, num_hidden_layers=2, image_size=32)

    def build() -> Any:
        torch.manual_seed(0)
        return AutoModelForImageClassification.from_config(config)

    model = shaken(adapt(build(), Candidate(method="lst"), "classification")).eval()
    inputs = {"pixel_values": torch.ones(2, 3, 32, 32), "labels": torch.tensor([0, 1])}
    out = model(**inputs)
    out.loss.backward()
    assert all(p.grad is not None for p in trainable(model))
    model.save_pretrained(str(tmp_path))
    loaded = PeftModel.from_pretrained(build(), str(tmp_path)).eval()
    assert torch.allclose(loaded(**inputs).logits, out.logits, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 60}, "are given alibi"),
        ("albert", {**SMALL, "num_hidden_layers": 2, "embedding_size": 8}, "needs one stack of layers"),
    ],
)
def test_a_model_that_cannot_take_one_says_why(kind: str, fields: dict[str, Any], message: str) -> None:
    base = BaseModel(
        name=kind,
        family="decoder" if kind == "bloom" else "encoder",
        source="made for tests",
        config={"model_type": kind, **fields},
    )
    with pytest.raises(UnsupportedError, match=message):
        ladder(base)


def test_bad_settings_are_refused(tiny_bert: BaseModel) -> None:
    with pytest.raises(InputError, match="reduction must be a number from 1"):
        ladder(tiny_bert, reduction=0)
    with pytest.raises(InputError, match="chooses its own place"):
        complete(Candidate(method="lst", layers="0-1"))
