from __future__ import annotations

import pytest

from autopeft.cost.expand import Expansion
from autopeft.cost.loops import LOOPS
from autopeft.cost.memory import allocated_peak
from autopeft.cost.padding import padding_bytes
from autopeft.cost.tracing.request import TraceRequest
from autopeft.cost.tracing.workers import TracePool
from autopeft.methods.registry import complete
from autopeft.space.candidate import Candidate, Training
from autopeft.workload.models import find_model


def request(*, padded: bool, **training: object) -> TraceRequest:
    candidate = Candidate(method="lora", rank=8, training=Training(precision="bf16", **training))
    return TraceRequest(
        base=find_model("Llama-3.2-1B"),
        candidate=complete(candidate),
        task="sft",
        labels=2,
        rows=4,
        length=1024,
        target="cuda",
        padded=padded,
        loop=LOOPS["autopeft"],
    )


@pytest.mark.slow
def test_padding_takes_what_a_trace_with_a_mask_takes_more() -> None:
    both = [request(padded=False), request(padded=True)]
    with TracePool(1) as pool:
        expansions = {at: Expansion(made) for at, made in pool.trace_many(both)}
    for length in (512, 2048):
        plain, masked = (
            allocated_peak(expansions[at].tape(4, [length] * 2, 8)).allocated_bytes for at in (0, 1)
        )
        assert masked - plain == pytest.approx(padding_bytes(both[0], length), rel=0.02)


@pytest.mark.parametrize(
    "sure", [{"padded": True}, {"padded": False, "packing": True}, {"padded": False, "attention": "flash"}]
)
def test_where_padding_is_known_nothing_is_added(sure: dict[str, object]) -> None:
    assert padding_bytes(request(**sure), 1024) == 0


def test_a_pair_of_answers_pads_two_rows() -> None:
    turns = request(padded=False)
    pairs = turns.model_copy(update={"task": "dpo"})
    assert padding_bytes(pairs, 1024) == 2 * padding_bytes(turns, 1024) > 0
