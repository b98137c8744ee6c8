"""Hybrids: a prefix is what its formula says under every kernel, and parts compose, unload and generate."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from autopeft.errors import InputError, UnsupportedError
from autopeft.methods.adapt import adapt, trainable
from autopeft.methods.backbone import build_backbone
from autopeft.methods.hybrid import HybridLayer
from autopeft.space.candidate import Candidate, Training
from autopeft.workload.base_model import BaseModel

HYBRIDS = ("mam", "unipelt", "autopeft-2024")
TRAINING = Training(max_length=32)


def adapted(
    base: BaseModel, method: str, task: Any = "sft", training: Training = TRAINING, **asked: Any
) -> Any:
    torch.manual_seed(0)
    model = build_backbone(base, task, 2, training, weights=False)
    made = adapt(model, Candidate(method=method, training=training, **asked), task)
    for parameter in trainable(made):
        nn.init.normal_(parameter, std=0.3)
    return made.eval()


def words(rows: int = 2, length: int = 6) -> torch.Tensor:
    return torch.arange(4, 4 + rows * length).reshape(rows, length)


def only_prefix(base: BaseModel, task: Any = "sft", **asked: Any) -> Any:
    knobs = {"serial": 0, "parallel": 0, "prefix": 3}
    return adapted(base, "autopeft-2024", task, knobs=knobs, **asked)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_attention_with_a_prefix_is_the_softmax_over_prefix_and_text(kernel, padded, tiny_gpt2) -> None:
    """softmax(q [P_k; K]^T) [P_v; V], where each place sees the prefix and the text before it (eq. 6)."""
    model = only_prefix(tiny_gpt2, layers=(0,))
    base = model.get_base_model()
    base.set_attn_implementation(kernel)
    attention = base.transformer.h[0].attn
    seen: dict[str, torch.Tensor] = {}
    attention.c_attn.register_forward_hook(lambda module, args, out: seen.update(fused=out))
    attention.c_proj.register_forward_pre_hook(lambda module, args: seen.update(heads=args[0]))
    mask = torch.ones(2, 6, dtype=torch.long)
    mask[1, 4:] = 1 - int(padded)
    with torch.no_grad():
        model(input_ids=words(), attention_mask=mask)
    prefix = attention.c_attn.hybrid_parts["default"]["prefix"]
    query, key, value = (each.view(2, 6, 4, 8).transpose(1, 2) for each in seen["fused"].split(32, dim=2))
    key = torch.cat((prefix.keys.view(1, 3, 4, 8).transpose(1, 2).expand(2, -1, -1, -1), key), dim=2)
    value = torch.cat((prefix.values.view(1, 3, 4, 8).transpose(1, 2).expand(2, -1, -1, -1), value), dim=2)
    allowed = (
        torch.ones(6, 9, dtype=torch.bool).tril(3)[None, None]
        & torch.cat((torch.ones(2, 3), mask), 1).bool()[:, None, None]
    )
    scores = (query @ key.transpose(2, 3) / math.sqrt(8)).masked_fill(~allowed, -math.inf)
    expected = (scores.softmax(-1) @ value).transpose(1, 2).reshape(2, 6, 32)
    assert torch.allclose(seen["heads"][mask.bool()], expected[mask.bool()], atol=1e-5)


def test_a_prefix_is_the_gated_sum_of_two_attentions(tiny_bert) -> None:
    """(1 - lambda) Attn(q, K, V) + lambda Attn(q, P_k, P_v) (He et al., eq. 7), lambda the prefix's share."""
    model = only_prefix(tiny_bert, "classification", layers=(0,))
    attention = model.get_base_model().bert.encoder.layer[0].attention.self
    seen: dict[str, torch.Tensor] = {}
    for name in ("query", "key", "value"):
        getattr(attention, name).register_forward_hook(lambda m, a, out, name=name: seen.update({name: out}))
    attention.register_forward_hook(lambda module, args, out: seen.update(heads=out[0]))
    with torch.no_grad():
        model(input_ids=words(), attention_mask=torch.ones(2, 6, dtype=torch.long))
    prefix = attention.key.hybrid_parts["default"]["prefix"]
    query, key, value = (seen[name].view(2, 6, 4, 8).transpose(1, 2) for name in ("query", "key", "value"))
    own_key, own_value = (each.view(1, 3, 4, 8).transpose(1, 2) for each in (prefix.keys, prefix.values))
    scores, own = (query @ each.transpose(2, 3) / math.sqrt(8) for each in (key, own_key))
    share = own.exp().sum(-1, keepdim=True) / (
        own.exp().sum(-1, keepdim=True) + scores.exp().sum(-1, keepdim=True)
    )
    expected = (1 - share) * (scores.softmax(-1) @ value) + share * (own.softmax(-1) @ own_value)
    assert torch.allclose(seen["heads"], expected.transpose(1, 2).reshape(2, 6, 32), atol=1e-5)


@pytest.mark.parametrize("method", ["mam", "autopeft-2024"])
def test_padding_changes_nothing_for_the_words_before_it(method, tiny_llama) -> None:
    model = adapted(tiny_llama, method)
    longer = torch.cat((words(), torch.zeros(2, 3, dtype=torch.long)), dim=1)
    mask = torch.tensor([[1] * 6 + [0] * 3] * 2)
    with torch.no_grad():
        assert torch.allclose(
            model(input_ids=longer, attention_mask=mask).logits[:, :6],
            model(input_ids=words()).logits,
            atol=1e-5,
        )


def test_generating_with_a_cache_gives_what_whole_rows_give(tiny_llama) -> None:
    model = adapted(tiny_llama, "mam")
    settings = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    made = [
        model.generate(
            input_ids=words(), attention_mask=torch.ones_like(words()), use_cache=cached, **settings
        )
        for cached in (True, False)
    ]
    assert torch.equal(*made)


