"""A question is liberal in spelling, strict in types, and says which field is wrong."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopeft.errors import InputError
from autopeft.plan.question import Question


def asked(**fields: object) -> Question:
    return Question.build(**{"model": "gpt2"} | fields)


def test_everything_but_the_model_may_be_left_out() -> None:
    question = asked()
    assert (question.method, question.batch_size, question.loop) == ("lora", 1, "autopeft")
    assert (question.rank, question.seq_len, question.gpu, question.lengths) == (None, None, None, None)
    with pytest.raises(InputError, match="model is needed"):
        Question.build(method="lora")


@pytest.mark.parametrize(
    ("fields", "name", "value"),
    [
        ({"Grad-Accum": 4}, "grad_accum", 4),
        ({"method": "IA3"}, "method", "ia3"),
        ({"precision": "BFloat16"}, "precision", "bf16"),
        ({"attention": "flash_attention_2"}, "attention", "flash"),
        ({"loss": "Fused"}, "loss", "fused"),
        ({"quantization": None}, "quantization", "none"),
        ({"quantization": "NF4_DQ"}, "quantization", "nf4-dq"),
        ({"optimizer": "AdamW_8bit"}, "optimizer", "adamw-8bit"),
        ({"gpu_mem": "16GB"}, "gpu_mem", 16 * 10**9),
        ({"gpu_mem": 16e9}, "gpu_mem", 16 * 10**9),
        ({"targets": "All_Linear"}, "targets", "all-linear"),
        ({"targets": "query+value"}, "targets", "query+value"),
        ({"targets": ["query", "value"]}, "targets", "query+value"),
        ({"targets": "q_proj,v_proj"}, "targets", ("q_proj", "v_proj")),
        ({"targets": ["q_proj", "v_proj"]}, "targets", ("q_proj", "v_proj")),
        ({"targets": "c_attn"}, "targets", "c_attn"),
        ({"layers": "4-20"}, "layers", "4-20"),
        ({"layers": "4-"}, "layers", "4-"),
        ({"layers": "0, 5,7"}, "layers", (0, 5, 7)),
        ({"layers": [0, 5]}, "layers", (0, 5)),
        ({"layers": 3}, "layers", (3,)),
        ({"layers": "Last_Half"}, "layers", "last-half"),
    ],
)
def test_usual_spellings_are_read(fields: dict[str, object], name: str, value: object) -> None:
    assert getattr(asked(**fields), name) == value


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"rnk": 4}, ("rnk", "rank")),
        ({"lora_r": 4}, ("lora_r", "rank")),
        ({"max_length": 4}, ("max_length", "seq_len")),
        ({"zzzzzzzz": 4}, ("zzzzzzzz", "the fields are")),
        ({"rank": 0}, ("rank", "0")),
        ({"rank": "8"}, ("rank", "'8'")),
        ({"rank": True}, ("rank", "True")),
        ({"rank": 8.5}, ("rank", "8.5")),
        ({"rank": 10**400}, ("rank", "65536")),
        ({"batch_size": -1}, ("batch_size", "-1")),
        ({"batch-size": 1, "Batch_Size": 2}, ("batch_size", "twice")),
        ({"gradient_checkpointing": "yes"}, ("gradient_checkpointing", "yes")),
        ({"gradient_checkpointing": 1}, ("gradient_checkpointing", "1")),
        ({"gpu_mem": "16 bananas"}, ("16 bananas", "16GB")),
        ({"gpu_mem": True}, ("gpu_mem", "True")),
        ({"gpu_mem": float("nan")}, ("gpu_mem", "nan")),
        ({"gpu_mem": 10**400}, ("gpu_mem", "memory")),
        ({"precision": "bf17"}, ("precision", "bf16")),
        ({"attention": "spda"}, ("attention", "sdpa")),
        ({"targets": []}, ("targets", "at least one")),
        ({"targets": 7}, ("targets", "7")),
        ({"layers": "some"}, ("layers", "some", "4-20")),
        ({"layers": [-1]}, ("layers", "-1")),
        ({"layers": [True]}, ("layers", "True")),
        ({"model": ""}, ("model", "empty")),
        ({"model": "a\0b"}, ("model", "printable")),
        ({"model": ["gpt2"]}, ("model", "gpt2")),
        ({"knobs": [1]}, ("knobs",)),
        ({"lengths": []}, ("lengths", "whole numbers")),
        ({"lengths": {"50": 180}}, ("lengths", "longest")),
        ({"lengths": {"50": 180, "100": 10}}, ("lengths", "shorter")),
        ({"lengths": {"half": 180}}, ("lengths", "half")),
        ({"lengths": [1, "2"]}, ("lengths", "'2'")),
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_field(
    fields: dict[str, object], words: tuple[str, ...]
) -> None:
    with pytest.raises(InputError) as caught:
        asked(**fields)
    line = str(caught.value)
    assert "\n" not in line
    assert all(word in line for word in words), line


def test_a_huge_value_does_not_make_a_huge_error() -> None:
    with pytest.raises(InputError) as caught:
        asked(rank="9" * 500_000)
    assert len(str(caught.value)) <= 400


def test_a_list_of_lengths_is_summarised() -> None:
    lengths = asked(lengths=[10, 20, 30]).lengths
    assert lengths is not None
    assert (lengths.percentiles[0], lengths.longest, lengths.mean) == (10, 30, 20)


def test_percentiles_are_interpolated_and_flat_below_the_lowest() -> None:
    lengths = asked(lengths={"p50": 100, "90": 200, "max": 300}).lengths
    assert lengths is not None
    chosen = [lengths.percentiles[share] for share in (0, 50, 70, 90, 95, 100)]
    assert chosen == [100, 100, 150, 200, 250, 300]


@pytest.mark.parametrize(
    "lengths",
    [
        {"percentiles": 5},
        {"percentiles": None},
        {"percentiles": [1, 2, 3]},
        {"percentiles": list(range(101, 0, -1)), "mean": 50},
        {"percentiles": [*range(1, 101), "x"], "mean": 50},
    ],
)
def test_malformed_percentiles_are_refused(lengths: dict[str, object]) -> None:
    with pytest.raises(InputError) as caught:
        asked(lengths=lengths)
    assert "\n" not in str(caught.value)


def test_a_question_survives_its_own_json() -> None:
    question = asked(targets=["q_proj"], layers=[1, 2], lengths=[3, 4], gpu_mem="1GB", knobs={"alpha": 2})
    assert Question.build(**json.loads(question.model_dump_json())) == question


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(fields=st.dictionaries(st.sampled_from(sorted(Question.model_fields)) | st.text(), json_values))
def test_any_json_is_a_question_or_one_line(fields: dict[str, object]) -> None:
    line = ""
    try:
        Question.build(**fields)
    except InputError as error:
        line = str(error)
    assert len(line.splitlines()) <= 1
    assert line.encode() is not None
