"""Bottleneck adapters against their papers: parameters, placement, what they read, where they start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    AutoModelForSeq2SeqLM,
    AutoModelForSpeechSeq2Seq,
)

from autopeft.errors import InputError, UnsupportedError
from autopeft.methods.adapt import adapt, trainable
from autopeft.methods.backbone import build_backbone
from autopeft.methods.own_methods import OWN_METHODS
from autopeft.methods.registry import complete
from autopeft.space.candidate import Candidate, Training
from autopeft.workload.base_model import BaseModel

SIZE, WIDTH, INNER, LAYERS = 8, 32, 64, 4
TRAINING = Training(max_length=32)
BOTTLENECKS = [spec.name for spec in OWN_METHODS if "size" in spec.knobs]


def tiny(base: BaseModel, task: str = "classification") -> Any:
    torch.manual_seed(0)
    return build_backbone(base, task, 2, TRAINING, weights=False)


def adapted(base: BaseModel, method: str, task: str = "classification", **asked: Any) -> Any:
    knobs = {"size": SIZE, **asked.pop("knobs", {})}
    return adapt(tiny(base, task), Candidate(method=method, knobs=knobs, **asked), task)


def count(model: nn.Module) -> int:
    return sum(p.numel() for name, p in model.named_parameters() if p.requires_grad and "bottleneck" in name)


def batch() -> dict[str, torch.Tensor]:
    ids = torch.arange(4, 52).reshape(4, 12)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


PLAIN = 2 * SIZE * WIDTH + WIDTH + SIZE  # Houlsby et al. 2019, section 2.1: 2 m d + d + m
# Karimi Mahabadi et al. 2021, section 4.3: 2 (k + d) for the matrices; then the biases of both.
KRONECKER = 2 * (SIZE + WIDTH) + SIZE + WIDTH


@pytest.mark.parametrize(
    ("method", "knobs", "expected"),
    [
        ("bottleneck", {}, LAYERS * 2 * PLAIN),
        ("houlsby", {}, LAYERS * 2 * PLAIN),
        ("pfeiffer", {}, LAYERS * PLAIN),
        ("adapterdrop", {"dropped": 1}, (LAYERS - 1) * PLAIN),
        ("adapterdrop", {"dropped": 0}, LAYERS * PLAIN),
        ("parallel_adapter", {}, LAYERS * PLAIN),
        ("compacter", {"division": 4}, LAYERS * 2 * KRONECKER + 4**3),
        ("compacter", {"division": 2}, LAYERS * 2 * KRONECKER + 2**3),
    ],
)
def test_adapters_have_the_parameters_of_the_papers(method, knobs, expected, tiny_bert) -> None:
    assert count(adapted(tiny_bert, method, knobs=knobs)) == expected


@pytest.mark.parametrize("base", ["tiny_bert", "tiny_llama", "tiny_gpt2"])
@pytest.mark.parametrize("method", BOTTLENECKS)
def test_the_adapted_model_starts_as_the_base_model(method, base, request) -> None:
    plain = tiny(request.getfixturevalue(base)).eval()
    with torch.inference_mode():
        before = plain(**batch()).logits
        after = adapt(plain, Candidate(method=method), "classification").eval()(**batch()).logits
    assert torch.allclose(after, before, atol=1e-6)


@pytest.mark.parametrize("method", BOTTLENECKS)
def test_every_weight_of_an_adapter_gets_a_gradient_and_no_other_does(method, tiny_llama) -> None:
    model = adapted(tiny_llama, method, "sft")
    for parameter in trainable(model):
        nn.init.normal_(parameter, std=0.1)
    model(**batch(), labels=batch()["input_ids"]).loss.backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert with_gradient == {name for name, _ in model.named_parameters() if ".bottleneck_" in name}


def test_houlsby_stands_behind_attention_and_feed_forward_and_pfeiffer_behind_the_latter(tiny_bert) -> None:
    places = {
        method: {
            name.partition(".bottleneck")[0].partition(".layer.0.")[2]
            for name, _ in adapted(tiny_bert, method).named_parameters()
            if ".bottleneck_" in name and ".layer.0." in name
        }
        for method in ("houlsby", "pfeiffer")
    }
    assert places == {"houlsby": {"attention.output.dense", "output.dense"}, "pfeiffer": {"output.dense"}}


@pytest.mark.parametrize(
    ("base", "block", "target"),
    [
        ("tiny_llama", "model.layers.1.mlp", "down"),
        ("tiny_gpt2", "transformer.h.1.mlp", "down"),
        ("tiny_llama", "model.layers.1.self_attn", "output"),
    ],
)
def test_a_parallel_adapter_adds_what_it_makes_of_the_input_of_the_block(
    base, block, target, request
) -> None:
    """H + s W_up relu(W_down x) (He et al. 2022, table 1), x being what goes into the block."""
    seen: dict[str, Any] = {}

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        del module
        seen.update(
            entered=(args or (kwargs.get("hidden_states"),))[0],
            left=out[0] if isinstance(out, tuple) else out,
        )

    model = adapted(
        request.getfixturevalue(base), "parallel_adapter", targets=target, layers=(1,), knobs={"scale": 3.0}
    ).eval()
    for parameter in trainable(model):
        nn.init.normal_(parameter, std=0.1)
    model.get_base_model().get_submodule(block).register_forward_hook(note, with_kwargs=True)
    with torch.no_grad():
        model(**batch())
        changed = seen["left"]
        with model.disable_adapter():
            model(**batch())
        (layer,) = [m for m in model.modules() if type(m).__name__ == "BottleneckLayer"]
        down, up = layer.bottleneck_down["default"], layer.bottleneck_up["default"]
        expected = seen["left"] + 3.0 * up(torch.relu(down(seen["entered"])))
    assert torch.allclose(changed, expected, atol=1e-6)


def test_a_parallel_adapter_at_a_matrix_that_ends_no_block_reads_its_input(tiny_llama) -> None:
    model = adapted(tiny_llama, "parallel_adapter", targets="up", layers=(0,)).eval()
    for parameter in trainable(model):
        nn.init.normal_(parameter, std=0.1)
    layer = model.get_base_model().model.layers[0].mlp.up_proj
    hidden = torch.randn(2, 3, WIDTH)
    down, up = layer.bottleneck_down["default"], layer.bottleneck_up["default"]
    expected = layer.base_layer(hidden) + 4.0 * up(torch.relu(down(hidden)))
    assert torch.allclose(layer(hidden), expected, atol=1e-6)
    assert down.in_features == WIDTH
    assert up.out_features == INNER


def test_a_block_keeps_its_input_no_longer_than_it_runs(tiny_llama) -> None:
    model = adapted(tiny_llama, "parallel_adapter")
    model(**batch())
    layers = [m for m in model.modules() if type(m).__name__ == "BottleneckLayer"]
    with pytest.raises(RuntimeError, match="must be run whole"):
        layers[0].entrance.take()


def test_adapterdrop_leaves_the_first_layers_without_gradients(tiny_llama) -> None:
    model = adapted(tiny_llama, "adapterdrop", "sft", knobs={"dropped": 2})
    assert {
        int(n.split("layers.")[1].split(".")[0]) for n, p in model.named_parameters() if p.requires_grad
    } == {2, 3}
    passed = []
    for layer in model.get_base_model().model.layers:
        layer.register_forward_hook(lambda module, args, out: passed.append(out.requires_grad))
    model(**batch())
    assert passed == [False, False, True, True]


def test_layers_that_are_given_win_over_those_dropped() -> None:
    assert complete(Candidate(method="adapterdrop", knobs={"dropped": 5})).layers == "5-"
    assert complete(Candidate(method="adapterdrop", layers="last-half")).layers == "last-half"


def test_the_shared_matrices_of_compacter_are_saved_once(tiny_bert, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model = adapted(tiny_bert, "compacter")
    model.save_pretrained(str(tmp_path))
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert [tuple(t.shape) for name, t in saved.items() if "slow" in name] == [(4, 4, 4)]
    assert sum(t.numel() for name, t in saved.items() if "bottleneck" in name) == count(model)


@pytest.mark.parametrize(
    ("method", "knobs", "error", "message"),
    [
        ("houlsby", {"size": 0}, InputError, "size must be a number from 1"),
        ("parallel_adapter", {"scale": "big"}, InputError, "scale must be a number"),
        ("pfeiffer", {"scale": 2.0}, InputError, "pfeiffer has no knob scale; it has: size"),
        ("adapterdrop", {"dropped": 9}, InputError, "layers must lie in 0 to 3"),
        ("adapterdrop", {"dropped": -1}, InputError, "dropped must be a number from 0"),
        ("compacter", {"division": 0}, InputError, "division must be a number from 1"),
        (
            "compacter",
            {"division": 3},
            UnsupportedError,
            "division must divide .* division=3, widths 32 and 8",
        ),
    ],
)
def test_a_bad_knob_is_refused_in_one_line(method, knobs, error, message, tiny_bert) -> None:
    with pytest.raises(error, match=message) as refused:
        adapted(tiny_bert, method, knobs=knobs)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("method", ["houlsby", "parallel_adapter", "compacter"])
def test_unloading_gives_the_base_model_back_and_merging_is_refused(method, tiny_llama) -> None:
    before = tiny(tiny_llama).eval()(**batch()).logits
    model = adapted(tiny_llama, method)
    for name, parameter in model.named_parameters():
        if "bottleneck" in name:
            nn.init.normal_(parameter)
    with pytest.raises(ValueError, match="cannot be merged"):
        model.merge_and_unload()
    plain = model.unload().eval()
    assert not any("bottleneck" in name for name, _ in plain.named_modules())
    assert not any(module._forward_pre_hooks for module in plain.modules())
    assert torch.allclose(plain(**batch()).logits, before, atol=1e-6)


@pytest.mark.parametrize("method", BOTTLENECKS)
def test_an_adapter_of_a_16_bit_model_is_trained_in_32_bits(method, tiny_llama) -> None:
    half = Training(max_length=32, precision="bf16")
    model = build_backbone(tiny_llama, "sft", 2, half, weights=False)
    model = adapt(model, Candidate(method=method, training=half), "sft")
    assert {p.dtype for p in trainable(model)} == {torch.float32}
    assert model(**batch()).logits.dtype == torch.bfloat16


def t5() -> Any:
    config = AutoConfig.for_model("t5", d_model=32, d_ff=64, d_kv=8, num_heads=4, num_layers=2, vocab_size=60)
    config.decoder_start_token_id = config.pad_token_id = 0
    torch.manual_seed(0)
    return AutoModelForSeq2SeqLM.from_config(config)


def whisper() -> Any:
    widths = {"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "num_mel_bins": 8}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    lengths = {
        "encoder_layers": 2,
        "decoder_layers": 2,
        "max_source_positions": 16,
        "max_target_positions": 16,
    }
    tokens = {"vocab_size": 60, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = AutoConfig.for_model("whisper", **widths, **heads, **lengths, **tokens, decoder_start_token_id=1)
    torch.manual_seed(0)
    return AutoModelForSpeechSeq2Seq.from_config(config)


def vit() -> Any:
    config = AutoConfig.for_model(
        "vit", hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=32
    )
    torch.manual_seed(0)
    return AutoModelForImageClassification.from_config(config)


@pytest.mark.parametrize("method", BOTTLENECKS)
@pytest.mark.parametrize(
    ("build", "task", "inputs"),
    [
        (t5, "sft", {"input_ids": torch.arange(24).reshape(2, 12), "labels": torch.arange(8).reshape(2, 4)}),
        (whisper, "sft", {"input_features": torch.ones(2, 8, 32), "labels": torch.arange(8).reshape(2, 4)}),
        (vit, "classification", {"pixel_values": torch.ones(2, 3, 32, 32), "labels": torch.tensor([0, 1])}),
    ],
    ids=["t5", "whisper", "vit"],
)
def test_models_of_other_families_are_adapted_saved_and_reloaded(
    build, task, inputs, method, tmp_path: Path
) -> None:
    knobs = {"dropped": 1} if method == "adapterdrop" else {}
    model = adapt(build(), Candidate(method=method, knobs=knobs), task).eval()
    for name, parameter in model.named_parameters():
        if "bottleneck_up" in name:
            nn.init.normal_(parameter, std=0.1)
    out = model(**inputs)
    out.loss.backward()
    assert all(p.grad is not None for p in trainable(model))
    model.save_pretrained(str(tmp_path))
    loaded = PeftModel.from_pretrained(build(), str(tmp_path)).eval()
    assert torch.allclose(loaded(**inputs).logits, out.logits, atol=1e-5)
