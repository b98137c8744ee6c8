"""The planner holds estimates against every limit, says why not, and names the nearest way out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopeft.cost.estimate import CostEstimate, MemoryEstimate, MemoryParts, TimeEstimate
from autopeft.errors import AutopeftError, UnsupportedError
from autopeft.hardware.profile import HardwareProfile, Provenance
from autopeft.plan.budget import Budget
from autopeft.plan.plan import Fits, Rejected
from autopeft.plan.planner import Planner
from autopeft.space.candidate import Candidate, Training
from autopeft.workload.base_model import BaseModel
from autopeft.workload.dataset import Lengths, Workload

PROFILE = HardwareProfile(
    name="card",
    device="cuda",
    device_name="a card",
    total_bytes=10_000,
    usable_bytes=9_000,
    context_bytes=500,
    matmul_flops={"float32": 1.0},
    bandwidth_bytes_per_second=1.0,
    dispatch_seconds=0.0,
    provenance=Provenance(kind="measured", source="test", date="2026-01-01"),
)
WORKLOAD = Workload(task="classification", lengths=Lengths.constant(10), rows=100)


class LinearCost:
    """A cost model whose activations are 100 bytes a row."""

    def __init__(self, weights: int = 1_000, run_seconds: float = 60.0) -> None:
        self.weights, self.run_seconds = weights, run_seconds

    def estimate(self, base, candidate, workload, profile) -> CostEstimate:
        if candidate.method == "ia3":
            raise UnsupportedError("ia3 cannot be costed here")
        parts = MemoryParts(weights=self.weights, activations=100 * candidate.training.batch_size)
        peak = parts.total
        memory = MemoryEstimate(
            parts=parts,
            allocated_peak_bytes=peak,
            reserved_peak_bytes=peak,
            device_peak_bytes=peak + profile.context_bytes,
            low_bytes=peak,
            high_bytes=round((peak + profile.context_bytes) * 1.1),
            peak_phase="backward",
        )
        time = TimeEstimate(
            step_seconds=1,
            forward_seconds=1,
            backward_seconds=0,
            optimizer_seconds=0,
            lower_seconds=1,
            upper_seconds=1,
            low_seconds=1,
            high_seconds=1,
            evaluation_row_seconds=0,
            bound="compute",
        )
        return CostEstimate(
            memory=memory,
            time=time,
            trainable_params=candidate.rank or 1,
            total_params=1000,
            adapter_file_bytes=1,
            run_seconds=self.run_seconds,
            provenance="test",
        )

    def estimate_many(
        self,
        base,
        candidates: Sequence[Candidate],
        workload,
        profile,
        on_done: Callable[[int], None] | None = None,
    ) -> list[CostEstimate | AutopeftError]:
        answers: list[CostEstimate | AutopeftError] = []
        for candidate in candidates:
            try:
                answers.append(self.estimate(base, candidate, workload, profile))
            except AutopeftError as error:
                answers.append(error)
        return answers


def planner(tiny_bert: BaseModel, cost: LinearCost | None = None, **budget: object) -> Planner:
    return Planner(
        base=tiny_bert,
        workload=WORKLOAD,
        profile=PROFILE,
        budget=Budget(**budget),
        cost_model=cost or LinearCost(),
    )


def candidate(batch: int = 16, **fields: object) -> Candidate:
    return Candidate(**{"method": "lora", "rank": 8, "training": Training(batch_size=batch)} | fields)


def test_what_fits_is_ranked_by_what_it_trains_and_the_nearest_miss_comes_first(tiny_bert) -> None:
    made = planner(tiny_bert, gpu_mem=4000).plan(
        "space",
        [
            candidate(rank=4),
            candidate(rank=32),
            candidate(64),
            candidate(32),
            candidate(method="ia3", rank=None),
        ],
    )
    assert [fit.candidate.rank for fit in made.fits] == [32, 4]
    assert [miss.candidate.training.batch_size for miss in made.rejected[:2]] == [32, 64]
    assert made.rejected[-1].reason == "ia3 cannot be costed here"


def test_the_upper_end_of_the_band_must_fit_not_the_middle(tiny_bert) -> None:
    middle = 1_000 + 1_600 + 500
    assert isinstance(planner(tiny_bert, gpu_mem=middle).judge(candidate()), Rejected)
    assert isinstance(planner(tiny_bert, gpu_mem=round(middle * 1.1)).judge(candidate()), Fits)


def test_the_device_is_a_limit_even_when_the_budget_is_larger(tiny_bert) -> None:
    assert planner(tiny_bert, gpu_mem="1GB").memory_limit == PROFILE.usable_bytes


@given(batch=st.integers(2, 400), limit=st.integers(1_800, 9_000))
def test_the_smaller_batch_that_is_named_does_fit(batch: int, limit: int) -> None:
    base = BaseModel(name="b", family="encoder", source="s", config={})
    judge = planner(base, gpu_mem=limit)
    verdict = judge.judge(candidate(batch))
    if isinstance(verdict, Fits):
        return
    if "batch of about" in verdict.way_out:
        named = int(verdict.way_out.split()[4])
        assert isinstance(judge.judge(candidate(named)), Fits)
        assert isinstance(judge.judge(candidate(named + 2)), Rejected)
    else:
        assert isinstance(judge.judge(candidate(1)), Rejected)


def test_weights_that_are_too_much_are_said_to_be(tiny_bert) -> None:
    verdict = planner(tiny_bert, LinearCost(weights=8_500)).judge(candidate())
    assert isinstance(verdict, Rejected)
    assert "smaller model" in verdict.way_out


@pytest.mark.parametrize(
    ("budget", "words"),
    [({"time": 30}, "one training takes 1 min"), ({"params": 0.001}, "it trains 0.80% of the parameters")],
)
def test_time_and_trainable_share_are_limits_with_a_reason(tiny_bert, budget, words) -> None:
    verdict = planner(tiny_bert, **budget).judge(candidate())
    assert isinstance(verdict, Rejected)
    assert words in verdict.reason
    assert verdict.way_out
