"""Roles and layers resolve to the right modules in every naming scheme."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModel

from autopeft.errors import InputError
from autopeft.methods.placement import (
    block_entrance,
    choose_layers,
    count_layers,
    layer_of,
    resolve_targets,
    roles_of,
    shorten,
)

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 99,
}
ARCHITECTURES = {
    "bert": SMALL,
    "roberta": SMALL,
    "llama": SMALL | {"num_key_value_heads": 2},
    "qwen2": SMALL | {"num_key_value_heads": 2},
    "gemma2": SMALL | {"num_key_value_heads": 2, "head_dim": 8},
    "phi3": SMALL | {"pad_token_id": 0},
    "gpt_neox": SMALL,
    "modernbert": SMALL | {"pad_token_id": 0},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 99},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "vocab_size": 99},
    "deberta-v2": SMALL,
    "wav2vec2": SMALL,
}


def meta_model(kind: str) -> torch.nn.Module:
    with torch.device("meta"):
        return AutoModel.from_config(AutoConfig.for_model(kind, **ARCHITECTURES[kind]))


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize(
    "role", ["query", "key", "value", "output", "up", "down", "attention", "mlp", "all-linear"]
)
def test_every_role_is_found_in_every_layer(kind: str, role: str) -> None:
    model = meta_model(kind)
    names = resolve_targets(model, role, "all")
    assert {layer_of(name) for name in names} == {0, 1}


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_attention_and_mlp_share_no_module_and_make_up_all_linear(kind: str) -> None:
    model = meta_model(kind)
    attention, mlp = (set(resolve_targets(model, role, "all")) for role in ("attention", "mlp"))
    assert not attention & mlp
    assert attention | mlp == set(resolve_targets(model, "all-linear", "all"))


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("role", ["query+value", "output", "down", "all-linear"])
def test_shortened_names_select_exactly_the_same_modules(kind: str, role: str) -> None:
    model = meta_model(kind)
    names = resolve_targets(model, role, "all")
    short = shorten(model, names)
    selected = [n for n, _ in model.named_modules() if any(n == s or n.endswith(f".{s}") for s in short)]
    assert selected == names


def test_a_block_called_after_its_norm_is_no_norm() -> None:
    model = meta_model("wav2vec2")
    names = resolve_targets(model, "norms", "all")
    assert "feature_extractor.conv_layers.0.layer_norm" in names
    assert "feature_extractor.conv_layers.0" not in names
    assert all(list(model.get_submodule(name).parameters()) for name in names)


def test_names_of_modules_are_taken_as_they_are() -> None:
    model = meta_model("llama")
    assert resolve_targets(model, ("q_proj",), (1,)) == ["layers.1.self_attn.q_proj"]


def test_a_target_that_matches_nothing_lists_what_there_is() -> None:
    with pytest.raises(InputError, match=r"target 'qq_proj' matches no linear module.*q_proj"):
        resolve_targets(meta_model("llama"), ("qq_proj",), "all")


@given(st.integers(1, 100))
def test_halves_are_disjoint_and_cover_all_layers(count: int) -> None:
    first, last = choose_layers("first-half", count), choose_layers("last-half", count)
    assert not first & last
    assert first | last == set(range(count))


@given(st.integers(1, 100))
def test_the_last_quarter_is_never_empty(count: int) -> None:
    quarter = choose_layers("last-quarter", count)
    assert len(quarter) == max(1, count // 4)
    assert max(quarter) == count - 1


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 41))
def test_a_range_is_taken_whole_or_refused(low: int, high: int, count: int) -> None:
    if low <= high < count:
        assert choose_layers(f"{low}-{high}", count) == set(range(low, high + 1))
    else:
        with pytest.raises(InputError, match="layers must lie in"):
            choose_layers(f"{low}-{high}", count)


@given(st.integers(0, 40), st.integers(1, 41))
def test_a_range_without_an_end_reaches_to_the_last_layer(low: int, count: int) -> None:
    if low < count:
        assert choose_layers(f"{low}-", count) == set(range(low, count))
    else:
        with pytest.raises(InputError, match="layers must lie in"):
            choose_layers(f"{low}-", count)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_block_is_entered_where_its_layer_s_feed_forward_or_attention_starts(kind: str) -> None:
    model = meta_model(kind)
    for end, starts in (("down", {"gate", "up"}), ("output", {"query"})):
        for name in resolve_targets(model, end, "all"):
            entrance = block_entrance(model, name)
            assert roles_of(entrance) & starts
            assert layer_of(entrance) == layer_of(name)


def test_a_matrix_that_ends_no_block_is_its_own_entrance() -> None:
    assert block_entrance(meta_model("llama"), "layers.1.mlp.up_proj") == "layers.1.mlp.up_proj"


def test_a_block_without_its_first_matrix_is_refused() -> None:
    model = torch.nn.ModuleDict(
        {"layers": torch.nn.ModuleList([torch.nn.ModuleDict({"fc2": torch.nn.Linear(2, 2)})])}
    )
    with pytest.raises(ValueError, match="has no matrix that starts it"):
        block_entrance(model, "layers.0.fc2")


def test_layers_are_counted_from_the_module_names() -> None:
    assert count_layers(meta_model("bert")) == 2


@given(st.text("01", min_size=1, max_size=30), st.integers(1, 30))
def test_switches_are_spread_over_the_layers_from_the_first_to_the_last(switches: str, count: int) -> None:
    found = {layer for layer in range(count) if switches[layer * len(switches) // count] == "1"}
    if found:
        assert choose_layers(f"switches:{switches}", count) == found
    else:
        with pytest.raises(InputError, match="layers must lie in"):
            choose_layers(f"switches:{switches}", count)


def test_as_many_switches_as_layers_turn_one_each() -> None:
    assert choose_layers("switches:10110", 5) == {0, 2, 3}
    assert choose_layers("switches:10", 4) == {0, 1}
