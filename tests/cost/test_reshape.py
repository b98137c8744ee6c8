"""A reshaped tape is the tape of the expansion, and two steps tell the peak that three do."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from autopeft.cost.expand import Expansion
from autopeft.cost.memory import allocated_peak, estimate_memory
from autopeft.cost.reshape import Reshaper
from autopeft.cost.tape import Tape
from autopeft.cost.tracing.request import TraceRequest
from autopeft.cost.tracing.trace import trace
from autopeft.hardware.profile import HardwareProfile
from autopeft.space.candidate import Candidate, Training
from autopeft.workload.base_model import BaseModel

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 1000,
    "max_position_embeddings": 1024,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.fixture(scope="module")
def expansion() -> Expansion:
    request = TraceRequest(
        base=BaseModel(name="llama", family="decoder", source="made for tests", config=CONFIG),
        candidate=Candidate(
            method="lora",
            rank=4,
            targets="query+value",
            knobs={"alpha_ratio": 2.0},
            training=Training(precision="bf16", batch_size=4),
        ),
        task="sft",
        labels=0,
        rows=4,
        length=128,
        target="cuda",
        padded=False,
    )
    pattern = trace(request)
    assert pattern.general
    return Expansion(pattern)


def same(one: Tape, other: Tape) -> bool:
    pairs = [(getattr(one, part.name), getattr(other, part.name)) for part in fields(Tape)]
    return all(np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b for a, b in pairs)


def test_every_shape_gives_the_tape_that_the_expansion_gives(expansion: Expansion) -> None:
    made = Reshaper(expansion)
    shapes = [(2, (128, 128), 4), (7, (128, 128), 4), (2, (90, 90), 32), (3, (64, 200, 64, 201), 1)]
    for rows, lengths, rank in [*shapes, *shapes[::-1]]:
        assert same(made.tape(rows, lengths, rank), expansion.tape(rows, lengths, rank))


@pytest.mark.parametrize("rows", [2, 16])
def test_the_third_step_of_equal_rows_repeats_the_second(
    expansion: Expansion, gpu: HardwareProfile, rows: int
) -> None:
    two, three = (estimate_memory(expansion.tape(rows, (256,) * count, 8), gpu) for count in (2, 3))
    assert two == three


def test_the_parts_of_a_peak_sum_to_it(expansion: Expansion) -> None:
    peak = allocated_peak(expansion.tape(4, (256, 256), 8))
    assert peak.parts.total == peak.allocated_bytes
