"""Tests of autopeft/cost/tracing/trace.py, fit.py and expand.py: an expansion is what full depth is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from autopeft.cost.expand import Expansion, NotAlikeError, unfold
from autopeft.cost.formulas import adamw_state_bytes, lora_params, weight_bytes
from autopeft.cost.loops import LOOPS
from autopeft.cost.memory import allocated_peak
from autopeft.cost.pattern import NO_UNIT, Pattern
from autopeft.cost.pattern_cache import PatternCache
from autopeft.cost.tape import Category, Tape
from autopeft.cost.tracing.depth import find_runs, kept
from autopeft.cost.tracing.request import TraceRequest
from autopeft.cost.tracing.trace import _fit, _shapes, trace
from autopeft.errors import InputError, UnsupportedError
from autopeft.methods.registry import complete
from autopeft.space.candidate import Candidate, Training
from autopeft.workload.base_model import BaseModel

DEPTH = 7
LENGTH = 24


def deep(base: BaseModel, **config: object) -> BaseModel:
    whole = base.config | {"num_hidden_layers": DEPTH, "max_position_embeddings": 512} | config
    return base.model_copy(update={"config": whole})


def request_of(base: BaseModel, method: str = "lora", **fields: object) -> TraceRequest:
    training = Training(**({"max_length": LENGTH} | dict(fields.pop("training", {}))))  # type: ignore[call-overload]
    knobs = {name: fields.pop(name) for name in ("rank", "layers", "targets") if name in fields}
    settings: dict[str, object] = {
        "task": "sft" if base.family == "decoder" else "classification",
        "labels": 2,
        "rows": 4,
        "length": LENGTH,
        "target": "cuda",
    }
    candidate = complete(Candidate(method=method, training=training, **knobs))  # type: ignore[arg-type]
    return TraceRequest(base=base, candidate=candidate, **(settings | fields))


def tape_of(pattern: Pattern, request: TraceRequest, *lengths: int) -> Tape:
    steps = lengths or (request.length,) * 3
    return Expansion(pattern).tape(request.rows, steps, request.candidate.rank or 1)


def at_full_depth(request: TraceRequest) -> Tape:
    exact = request.exact
    return tape_of(_fit(exact, _shapes(exact), request.base, request.candidate, None), request)  # type: ignore[arg-type]


def assert_equal(one: Tape, other: Tape) -> None:
    assert np.array_equal(one.events, other.events)
    assert np.array_equal(one.block_bytes, other.block_bytes)
    assert np.array_equal(one.block_category, other.block_category)
    assert one.spans == other.spans
    assert (one.trainable_params, one.total_params, one.adapter_bytes) == (
        other.trainable_params,
        other.total_params,
        other.adapter_bytes,
    )
    assert one.operator_flops.sum() == pytest.approx(other.operator_flops.sum())


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("lora", {"rank": 5}),
        ("lora", {"training": {"gradient_checkpointing": True, "precision": "bf16"}}),
        pytest.param("full", {}, marks=pytest.mark.slow),
        pytest.param("ia3", {}, marks=pytest.mark.slow),
        pytest.param("prefix_tuning", {}, marks=pytest.mark.slow),
        pytest.param("lora", {"training": {"grad_accum": 4}}, marks=pytest.mark.slow),
        pytest.param("lora", {"loop": LOOPS["peft-benchmark"]}, marks=pytest.mark.slow),
        pytest.param(
            "lora", {"loop": LOOPS["trainer"], "training": {"precision": "bf16"}}, marks=pytest.mark.slow
        ),
        pytest.param("lora", {"layers": "2-4"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_few_layers_and_other_shapes_expand_to_what_all_layers_do(
    method: str, fields: dict[str, object], tiny_llama: BaseModel
):
    request = request_of(deep(tiny_llama), method, **fields)
    pattern = trace(request)
    assert pattern.general
    assert any(run.copies for run in pattern.runs)
    assert_equal(tape_of(pattern, request), at_full_depth(request))


@pytest.mark.slow
def test_an_encoder_expands_too(tiny_bert: BaseModel):
    request = request_of(deep(tiny_bert), target="cpu")
    assert_equal(tape_of(trace(request), request), at_full_depth(request))


@pytest.mark.slow
def test_one_pattern_serves_other_rows_lengths_and_ranks(tiny_llama: BaseModel):
    base = deep(tiny_llama)
    pattern = trace(request_of(base))
    for rows, length, rank in ((2, 16, 1), (7, 40, 12), (3, 200, 64)):
        other = request_of(base, rows=rows, length=length, rank=rank, training={"max_length": length})
        assert other.key == request_of(base).key
        assert_equal(tape_of(pattern, other), at_full_depth(other))


def test_a_loop_whose_operators_depend_on_the_length_is_traced_at_that_length(tiny_llama: BaseModel):
    request = request_of(deep(tiny_llama), loop=LOOPS["litgpt"], general=False)
    assert not trace(request).general


def test_lora_trains_and_keeps_what_the_formulas_say(tiny_llama: BaseModel):
    request = request_of(deep(tiny_llama), rank=4)
    tape = tape_of(trace(request), request)
    config = request.base.config
    width, kv = (
        config["hidden_size"],
        config["hidden_size"] // config["num_attention_heads"] * config["num_key_value_heads"],
    )
    expected = DEPTH * lora_params([(width, width), (kv, width)], rank=4)
    assert tape.trainable_params == expected
    assert tape.adapter_bytes == weight_bytes(expected, "fp32")
    left = np.setdiff1d(tape.events[tape.events >= 0], np.invert(tape.events[tape.events < 0]))
    state = tape.block_bytes[left][tape.block_category[left] == Category.OPTIMIZER].sum()
    assert state == adamw_state_bytes(expected)


def test_more_rows_longer_ones_and_less_checkpointing_take_more(tiny_llama: BaseModel):
    base = deep(tiny_llama)
    plain = request_of(base)
    pattern = trace(plain)

    def peak(rows: int, length: int) -> int:
        return allocated_peak(Expansion(pattern).tape(rows, (length,) * 2, 16)).allocated_bytes

    assert peak(2, 16) < peak(3, 16) < peak(3, 32)
    checkpointed = request_of(base, training={"gradient_checkpointing": True}, general=False)
    parts = [allocated_peak(tape_of(pattern, plain)).parts]
    parts.append(allocated_peak(tape_of(trace(checkpointed), checkpointed)).parts)
    assert parts[1].activations < parts[0].activations


def test_shims_are_undone_after_a_trace(tiny_bert: BaseModel):
    before = torch.nn.Module._apply, torch.nn.functional.scaled_dot_product_attention
    trace(request_of(tiny_bert, padded=False, general=False))
    assert before == (torch.nn.Module._apply, torch.nn.functional.scaled_dot_product_attention)


def test_a_pattern_survives_packing(tiny_bert: BaseModel):
    request = request_of(tiny_bert, general=False)
    pattern = trace(request)
    again = Pattern.from_bytes(pattern.to_bytes())
    assert again.to_bytes() == pattern.to_bytes()
    assert_equal(tape_of(again, request), tape_of(pattern, request))


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 not a pattern", b"\x80\x04]\x94."])
def test_what_is_no_pattern_is_a_value_error(data: bytes):
    with pytest.raises(ValueError, match=r"pattern|pickle"):
        Pattern.from_bytes(data)


def test_an_untraceable_model_is_unsupported_with_the_reason(tiny_bert: BaseModel):
    broken = tiny_bert.model_copy(update={"config": tiny_bert.config | {"num_attention_heads": 5}})
    with pytest.raises((UnsupportedError, InputError), match="multiple"):
        trace(request_of(broken))


def test_a_cache_remembers_that_only_exact_shapes_can_be_served(tiny_bert: BaseModel, tmp_path):
    cache = PatternCache(tmp_path)
    general = request_of(tiny_bert)
    assert cache.resolve(general) is general
    cache.put(general, trace(general.exact))
    assert cache.resolve(general) == general.exact
    assert cache.get(general.exact) is not None


@pytest.mark.parametrize(
    ("kinds", "runs", "layers"),
    [
        ("aaaaaaa", [(0, 1, 7, 3)], [0, 1, 6]),
        ("ab" * 5, [(0, 2, 5, 3)], [0, 1, 2, 3, 8, 9]),
        ("daaaaa", [(0, 1, 1, 1), (1, 1, 5, 3)], [0, 1, 2, 5]),
        ("aab", [(0, 1, 2, 2), (2, 1, 1, 1)], [0, 1, 2]),
    ],
)
def test_layers_are_split_into_runs_of_like_units(kinds: str, runs: list[tuple[int, ...]], layers: list[int]):
    found = find_runs(kinds)
    assert [tuple(run) for run in found] == runs
    assert kept(found) == layers


def test_what_the_second_unit_does_is_repeated_between_its_neighbours():
    up, down = np.array([0, 1, 2], dtype=np.int32), np.array([NO_UNIT, 2, 1, 0], dtype=np.int32)
    assert [each.tolist() for each in unfold(up, [2])] == [[0, 1, 1, 1, 2], [0, 0, 1, 2, 0]]
    assert [each.tolist() for each in unfold(down, [1])] == [[0, 1, 2, 2, 3], [0, 0, 1, 0, 0]]
    with pytest.raises(NotAlikeError):
        unfold(np.array([NO_UNIT, 1, NO_UNIT], dtype=np.int32), [1])


@pytest.mark.parametrize("method", ["dora", "ia3", "full"])
def test_lora_fa_is_refused_at_plan_time_where_there_is_no_plain_lora(method, tiny_bert) -> None:
    with pytest.raises(UnsupportedError, match="lora-fa trains the B of plain LoRA only"):
        trace(request_of(tiny_bert, method, training={"optimizer": "lora-fa"}))
