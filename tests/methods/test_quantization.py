"""Quantised bases: the fake ones hold what the real ones hold, and LoRA trains on both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from autopeft.cost.tracing.recorder import Recorder
from autopeft.cost.tracing.shims import traced_as
from autopeft.cost.tracing.trace import _FakeMode
from autopeft.errors import InputError, UnknownNameError, UnsupportedError
from autopeft.methods.adapt import adapt, trainable
from autopeft.methods.backbone import build_backbone
from autopeft.methods.quantization.convert import (
    kept_modules,
    notes_on,
    quantize,
    state_tensors,
)
from autopeft.methods.quantization.kbit import prepare_kbit
from autopeft.methods.quantization.schemes import QUANTIZATIONS, find_quantization, normalise
from autopeft.space.candidate import Candidate, Training
from autopeft.workload.base_model import BaseModel
from autopeft.workload.models import find_model

BNB = ("nf4", "nf4-dq", "fp4", "fp4-dq", "int8")
TORCHAO = ("torchao-int8", "torchao-float8")
PLANNED = ("torchao-int4", "gptq-int4", "gptq-int8", "awq-int4", "hqq-int4", "hqq-int8")
CONFIG = {
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 320,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "pad_token_id": 0,
}
WEIGHTS_PER_LAYER = 2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 320
LLAMA = BaseModel(name="small-llama", family="decoder", source="made for tests", config=CONFIG)
BF16 = Training(precision="bf16", max_length=16)


@pytest.fixture(autouse=True)
def eager() -> Iterator[None]:
    """Keep bitsandbytes from compiling its CPU kernels, which takes longer than all tests."""
    with torch.compiler.set_stance("force_eager"):
        yield


@contextmanager
def fakes() -> Iterator[Recorder]:
    recorder = Recorder()
    with ExitStack() as stack:
        stack.enter_context(_FakeMode(allow_non_fake_inputs=True))
        stack.enter_context(traced_as("cuda", padded=False))
        yield stack.enter_context(recorder)


def llama() -> PreTrainedModel:
    fields = {k: v for k, v in CONFIG.items() if k != "model_type"}
    return LlamaForCausalLM(LlamaConfig(**fields, use_cache=False)).to(torch.bfloat16)


def held(model: torch.nn.Module) -> dict[str, list[Any]]:
    """What lies in memory, by tensor; torchao's tensors by what they are made of."""
    parameters = [(name, getattr(p, "qdata", p)) for name, p in model.named_parameters()]
    return {
        "parameters": [(name, tuple(p.shape), p.dtype) for name, p in parameters],
        "state": [(tuple(tensor.shape), tensor.dtype) for tensor in state_tensors(model)],
    }


def held_bytes(model: torch.nn.Module) -> int:
    tensors = [*model.parameters(), *state_tensors(model)]
    return sum(t.numel() * t.element_size() for t in tensors)


def extra_layer(name: str) -> torch.nn.Module:
    """A quantised layer of 256 inputs and 512 outputs."""
    model = llama()
    model.extra = torch.nn.ModuleList([torch.nn.Linear(256, 512, bias=False, dtype=torch.bfloat16)])
    model.last = torch.nn.Linear(2, 2, bias=False)  # transformers never quantises the last one
    quantize(model, name, torch.bfloat16)
    layer: torch.nn.Module = model.extra[0]
    return layer


def train_once(model: PreTrainedModel, **options: Any) -> tuple[list[tuple[int, ...]], str]:
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", **options))
    adapted.train()
    ids = torch.ones(2, 16, dtype=torch.int64)
    adapted(input_ids=ids, labels=ids).loss.backward()
    trained = [p for p in adapted.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in trained)
    torch.optim.AdamW(trained, lr=1e-3).step()
    return [tuple(p.shape) for p in trained], type(
        adapted.base_model.model.model.layers[0].mlp.up_proj
    ).__name__