@pytest.mark.parametrize("method", HYBRIDS)
def test_recomputing_activations_gives_the_same_gradients(method, tiny_bert) -> None:
    gradients = []
    for recomputed in (False, True):
        training = TRAINING.model_copy(update={"gradient_checkpointing": recomputed})
        model = adapted(tiny_bert, method, "classification", training).train()
        model(input_ids=words(), labels=torch.tensor([0, 1])).loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in trainable(model)]))
    assert gradients[0].abs().sum() > 0
    assert torch.allclose(*gradients, atol=1e-6)


@pytest.mark.parametrize("method", HYBRIDS)
def test_unloading_gives_the_base_model_back_and_merging_is_refused(method, tiny_llama) -> None:
    torch.manual_seed(0)
    plain = build_backbone(tiny_llama, "sft", 2, TRAINING, weights=False).eval()
    model = adapted(tiny_llama, method)
    with torch.no_grad():
        expected = plain(input_ids=words()).logits
        assert not torch.allclose(model(input_ids=words()).logits, expected, atol=1e-3)
        with model.disable_adapter():
            assert torch.equal(model(input_ids=words()).logits, expected)
        with pytest.raises(ValueError, match="cannot be merged"):
            model.merge_and_unload()
        unloaded = model.unload()
        assert torch.equal(unloaded(input_ids=words()).logits, expected)
    assert not any(isinstance(module, HybridLayer) for module in unloaded.modules())
    assert unloaded.model.layers[0].self_attn.config is unloaded.config


def test_switched_off_layers_have_no_parts(tiny_llama) -> None:
    model = adapted(tiny_llama, "autopeft-2024", layers=(1, 3))
    places = {name.split(".")[4] for name, p in model.named_parameters() if p.requires_grad}
    assert places == {"1", "3"}


def test_a_unipelt_gate_is_one_number_for_each_row_between_nought_and_one(tiny_llama) -> None:
    model = adapted(tiny_llama, "unipelt")
    gates: list[torch.Tensor] = []
    for module in model.modules():
        if type(module).__name__ == "Gate":
            module.register_forward_hook(lambda m, a, out: gates.append(out.detach()))
    model(input_ids=words())
    assert len(gates) == 4 * 4  # prefix, LoRA at query and at value, adapter in each of four layers
    assert {each.shape for each in gates} == {(2, 1, 1)}
    assert all(((each > 0) & (each < 1)).all() for each in gates)
    assert any(float(each[0, 0, 0]) != float(each[1, 0, 0]) for each in gates)


def test_what_a_hybrid_cannot_do_is_refused_in_one_line(tiny_llama) -> None:
    flash = TRAINING.model_copy(update={"attention": "flash"})
    asked: list[tuple[dict[str, Any], type[Exception], str]] = [
        (
            {"knobs": {"serial": 0, "parallel": 0, "prefix": 0}},
            InputError,
            "needs one of prefix, serial, parallel",
        ),
        ({"targets": "query"}, InputError, "chooses its own matrices"),
        ({"training": flash}, UnsupportedError, "flash has no mask"),
    ]
    for fields, error, message in asked:
        with pytest.raises(error, match=message):
            adapted(tiny_llama, "autopeft-2024", **fields)


WIDTHS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
KINDS: dict[str, dict[str, Any]] = {
    "gpt_bigcode": {"n_embd": 32, "n_layer": 2, "n_head": 4},  # one key for all heads, in one matrix
    "gpt_neox": {},  # query, key and value in one matrix
    "modernbert": {"pad_token_id": 0, "global_attn_every_n_layers": 2},  # the same, and windows
    "qwen3": {"num_key_value_heads": 2, "head_dim": 16},  # keys narrower than the model
    "roberta": {},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_part_gets_a_gradient_in_attentions_of_many_shapes(kind) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **WIDTHS, vocab_size=90, **KINDS[kind])
    config.pad_token_id = 0
    model = AutoModelForSequenceClassification.from_config(config)
    model = adapt(model, Candidate(method="unipelt"), "classification").train()
    for parameter in trainable(model):
        nn.init.normal_(parameter, std=0.1)
    model(input_ids=words(), labels=torch.tensor([0, 1])).loss.backward()
    assert {"prefix", "lora", "serial"} <= {
        name.partition(".default.")[2].partition(".")[0] for name, _ in grown(model)
    }
    assert all(p.grad is not None and p.grad.any() for _, p in grown(model))


def grown(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in model.named_parameters() if ".hybrid_parts." in name]


def test_a_model_without_a_matrix_of_keys_is_refused_not_half_adapted() -> None:
    fields = {
        "q_lora_rank": 8,
        "kv_lora_rank": 8,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 4,
        "v_head_dim": 8,
    }
    experts = {"n_group": 1, "topk_group": 1, "n_routed_experts": 4, "num_experts_per_tok": 2}
    config = AutoConfig.for_model(
        "deepseek_v3", **WIDTHS, **fields, **experts, vocab_size=50, moe_intermediate_size=16
    )
    model = AutoModelForSequenceClassification.from_config(config)
    with pytest.raises(InputError, match="targets 'key' match no module"):
        adapt(model, Candidate(method="mam"), "classification")


def test_an_attention_without_a_place_for_a_prefix_says_so() -> None:
    config = AutoConfig.for_model(
        "deberta-v2",
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        vocab_size=50,
    )
    model = AutoModelForSequenceClassification.from_config(config)
    with pytest.raises(
        UnsupportedError, match="a prefix cannot enter the attention of a DisentangledSelfAttention"
    ):
        adapt(model, Candidate(method="mam"), "classification")
