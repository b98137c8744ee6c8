"""Tests of autopeft/cost/expand.py: laws of repeating layers, and tapes of many kinds of models."""

from __future__ import annotations

import itertools
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from autopeft.cost.expand import Expansion, NotAlikeError, unfold
from autopeft.cost.loops import LOOPS
from autopeft.cost.pattern import NO_UNIT, UNITS, Pattern
from autopeft.cost.tape import Tape
from autopeft.cost.tracing.request import TraceRequest
from autopeft.cost.tracing.trace import _fit, _shapes, trace
from autopeft.methods.registry import complete
from autopeft.space.candidate import Candidate, Training
from autopeft.workload.base_model import BaseModel

pytestmark = [pytest.mark.usefixtures("spared"), pytest.mark.slow]

LENGTH = 33
SMALL = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 100}
DECODER = SMALL | {
    "num_key_value_heads": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "max_position_embeddings": 512,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": DECODER | {"num_hidden_layers": 7},
    "gpt2": {"n_embd": 32, "n_head": 4, "n_layer": 7, "n_positions": 512, "vocab_size": 100},
    "bert": SMALL | {"num_hidden_layers": 7, "max_position_embeddings": 512},
    # Five times a local and a global layer.
    "gemma2": DECODER | {"num_hidden_layers": 10, "head_dim": 8, "sliding_window": 512},
    # Two dense layers, then six with experts.
    "glm4_moe": DECODER
    | {
        "architectures": ["Glm4MoeForCausalLM"],
        "num_hidden_layers": 8,
        "first_k_dense_replace": 2,
        "head_dim": 8,
        "n_group": 1,
        "topk_group": 1,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
    },
    # One layer that is run seven times.
    "albert": SMALL | {"num_hidden_layers": 7, "embedding_size": 16, "max_position_embeddings": 512},
}


def base_of(kind: str) -> BaseModel:
    family = "encoder" if kind in ("bert", "albert") else "decoder"
    return BaseModel(
        name=kind, family=family, source="made for tests", config={"model_type": kind, **CONFIGS[kind]}
    )


def request_of(kind: str, method: str = "lora", **asked: Any) -> TraceRequest:
    base, loop = base_of(kind), LOOPS[asked.pop("loop", "autopeft")]
    place = {name: asked.pop(name) for name in ("rank", "layers", "targets", "knobs") if name in asked}
    shape = {"rows": 2, "length": LENGTH, "target": "cuda", "padded": True} | {
        name: asked.pop(name) for name in ("rows", "length", "target", "padded") if name in asked
    }
    training = Training(max_length=shape["length"], batch_size=shape["rows"], **asked)
    return TraceRequest(
        base=base,
        candidate=complete(Candidate(method=method, training=training, **place)),
        task="classification" if base.family == "encoder" else "sft",
        labels=3,
        loop=loop,
        general=not loop.logits_chunk,
        **shape,
    )


def tape_of(pattern: Pattern, request: TraceRequest) -> Tape:
    return Expansion(pattern).tape(request.rows, (request.length,) * 3, request.candidate.rank or 1)


def whole(request: TraceRequest) -> Tape:
    """Return the tape of all layers traced at the very shape."""
    exact = request.exact
    shapes = _shapes(exact)
    assert shapes is not None
    return tape_of(_fit(exact, shapes, request.base, request.candidate, None), request)


def assert_same(mine: Tape, true: Tape) -> None:
    for field in fields(Tape):
        one, other = getattr(mine, field.name), getattr(true, field.name)
        if field.name == "operator_bytes":  # the one thing for which the nearest formula will do
            assert one.sum() == pytest.approx(other.sum(), rel=0.1)
        elif field.name == "operator_flops":
            assert one == pytest.approx(other)
        elif isinstance(one, np.ndarray):
            assert np.array_equal(one, other), field.name
        else:
            assert one == other, field.name


def slow(*case: Any) -> Any:
    return pytest.param(*case, marks=pytest.mark.slow)