@pytest.mark.parametrize("name", [*BNB, *TORCHAO])
def test_the_fake_model_holds_tensor_by_tensor_what_the_real_one_holds(name: str) -> None:
    real = llama()
    quantize(real, name, torch.bfloat16)
    with fakes():
        fake = build_backbone(LLAMA, "sft", 0, BF16, weights=False, quantization=name)
        assert held(fake) == held(real)
        assert len(held(real)["state"]) == 14 * {"nf4": 2, "fp4": 2, "nf4-dq": 5, "fp4-dq": 5}.get(name, 1)
        assert held_bytes(fake) == sum(
            t.numel() * t.element_size()
            for t in [*(getattr(p, "qdata", p) for p in real.parameters()), *state_tensors(real)]
        )


@pytest.mark.parametrize("name", ["nf4", "nf4-dq", "fp4", "int8", *TORCHAO])
def test_lora_trains_alike_on_the_real_and_the_fake_model(name: str) -> None:
    checkpointing = name in ("nf4-dq", "int8")
    real = llama()
    quantize(real, name, torch.bfloat16)
    prepare_kbit(real, gradient_checkpointing=checkpointing)
    with fakes():
        fake = build_backbone(LLAMA, "sft", 0, BF16, weights=False, quantization=name)
        prepare_kbit(fake, gradient_checkpointing=checkpointing)
        shapes, layer = train_once(fake)
    trained, real_layer = train_once(real)
    assert shapes == trained
    assert layer == real_layer.replace("TorchaoLoraLinear", "Linear")


@pytest.mark.parametrize("method", ["houlsby", "parallel_adapter", "compacter", "mam", "fish", "lst"])
@pytest.mark.parametrize("name", ["nf4", "int8"])
def test_adapters_of_our_own_train_on_the_real_and_the_fake_packed_base(name: str, method: str) -> None:
    candidate = Candidate(method=method, training=BF16, quantization=name)
    ids = torch.ones(2, 16, dtype=torch.int64)

    def grown(model: PreTrainedModel) -> tuple[list[torch.Tensor], list[tuple[int, ...]]]:
        adapted = adapt(model, candidate, "sft").train()
        losses = []
        optimizer = torch.optim.AdamW(trainable(adapted), lr=1e-2)
        for _ in range(4):
            losses.append(adapted(input_ids=ids, labels=ids).loss)
            losses[-1].backward()
            optimizer.step()
            optimizer.zero_grad()
        return losses, [tuple(p.shape) for p in trainable(adapted)]

    real = llama()
    quantize(real, name, torch.bfloat16)
    with fakes():
        fake = build_backbone(LLAMA, "sft", 0, BF16, weights=False, quantization=name)
        _, shapes = grown(fake)
    losses, trained = grown(real)
    assert losses[-1] < losses[0]
    assert trained == shapes


@pytest.mark.parametrize("name", PLANNED)
def test_lora_trains_on_the_fake_model_of_a_scheme_that_can_only_be_planned(name: str) -> None:
    with fakes():
        fake = build_backbone(LLAMA, "sft", 0, BF16, weights=False, quantization=name)
        prepare_kbit(fake, gradient_checkpointing=False)
        shapes, layer = train_once(fake)
    assert len(shapes) == 2 * 14
    assert layer == "Linear"
    with pytest.raises(UnsupportedError, match="can be planned"):
        quantize(llama(), name, torch.bfloat16)


@pytest.mark.parametrize("name", ["nf4-dq", *TORCHAO])
def test_dora_reads_the_dequantised_weight_of_real_and_fake_layers(name: str) -> None:
    real = llama()
    quantize(real, name, torch.bfloat16)
    with fakes():
        fake = build_backbone(LLAMA, "sft", 0, BF16, weights=False, quantization=name)
        shapes, _ = train_once(fake, use_dora=True)
    assert shapes == train_once(real, use_dora=True)[0]


