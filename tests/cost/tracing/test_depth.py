"""Tests of autopeft/cost/tracing/depth.py: which few layers stand for a whole model."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopeft.cost.tracing.depth import FEWEST, Run, find_runs, kept, shorten
from autopeft.errors import InputError
from autopeft.space.candidate import Candidate
from autopeft.workload.base_model import BaseModel

LORA = Candidate(method="lora", rank=8, targets="query+value")


def base_of(**config: Any) -> BaseModel:
    return BaseModel(name="deep", family="decoder", source="made for tests", config=config)


LLAMA = base_of(model_type="llama", num_hidden_layers=32)


def shortened(base: BaseModel, candidate: Candidate = LORA, traced: int = FEWEST) -> tuple[Any, Any, Any]:
    found = shorten(base, candidate, traced)
    assert found is not None
    return found


@given(
    st.lists(st.tuples(st.text("abc", min_size=1, max_size=4), st.integers(1, 9)), min_size=1, max_size=4),
    st.integers(2, 4),
)
def test_what_is_kept_of_any_sequence_unfolds_to_it(parts: list[tuple[str, int]], traced: int):
    kinds = "".join(unit * times for unit, times in parts)
    runs = find_runs(kinds, traced)
    layers = kept(runs)
    assert len(layers) == sum(run.period * run.traced for run in runs)
    assert layers == sorted(set(layers))
    whole = ""
    for run in runs:
        mine = "".join(kinds[layer] for layer in layers[run.start : run.start + run.period * run.traced])
        second = mine[run.period : 2 * run.period]
        whole += (
            mine[: run.period]
            + second * (run.copies + run.traced - 2)
            + mine[-run.period :] * (run.units > 1)
        )
    assert whole == kinds


def test_a_uniform_model_is_three_layers_and_the_second_take_one_more():
    base, candidate, runs = shortened(LLAMA)
    assert base.config["num_hidden_layers"] == 3
    assert candidate == LORA
    assert runs == ((Run(0, 1, 32, 3),),)
    assert shortened(LLAMA, traced=4)[0].config["num_hidden_layers"] == 4


def test_layers_4_to_20_are_three_runs_and_the_same_layers_of_the_short_model_are_adapted():
    base, candidate, runs = shortened(LLAMA, LORA.model_copy(update={"layers": "4-20"}))
    assert [(run.units, run.copies) for run in runs[0]] == [(4, 1), (17, 14), (11, 8)]
    assert base.config["num_hidden_layers"] == 9
    assert candidate.layers == (3, 4, 5)


def test_every_second_layer_is_a_period_of_two():
    chosen = LORA.model_copy(update={"layers": tuple(range(0, 32, 2))})
    base, candidate, runs = shortened(LLAMA, chosen)
    assert runs == ((Run(0, 2, 16, 3),),)
    assert base.config["num_hidden_layers"] == 6
    assert candidate.layers == (0, 2, 4)


def test_kinds_of_attention_are_a_period_and_lists_are_cut_with_the_layers():
    base, _, runs = shortened(base_of(model_type="gemma3_text", num_hidden_layers=26))
    assert (runs[0][0].period, runs[0][0].units) == (6, 4)
    kinds = base.config["layer_types"]
    assert len(kinds) == base.config["num_hidden_layers"] == 20
    assert kinds[:6] == kinds[6:12] == kinds[12:18]
    assert kinds[5] == "full_attention"


def test_the_first_dense_layers_of_a_mixture_of_experts_are_a_run_of_their_own():
    moe = base_of(model_type="deepseek_v3", num_hidden_layers=61, first_k_dense_replace=3)
    base, _, runs = shortened(moe)
    assert [(run.units, run.traced) for run in runs[0]] == [(3, 3), (58, 3)]
    assert base.config["num_hidden_layers"] == 6
    assert base.config["first_k_dense_replace"] == 3


@pytest.mark.parametrize(
    ("kind", "depths"),
    [
        ("t5", {"num_layers": 24, "num_decoder_layers": 12}),
        ("bart", {"encoder_layers": 12, "decoder_layers": 6}),
    ],
)
def test_an_encoder_and_a_decoder_are_two_stacks(kind: str, depths: dict[str, int]):
    base, _, runs = shortened(base_of(model_type=kind, **depths))
    assert [base.config[field] for field in depths] == [3, 3]
    assert [stack[0].units for stack in runs] == list(depths.values())


def test_parts_of_a_model_that_sees_are_stacks_of_their_own():
    base, _, runs = shortened(base_of(model_type="llava", text_config={"model_type": "llama"}))
    assert len(runs) == 2
    assert base.config["text_config"]["num_hidden_layers"] == 3
    assert base.config["vision_config"]["num_hidden_layers"] == 3


@pytest.mark.parametrize(
    ("base", "candidate"),
    [
        (base_of(model_type="llama", num_hidden_layers=3), LORA),
        (LLAMA, LORA.model_copy(update={"knobs": {"rank_pattern": {"layers.3.": 4}}})),
        (LLAMA, LORA.model_copy(update={"knobs": {"layers_to_transform": [1, 2]}})),
        (base_of(model_type="t5", num_layers=12), LORA.model_copy(update={"layers": "first-half"})),
    ],
    ids=("nothing to be won", "ranks by layer", "layers named by peft", "layers of which stack"),
)
def test_a_model_that_no_few_layers_stand_for_is_left_whole(base: BaseModel, candidate: Candidate):
    assert shorten(base, candidate) is None


def test_layers_that_hold_prompts_are_counted_in_the_short_model():
    prompts = Candidate(method="adaption_prompt", knobs={"adapter_layers": 30})
    _, candidate, runs = shortened(LLAMA, prompts)
    assert [run.units for run in runs[0]] == [2, 30]
    assert candidate.knobs["adapter_layers"] == 3


def test_a_configuration_that_makes_no_model_is_an_input_error():
    with pytest.raises(InputError, match="makes no model"):
        shorten(base_of(model_type="nowhere"), LORA)