# Model, method, settings.
EXPANDED = [
    ("gpt2", "full", {"gradient_checkpointing": True}),
    ("bert", "ia3", {"target": "cpu"}),
    slow("gemma2", "lora", {}),
    slow("glm4_moe", "lora", {"precision": "bf16", "gradient_checkpointing": True}),
    slow("llama", "dora", {"loop": "trainer", "precision": "bf16", "grad_accum": 2}),
    ("llama", "lora", {"loop": "litgpt", "precision": "bf16"}),
    ("llama", "lora", {"target": "cpu", "layers": "2-6"}),
    slow("llama", "lora", {"padded": False}),
    slow("llama", "lora", {"length": 40}),
    slow("llama", "lora", {"rows": 1, "padded": False}),
    slow("llama", "ia3", {"grad_accum": 3}),
    slow("llama", "full", {"target": "cpu", "gradient_checkpointing": True, "grad_accum": 2}),
    slow("llama", "full", {"optimizer": "adafactor"}),
    slow("llama", "lora", {"optimizer": "sgd"}),
    slow("llama", "lora", {"attention": "eager", "dropout": 0.1}),
    slow("llama", "bottleneck", {"gradient_checkpointing": True}),
    slow("llama", "parallel_adapter", {"gradient_checkpointing": True}),
    slow("llama", "lora", {"targets": "all-linear", "knobs": {"use_dora": True}}),
    slow("llama", "oft", {}),
    slow("llama", "vera", {}),
    slow("llama", "lora", {"gradient_checkpointing": True, "loop": "trainer-2023", "precision": "bf16"}),
    *(slow("llama", "lora", {"loop": name}) for name in LOOPS if name != "litgpt"),
    *(slow("gpt2", method, {}) for method in ("lora", "dora", "ia3")),
    *(
        slow("bert", method, {"gradient_checkpointing": True})
        for method in ("lora", "dora", "full", "bitfit")
    ),
    *(slow("gemma2", method, {"gradient_checkpointing": True}) for method in ("dora", "full")),
    slow("glm4_moe", "full", {"precision": "bf16"}),
]


@pytest.mark.parametrize(("kind", "method", "asked"), EXPANDED, ids=str)
def test_a_few_layers_expand_to_what_all_of_them_do(kind: str, method: str, asked: dict[str, Any]):
    request = request_of(kind, method, **asked)
    pattern = trace(request)
    assert any(run.copies for run in pattern.runs)
    assert pattern.general == request.general
    assert_same(tape_of(pattern, request), whole(request))


# What is traced at full depth, and why.
FULL_DEPTH = {
    ("albert", "lora"): "its one layer is run many times",
    (
        "llama",
        "prefix_tuning",
    ): "the prefixes of all layers are cut out of one tensor, before the first layer",
    ("llama", "compacter"): "the gradients of the matrices that all layers share are added up",
    ("llama", "lst"): "the states of the side network are freed in another order",
    ("bert", "lst"): "the states of the side network are freed in another order",
}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "method"), FULL_DEPTH, ids=str)
def test_layers_that_are_not_alike_are_traced_at_full_depth(kind: str, method: str):
    request = request_of(kind, method)
    pattern = trace(request)
    assert pattern.general
    assert not any(run.copies for run in pattern.runs)
    assert_same(tape_of(pattern, request), whole(request))


@pytest.fixture(scope="module")
def general() -> Pattern:
    """One pattern of LoRA for all rows above one, ranks, and lengths that 8 does not divide."""
    return trace(request_of("llama"))


QUICK = settings(phases=(Phase.generate,), suppress_health_check=list(HealthCheck))
shapes = st.tuples(
    st.integers(2, 9), st.integers(17, 500).filter(lambda length: length % 8 > 0), st.integers(1, 64)
)


def assert_serves(pattern: Pattern, rows: int, length: int, rank: int) -> None:
    request = request_of("llama", rows=rows, length=length, rank=rank)
    assert request.key == request_of("llama").key
    assert_same(tape_of(pattern, request), whole(request))


@settings(QUICK, max_examples=2, derandomize=True)
@given(shape=shapes)
def test_a_pattern_serves_other_rows_lengths_and_ranks(general: Pattern, shape: tuple[int, int, int]):
    assert_serves(general, *shape)


@pytest.mark.slow
@settings(QUICK, max_examples=15)
@given(shape=shapes)
def test_a_pattern_serves_any_rows_lengths_and_ranks(general: Pattern, shape: tuple[int, int, int]):
    assert_serves(general, *shape)