def test_a_layer_of_each_scheme_weighs_what_its_row_says() -> None:
    bits = {}
    for name, row in QUANTIZATIONS.items():
        with fakes():
            fake = build_backbone(LLAMA, "sft", 0, BF16, weights=False, quantization=name)
            kept = 2 * (2 * 320 * 128 + 5 * 128)  # embeddings, head and norms in 16 bits
            bits[name] = 8 * (held_bytes(fake) - kept) / (2 * WEIGHTS_PER_LAYER)
            buffers = list(fake.model.layers[0].mlp.up_proj.buffers())
            if name != "none" and row.kind in ("packed", "rowwise"):
                assert {id(b) for b in buffers} <= {id(t) for t in state_tensors(fake)}
    assert bits["none"] == 16
    assert bits["nf4"] == pytest.approx(4 + 32 / 64, rel=0.01)
    assert bits["nf4-dq"] == pytest.approx(4 + 8 / 64 + 32 / 64 / 256, abs=0.7)  # code tables weigh here
    assert bits["int8"] == bits["torchao-int8"] == pytest.approx(8 + 32 / 128, rel=0.02)
    assert bits["gptq-int4"] == pytest.approx(4 + (16 + 4) / 128, rel=0.06)
    assert bits["awq-int4"] == pytest.approx(4 + (16 + 4) / 128, rel=0.06)
    assert bits["hqq-int4"] == pytest.approx(4 + 32 / 64, rel=0.01)
    assert bits["gptq-int8"] - bits["gptq-int4"] == pytest.approx(4 * (1 + 1 / 128), rel=0.02)


def test_a_full_llama_8b_in_nested_nf4_weighs_what_is_published_and_is_never_whole() -> None:
    training = Training(precision="bf16", max_length=64)
    with fakes() as recorder:
        model = build_backbone(
            find_model("Llama-3.1-8B"), "sft", 0, training, weights=False, quantization="nf4-dq"
        )
        total = held_bytes(model)
    # 6.98e9 weights in 4.127 bits, 1.05e9 (embeddings, head) and the norms in 16 bits.
    assert total == pytest.approx(6.979e9 * 4.127 / 8 + 2 * 1.0507e9, rel=0.002)
    assert 5.2e9 < total < 5.8e9
    assert sum(recorder.sizes) < 1.01 * total


@pytest.mark.parametrize(
    ("name", "in_forward", "kept", "in_backward"),
    [
        ("nf4-dq", True, False, True),
        ("int8", False, False, True),
        ("torchao-int8", True, True, False),
        ("gptq-int4", True, True, False),
        ("awq-int4", True, False, True),
        ("hqq-int4", True, False, True),
    ],
)
def test_the_dequantised_matrix_lives_when_the_library_has_it_live(
    name: str, in_forward: bool, kept: bool, in_backward: bool
) -> None:
    dequantised = 512 * 256 * 2
    with fakes() as recorder:
        layer = extra_layer(name)
        x = torch.empty(4, 16, 256, dtype=torch.bfloat16, requires_grad=True)
        before = len(recorder.sizes)
        out = layer(x)
        middle = len(recorder.sizes)
        assert (dequantised in recorder.sizes[before:middle]) is in_forward
        alive = [block for block in recorder._blocks.values() if block >= before]
        assert (dequantised in [recorder.sizes[block] for block in alive]) is kept
        out.backward(torch.empty_like(out))
        assert (dequantised in recorder.sizes[middle:]) is in_backward


def test_int8_allocates_what_llm_int8_allocates_on_cuda() -> None:
    tokens, inputs, outputs = 64, 256, 512
    with fakes() as recorder:
        layer = extra_layer("int8")
        x = torch.empty(4, 16, inputs, dtype=torch.bfloat16, requires_grad=True)
        before = len(recorder.sizes)
        layer(x)
        sizes = recorder.sizes[before:]
    expected = [
        tokens * inputs * 2,  # the input in fp16
        tokens * 4,  # its row scales
        tokens * inputs,  # in int8
        tokens * inputs * 2,  # its absolute values
        tokens * inputs,  # which of them are outliers
        1,  # whether any is
        tokens * outputs * 4,  # the product in int32
        tokens * outputs * 2,  # in fp16
        tokens * outputs * 2,  # in bf16
    ]
    assert sizes == expected


@pytest.mark.parametrize("name", TORCHAO)
def test_torchao_layers_allocate_the_same_on_real_and_fake_tensors(name: str) -> None:
    def sizes(recorder: Recorder) -> list[int]:
        model = llama()
        quantize(model, name, torch.bfloat16)
        layer = model.model.layers[0].mlp.up_proj
        x = torch.empty(2, 16, 128, dtype=torch.bfloat16).requires_grad_()
        before = len(recorder.sizes)
        out = layer(x)
        out.backward(torch.empty_like(out))
        assert x.grad is not None
        return recorder.sizes[before:]

    with Recorder() as recorder:
        real = sizes(recorder)
    with fakes() as recorder:
        assert sizes(recorder) == real


