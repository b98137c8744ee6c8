"""Tests of autopeft/cost/tracing: the fake tape is the true one."""

from __future__ import annotations

import gc

import pytest
import torch

from autopeft.cost.formulas import adamw_state_bytes, lora_params, weight_bytes
from autopeft.cost.memory import allocated_peak
from autopeft.cost.tape import Category, Phase, Tape
from autopeft.cost.tracing.request import TraceRequest
from autopeft.cost.tracing.trace import record, trace
from autopeft.errors import InputError, UnsupportedError
from autopeft.methods.registry import METHODS
from autopeft.space.candidate import Candidate, Training
from autopeft.workload.base_model import BaseModel

CASES = [
    (family, method)
    for family in ("bert", "llama")
    for method, spec in METHODS.items()
    if ("sft" if family == "llama" else "classification") in spec.tasks
]


def _request(base: BaseModel, method: str = "lora", **fields: object) -> TraceRequest:
    training = {"max_length": 32} | dict(fields.pop("training", {}))  # type: ignore[call-overload]
    knobs = {"rank": fields.pop("rank")} if "rank" in fields else {}
    settings: dict[str, object] = {
        "task": "sft" if base.family == "decoder" else "classification",
        "labels": 2,
        "rows": 4,
        "lengths": (8, 16),
        "target": "cpu",
    }
    shallow = base.model_copy(update={"config": base.config | {"num_hidden_layers": 2}})
    candidate = Candidate(method=method, training=Training(**training), **knobs)
    return TraceRequest(base=shallow, candidate=candidate, **(settings | fields))


def _totals(tape: Tape) -> dict[str, int]:
    """Return the bytes ever allocated in the steps, by category, and the peak."""
    in_steps = tape.events[tape.spans[1].event :]
    born = in_steps[in_steps >= 0]
    kept = {
        category.name: int(tape.block_bytes[born[tape.block_category[born] == category]].sum())
        for category in Category
    }
    return kept | {"peak": allocated_peak(tape).allocated_bytes} | allocated_peak(tape).parts.model_dump()


def _left_at_end(tape: Tape, category: Category) -> int:
    freed = {~event for event in tape.events.tolist() if event < 0}
    return sum(
        int(size)
        for block, size in enumerate(tape.block_bytes)
        if block not in freed and tape.block_category[block] == category
    )


@pytest.mark.parametrize(("family", "method"), CASES)
def test_the_tape_of_a_real_step_is_the_fake_one_byte_for_byte(
    family: str, method: str, tiny_bert: BaseModel, tiny_llama: BaseModel
):
    request = _request(tiny_bert if family == "bert" else tiny_llama, method)
    fake, real = trace(request), record(request)
    assert _totals(fake) == _totals(real)
    assert fake.trainable_params == real.trainable_params
    assert fake.adapter_bytes == real.adapter_bytes
    assert fake.guesses == ()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_traces_for_cuda_too(method: str, tiny_bert: BaseModel):
    tape = trace(_request(tiny_bert, method, target="cuda"))
    assert tape.guesses == ()
    assert {span.phase for span in tape.spans} == set(Phase)


def test_shims_are_undone_after_a_trace(tiny_bert: BaseModel):
    before = torch.nn.Module._apply, torch.nn.functional.scaled_dot_product_attention
    trace(_request(tiny_bert, target="cuda", padded=False))
    assert before == (torch.nn.Module._apply, torch.nn.functional.scaled_dot_product_attention)


def test_lora_trains_and_keeps_what_the_formulas_say(tiny_llama: BaseModel):
    tape = trace(_request(tiny_llama, rank=4))
    # Query is 32 x 32, value 16 x 32 (two key-value heads of 8), in two layers.
    expected = 2 * lora_params([(32, 32), (16, 32)], rank=4)
    assert tape.trainable_params == expected
    assert tape.adapter_bytes == weight_bytes(expected, "fp32")
    assert _left_at_end(tape, Category.ADAPTER) == weight_bytes(expected, "fp32")
    steps = 4 * 8  # one counter for each of 8 matrices
    assert _left_at_end(tape, Category.OPTIMIZER) == adamw_state_bytes(expected) + steps


def test_frozen_weights_in_bf16_take_half_of_fp32(tiny_llama: BaseModel):
    half = trace(_request(tiny_llama, training={"precision": "bf16"}))
    frozen = half.total_params - half.trainable_params
    weights = _left_at_end(half, Category.WEIGHTS)
    assert weight_bytes(frozen, "bf16") <= weights < 1.02 * weight_bytes(frozen, "bf16")
    assert _left_at_end(half, Category.ADAPTER) == weight_bytes(half.trainable_params, "fp32")


def test_nothing_but_weights_and_optimizer_state_outlives_a_step(tiny_bert: BaseModel):
    tape = trace(_request(tiny_bert, "full"))
    for category in (Category.SAVED, Category.TEMPORARY, Category.LOGITS, Category.GRADIENTS):
        assert _left_at_end(tape, category) == 0


def test_longer_rows_and_more_of_them_take_more_memory(tiny_bert: BaseModel):
    small = allocated_peak(trace(_request(tiny_bert))).allocated_bytes
    longer = allocated_peak(trace(_request(tiny_bert, lengths=(8, 32)))).allocated_bytes
    more = allocated_peak(trace(_request(tiny_bert, rows=8))).allocated_bytes
    assert small < longer
    assert small < more


def test_checkpointing_saves_activations(tiny_bert: BaseModel):
    def saved(checkpointing: bool) -> int:
        training = {"gradient_checkpointing": checkpointing}
        return allocated_peak(trace(_request(tiny_bert, training=training))).parts.activations

    assert saved(True) < saved(False)


def test_accumulated_gradients_are_seen_in_the_second_micro_batch(tiny_bert: BaseModel):
    tape = trace(_request(tiny_bert, "full", training={"grad_accum": 8}))
    assert tape.micro_batches == 2
    assert allocated_peak(tape).parts.gradients >= 0.5 * tape.trainable_params * 4


def test_a_tape_survives_packing(tiny_bert: BaseModel):
    tape = trace(_request(tiny_bert))
    again = Tape.from_bytes(tape.to_bytes())
    assert again.to_bytes() == tape.to_bytes()
    assert again.spans == tape.spans


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 not a tape", b"\x80\x04]\x94."])
def test_what_is_no_tape_is_a_value_error(data: bytes):
    with pytest.raises(ValueError, match=r"tape|pickle"):
        Tape.from_bytes(data)


def test_an_untraceable_model_is_unsupported_with_the_reason(tiny_bert: BaseModel):
    broken = tiny_bert.model_copy(update={"config": tiny_bert.config | {"num_attention_heads": 5}})
    with pytest.raises((UnsupportedError, InputError), match="multiple"):
        trace(_request(broken))


def test_tracing_again_gives_the_same_tape_after_any_garbage(tiny_bert: BaseModel):
    first = trace(_request(tiny_bert))
    garbage = [[torch.ones(3)] for _ in range(50)]
    garbage[0].append(garbage)  # type: ignore[arg-type]
    del garbage
    gc.collect()
    assert trace(_request(tiny_bert)).to_bytes() == first.to_bytes()