@settings(QUICK, max_examples=30)
@given(
    copies=st.integers(0, 60),
    rows=st.integers(2, 9),
    lengths=st.lists(st.integers(2, 500), min_size=2, max_size=5),
)
def test_a_tape_of_any_run_is_sound(general: Pattern, copies: int, rows: int, lengths: list[int]):
    tape = Expansion(general, [copies], 3 + copies).tape(rows, lengths, 16)
    births, deaths = tape.events[tape.events >= 0], np.invert(tape.events[tape.events < 0])
    assert np.array_equal(births, np.arange(len(tape.block_bytes)))
    assert len(np.unique(deaths)) == len(deaths)
    place = np.flatnonzero(tape.events >= 0)
    assert (np.flatnonzero(tape.events < 0) > place[deaths]).all()
    assert (tape.block_bytes >= 0).all()
    starts = [span.event for span in tape.spans]
    assert starts == sorted(starts)
    assert starts[-1] <= len(tape.events)
    assert tape.lengths == tuple(lengths)


def test_every_layer_adds_the_same(general: Pattern):
    sizes = [
        (
            len(tape.block_bytes),
            len(tape.events),
            tape.trainable_params,
            tape.total_params,
            tape.adapter_bytes,
        )
        for tape in (Expansion(general, [n], 3 + n).tape(2, (LENGTH,) * 3, 16) for n in range(4))
    ]
    steps = np.diff(np.array(sizes), axis=0)
    assert (steps == steps[0]).all()
    assert (steps[0] > 0).all()


def test_a_tape_has_as_many_parameters_as_the_model(general: Pattern):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **CONFIGS["llama"]))
    tape = Expansion(general).tape(2, (LENGTH,) * 3, 16)
    assert tape.total_params - tape.trainable_params == model.num_parameters()


@st.composite
def journeys(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """Return events' units as the runs of a model are walked through up and down, and copies of each run."""
    copies = draw(st.lists(st.integers(0, 5), min_size=1, max_size=3))
    units: list[int] = []
    for down in draw(st.lists(st.booleans(), min_size=1, max_size=4)):
        way = [UNITS * run + unit for run in range(len(copies)) for unit in range(3)]
        for unit in way[::-1] if down else way:
            units += [unit] * draw(st.integers(1, 3))
        units += [NO_UNIT] * draw(st.integers(1, 2))
    return units, copies


@given(journeys())
def test_unfolding_repeats_second_units_only_and_keeps_the_order(journey: tuple[list[int], list[int]]):
    codes, copies = journey
    units = np.array(codes, dtype=np.int32)
    source, shift = unfold(units, copies)
    times = np.array([1 + copies[code // UNITS] if code >= 0 and code % UNITS == 1 else 1 for code in codes])
    assert np.array_equal(np.bincount(source, minlength=len(codes)), times)
    assert (shift <= times[source] - 1).all()
    for number in range(int(shift.max()) + 1):
        assert (np.diff(source[shift == number]) > 0).all()
    walked = [
        (
            codes[index] // UNITS,
            codes[index] % UNITS + number + (codes[index] % UNITS == 2) * copies[codes[index] // UNITS],
        )
        for index, number in zip(source.tolist(), shift.tolist(), strict=True)
        if codes[index] >= 0
    ]
    for (run, unit), (next_run, next_unit) in itertools.pairwise(walked):
        if run == next_run:
            assert abs(next_unit - unit) <= 1 or {unit, next_unit} == {0, 2 + copies[run]}


@given(journeys())
def test_unfolding_without_copies_changes_nothing(journey: tuple[list[int], list[int]]):
    units = np.array(journey[0], dtype=np.int32)
    source, shift = unfold(units, [0] * len(journey[1]))
    assert np.array_equal(source, np.arange(len(units)))
    assert not shift.any()


def test_a_unit_that_works_between_neither_neighbour_is_not_alike():
    with pytest.raises(NotAlikeError, match="neither of its neighbours"):
        unfold(np.array([NO_UNIT, 1, NO_UNIT], dtype=np.int32), [1])


def test_nothing_unfolds_to_nothing():
    source, shift = unfold(np.zeros(0, dtype=np.int32), [4])
    assert len(source) == len(shift) == 0