def test_preparation_upcasts_what_bitsandbytes_leaves_and_nothing_of_gptq() -> None:
    with fakes():
        for name, dtype in (("nf4", torch.float32), ("int8", torch.float32), ("gptq-int4", torch.bfloat16)):
            fake = build_backbone(LLAMA, "sft", 0, BF16, weights=False, quantization=name)
            prepare_kbit(fake, gradient_checkpointing=True)
            assert fake.lm_head.weight.dtype is fake.model.norm.weight.dtype is dtype
            assert fake.is_activation_checkpointing
            assert not any(p.requires_grad for p in fake.parameters())


def test_task_heads_tied_and_output_embeddings_stay_whole(tiny_bert: BaseModel, tiny_gpt2: BaseModel) -> None:
    bert = build_backbone(
        tiny_bert, "classification", 3, Training(max_length=16), weights=False, quantization="nf4"
    )
    assert type(bert.classifier) is torch.nn.Linear
    assert "classifier" in kept_modules(bert)
    assert type(bert.bert.encoder.layer[0].output.dense).__name__ == "Linear4bit"
    for name in ("nf4", "int8"):
        gpt2 = build_backbone(tiny_gpt2, "sft", 0, Training(max_length=16), weights=False, quantization=name)
        assert type(gpt2.lm_head) is torch.nn.Linear
        attention = gpt2.transformer.h[0].attn.c_attn
        assert (attention.in_features, attention.out_features) == (32, 96)


def test_stacked_experts_stay_whole_and_a_note_says_so() -> None:
    config = CONFIG | {"model_type": "mixtral", "num_local_experts": 4}
    mixtral = BaseModel(name="small-mixtral", family="decoder", source="made for tests", config=config)
    with fakes():
        fake = build_backbone(mixtral, "sft", 0, BF16, weights=False, quantization="nf4")
        experts = [p for n, p in fake.named_parameters() if "expert" in n]
        assert experts
        assert all(p.dtype is torch.bfloat16 for p in experts)
        assert "3-D parameters" in notes_on(fake, find_quantization("nf4"))[0]


@pytest.mark.parametrize("name", ["nf4-dq", "int8", "torchao-int8"])
def test_a_checkpoint_loads_quantised_as_a_built_model_is(name: str, tmp_path: Any) -> None:
    llama().save_pretrained(tmp_path)
    base = LLAMA.model_copy(update={"path": str(tmp_path)})
    built = llama()
    quantize(built, name, torch.bfloat16)
    loaded = build_backbone(base, "sft", 0, BF16, weights=True, quantization=name)
    assert held(loaded) == held(built)
    shapes, _ = train_once(loaded)
    assert len(shapes) == 2 * 14


def test_a_scheme_that_needs_a_ready_checkpoint_says_so(tmp_path: Any) -> None:
    llama().save_pretrained(tmp_path)
    base = LLAMA.model_copy(update={"path": str(tmp_path)})
    with pytest.raises(UnsupportedError, match="already quantised"):
        build_backbone(base, "sft", 0, BF16, weights=True, quantization="gptq-int4")


@pytest.mark.parametrize(
    ("written", "known"),
    [
        ("none", "none"),
        ("bnb.nf4", "nf4"),
        ("bnb-nf4", "nf4"),
        ("NF4_DQ", "nf4-dq"),
        ("4bit", "nf4"),
        ("qlora", "nf4-dq"),
        ("8bit", "int8"),
        ("bnb.int8", "int8"),
        ("llm.int8", "int8"),
        ("gptq", "gptq-int4"),
        ("awq", "awq-int4"),
        ("hqq", "hqq-int4"),
        ("torchao.int8", "torchao-int8"),
    ],
)
def test_a_scheme_is_known_by_what_people_write(written: str, known: str) -> None:
    assert normalise(written) == known


def test_an_unknown_scheme_is_an_input_error_that_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="nf4") as caught:
        find_quantization("nf5")
    assert isinstance(caught.value, InputError)
