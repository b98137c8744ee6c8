"""What a server holds, against numbers that the formulas give by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from autopeft.journey.hosting import has_windows
from autopeft.plan.serving import WINDOWED, Attention, kv_token_bytes, lora_bytes, room, slot_rank


def test_llama_3_1_8b_keeps_128_kib_of_each_token() -> None:
    """32 layers, 8 heads of keys and values of 128 numbers, two bytes each."""
    attention = Attention(layers=32, kv_heads=8, head_width=128)
    assert kv_token_bytes(attention, 2) == 2 * 32 * 8 * 128 * 2 == 131072


def test_latent_attention_keeps_what_keys_and_values_are_made_of() -> None:
    assert kv_token_bytes(Attention(layers=27, kv_heads=1, head_width=0, latent=512 + 64), 2) == 31104


def test_an_adapter_is_its_two_factors() -> None:
    assert lora_bytes([(4096, 4096), (1024, 4096)], 16, 2) == 16 * (8192 + 5120) * 2


@pytest.mark.parametrize(
    ("rank", "slot"), [(1, 1), (2, 8), (16, 16), (17, 32), (257, 320), (512, 512), (513, None)]
)
def test_slots_have_the_ranks_that_vllm_has(rank: int, slot: int | None) -> None:
    assert slot_rank(rank) == slot


def test_slots_share_the_memory_with_the_sequences_that_have_to_fit() -> None:
    assert room(1000, 1, 100).model_dump() == {"tokens": 1000, "sequences": 10, "adapters": None}
    assert room(1000, 1, 100, sequences=4, slot_bytes=150).adapters == 4
    assert room(-5, 1, 100, sequences=1, slot_bytes=1).model_dump() == {
        "tokens": 0,
        "sequences": 0,
        "adapters": 0,
    }


def test_slots_that_take_nothing_are_no_slots() -> None:
    assert room(1000, 1, 100, sequences=4, slot_bytes=0) == room(1000, 1, 100)


@pytest.mark.parametrize(
    ("fields", "windows"),
    [
        ({"sliding_window": 4096}, True),
        ({"sliding_window": 4096, "use_sliding_window": False}, False),
        ({"sliding_window": None}, False),
        ({"sliding_window": 4096, "layer_types": ["full_attention"]}, False),
        ({"layer_types": ["full_attention", "sliding_attention"]}, True),
        ({"layer_types": ["chunked_attention"]}, True),
    ],
)
def test_layers_of_a_window_are_seen(fields: dict[str, object], windows: bool) -> None:
    text = SimpleNamespace(**fields)
    assert has_windows(SimpleNamespace(get_text_config=lambda: text)) is windows


def test_what_is_said_of_windows_is_no_upper_bound(autopeft: Callable[..., object]) -> None:
    asked = ("estimate", "Mistral-7B-v0.1", "--serve", "--gpu", "l40s", "--seq-len", "2048", "--json")
    assert json.loads(autopeft(*asked).out)["bound"] == WINDOWED


def test_a_llama_served_by_the_command_line(autopeft: Callable[..., object]) -> None:
    asked = ("estimate", "Llama-3.1-8B", "--serve", "--gpu", "l40s", "--seq-len", "2048", "--batch-size", "8")
    found = json.loads(autopeft(*asked, "--json").out)
    assert found["kv_token_bytes"] == 131072
    assert found["weights_bytes"] == 8_030_261_248 * 2
    # q, k, v, o, gate, up and down of a layer, at rank 16 in two bytes, in 32 layers.
    layer = 8192 + 5120 + 5120 + 8192 + 3 * (4096 + 14336)
    assert found["slot_bytes"] == 32 * 16 * layer * 2
    assert found["adapter_bytes"] == 32 * 16 * (8192 + 5120) * 2
    free = found["limit_bytes"] * 0.92 - found["weights_bytes"]
    assert found["merged"]["tokens"] == int(free // 131072)
    assert found["unmerged"]["adapters"] == int((free - 8 * 2048 * 131072) // found["slot_bytes"])
    text = autopeft(*asked)
    assert text.code == 0
    assert "upper bound" in text.out


def test_what_is_not_served_so_says_why(autopeft: Callable[..., object]) -> None:
    found = json.loads(
        autopeft("estimate", "Llama-3.2-1B", "--method", "bottleneck", "--serve", "--json").out
    )
    assert found["unmerged_reason"] == "vLLM does not load bottleneck as it is saved"
    assert found["merged_reason"] == "bottleneck does not fold into the weights"
    refused = autopeft("estimate", "bert-base-uncased", "--serve")
    assert refused.code == 2
    assert "models that write text" in refused.err


def test_too_little_memory_is_status_1(autopeft: Callable[..., object]) -> None:
    assert autopeft("estimate", "Llama-3.1-8B", "--serve", "--gpu-mem", "12GB").code == 1


def test_what_does_not_fit_says_so(autopeft: Callable[..., SimpleNamespace]) -> None:
    answer = autopeft("estimate", "Llama-3.1-8B", "--serve", "--gpu-mem", "4GB", "--quantization", "nf4")
    assert answer.code == 1
    assert "It does not fit: the weights alone take more." in answer.out


def test_serving_is_of_one_device(autopeft: Callable[..., SimpleNamespace]) -> None:
    answer = autopeft("estimate", "Llama-3.1-8B", "--serve", "--gpu", "l4", "--gpus", "2")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == "autopeft: --serve is of one device: leave out gpus, sharding and offload.\n"
