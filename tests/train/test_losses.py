"""The chunked and the fused loss are the standard one, in value and gradient, and hold fewer logits."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from autopeft.cost.tracing.recorder import Recorder
from autopeft.cost.tracing.shims import traced_as
from autopeft.cost.tracing.trace import _FakeMode
from autopeft.errors import InputError, UnsupportedError
from autopeft.space.candidate import Training
from autopeft.train.fused_loss import chunk_rows, fused_cross_entropy
from autopeft.train.losses import loss_of

LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 100,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.5,  # so that soft caps and scales are felt
}
# What each family does to its logits behind the head.
FAMILIES = {
    "nothing": {},
    "tied": {"tie_word_embeddings": True},
    "soft cap": {"model_type": "gemma2", "final_logit_softcapping": 3.0, "head_dim": 8},
    "division": {"model_type": "granite", "logits_scaling": 5.0},
    "product": {"model_type": "cohere", "logit_scale": 0.25},
    "bias of the head": {"model_type": "phi"},
    "experts": {
        "model_type": "mixtral",
        "num_local_experts": 4,
        "output_router_logits": True,
        "router_aux_loss_coef": 0.5,
    },
    "learnt places": {
        "model_type": "gpt2",
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    },
}


def causal(**config: object) -> nn.Module:
    torch.manual_seed(0)
    settings = LLAMA | config
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings))
    return model.train()


def batch(rows: int = 3, length: int = 11) -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 100, (rows, length), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[0, :4] = -100
    labels[1, -3:] = -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def loss_and_gradients(
    model: nn.Module, way: str, inputs: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = loss_of(model, inputs, Training(loss=way))
    (loss / 2).backward()  # halved, as by accumulation
    return loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def assert_same(model: nn.Module, way: str, tolerance: float = 1e-5) -> None:
    expected, gradients = loss_and_gradients(model, "standard", batch())
    gradients = copy.deepcopy(gradients)
    loss, found = loss_and_gradients(model, way, batch())
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=tolerance, atol=tolerance, check_dtype=False)
    assert found.keys() == gradients.keys()
    assert found
    for name, gradient in gradients.items():
        scale = float(gradient.abs().max())
        assert torch.allclose(found[name], gradient, rtol=tolerance, atol=tolerance * (1 + scale)), name


@pytest.mark.parametrize("way", ["chunked", "fused"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_way_gives_the_loss_and_the_gradients_of_all_weights(family: str, way: str) -> None:
    assert_same(causal(**FAMILIES[family]), way)


@pytest.mark.parametrize("way", ["chunked", "fused"])
def test_an_adapter_with_a_frozen_head_gets_the_same_gradients(way: str) -> None:
    model = get_peft_model(causal(), LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
    assert_same(model, way)
    assert model.get_base_model().lm_head.weight.grad is None


@pytest.mark.parametrize("way", ["chunked", "fused"])
def test_a_head_that_peft_trains_gets_the_same_gradients(way: str) -> None:
    config = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False, modules_to_save=["lm_head"])
    assert_same(get_peft_model(causal(), config), way)


@pytest.mark.parametrize("way", ["chunked", "fused"])
def test_the_last_virtual_token_predicts_the_first_of_the_text(way: str) -> None:
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)
    assert_same(get_peft_model(causal(), config), way)


def test_an_adapted_head_is_taken_in_chunks_and_refused_by_the_fused_loss() -> None:
    config = LoraConfig(r=4, target_modules=["lm_head"], init_lora_weights=False)
    model = get_peft_model(causal(), config)
    assert_same(model, "chunked")
    with pytest.raises(UnsupportedError, match="loss=chunked"):
        loss_of(model, batch(), Training(loss="fused"))


@pytest.mark.parametrize("way", ["chunked", "fused"])
def test_half_precision_stays_near_the_loss_in_full(way: str) -> None:
    exact, _ = loss_and_gradients(causal(), "standard", batch())
    half = causal().to(torch.bfloat16)
    loss, gradients = loss_and_gradients(half, way, batch())
    assert loss.dtype == torch.float32
    assert abs(float(loss - exact)) < 0.05 * float(exact)
    assert all(each.dtype is torch.bfloat16 and each.isfinite().all() for each in gradients.values())


@pytest.mark.parametrize("way", ["chunked", "fused"])
def test_autocast_is_obeyed(way: str) -> None:
    model = causal()
    with torch.autocast("cpu", torch.bfloat16):
        expected, right = loss_and_gradients(model, "standard", batch())
        right = copy.deepcopy(right)
        loss, found = loss_and_gradients(model, way, batch())
    assert abs(float(loss - expected)) < 0.02 * float(expected)
    for name, gradient in right.items():
        assert found[name].dtype == gradient.dtype
        assert (found[name] - gradient).norm() < 0.1 * gradient.norm() + 1e-6, name


@pytest.mark.parametrize("way", ["chunked", "fused"])
def test_a_model_that_predicts_no_tokens_is_bad_input(way: str) -> None:
    settings = {name: value for name, value in LLAMA.items() if name != "model_type"}
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model("llama", **settings))
    inputs = batch() | {"labels": torch.zeros(3, dtype=torch.int64)}
    with pytest.raises(InputError, match="predict tokens"):
        loss_of(model, inputs, Training(loss=way))


def test_logits_that_are_made_in_an_unknown_way_are_refused() -> None:
    model = causal()
    model.lm_head.register_forward_hook(lambda module, args, logits: logits + 1)
    with pytest.raises(UnsupportedError, match="loss=standard"):
        loss_of(model, batch(), Training(loss="fused"))


def test_the_head_works_as_before_also_after_a_failure() -> None:
    model = causal()
    before = model(**batch()).logits
    with pytest.raises(IndexError):
        loss_of(model, batch() | {"input_ids": torch.full((3, 11), 1000)}, Training(loss="fused"))
    assert "forward" not in model.lm_head.__dict__
    assert torch.equal(model(**batch()).logits, before)


def test_a_chunk_of_logits_is_about_as_large_as_the_hidden_states() -> None:
    # The example in Liger's source: 16384 tokens, width 4096, vocabulary 32000 make 8 chunks.
    assert chunk_rows(16384, 4096, 32000) == 2048
    assert chunk_rows(3000, 4096, 32000) == 512
    assert chunk_rows(1, 4096, 128256) == 1


def test_many_slices_of_a_chunk_are_as_good_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(40, 8), torch.randn(50, 8, requires_grad=True)
    labels = torch.randint(0, 50, (40,))
    whole = fused_cross_entropy(hidden, weight, None, labels)
    monkeypatch.setattr("autopeft.train.fused_loss._SLICE_VALUES", 100)
    torch.testing.assert_close(fused_cross_entropy(hidden, weight, None, labels), whole)
    torch.testing.assert_close(nn.functional.cross_entropy(hidden @ weight.T, labels), whole)


def peak_of(way: str, rows: int, length: int) -> int:
    """Return the peak of a traced step with a vocabulary that decides it."""
    with _FakeMode(allow_non_fake_inputs=True), traced_as("cuda", padded=False):
        recorder = Recorder()
        with recorder:
            model = causal(vocab_size=32000, hidden_size=512, num_hidden_layers=1).to(torch.bfloat16)
            model.requires_grad_(requires_grad=False)
            model.model.layers[0].self_attn.q_proj.weight.requires_grad_()
            ids = torch.ones((rows, length), dtype=torch.int64)
            inputs = {"input_ids": ids, "attention_mask": ids.clone(), "labels": ids.clone()}
            loss_of(model, inputs, Training(loss=way)).backward()
        assert not [guess for guess in recorder.guesses if "nonzero" in guess]
        born = peak = 0
        for event in recorder.events:
            born += recorder.sizes[event] if event >= 0 else -recorder.sizes[~event]
            peak = max(peak, born)
        return peak - sum(p.numel() * p.element_size() for p in model.parameters())


def test_the_peak_falls_with_every_way_to_hold_fewer_logits() -> None:
    rows, length = 4, 2048
    logits = rows * length * 32000 * 2
    standard, chunked, fused = (peak_of(way, rows, length) for way in ("standard", "chunked", "fused"))
    assert standard > 4 * logits  # in half precision, in fp32, and their gradients
    assert logits / 2 < chunked < 1.2 * logits  # eight chunks of the same
    assert fused < logits / 3  # chunks are about as large as the hidden states
