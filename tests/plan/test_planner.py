"""The planner holds estimates against every limit, says why not, and names the nearest way out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopeft.cost.estimate import CostEstimate, MemoryEstimate, MemoryParts, RunTime, TimeEstimate
from autopeft.cost.spread import Spread
from autopeft.errors import AutopeftError, UnsupportedError
from autopeft.hardware.prices import price_of
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
AT_8 = price_of("card", given=8.0)
WORKLOAD = Workload(task="classification", lengths=Lengths.constant(10), rows=100)


class LinearCost:
    """A cost model whose `passing` parts are 100 bytes a row."""

    def __init__(self, weights: int = 1_000, run_seconds: float = 60.0, passing: str = "activations") -> None:
        self.weights, self.run_seconds, self.passing = weights, run_seconds, passing

    def estimate(self, base, candidate, workload, profile) -> CostEstimate:
        if candidate.method == "ia3":
            raise UnsupportedError("ia3 cannot be costed here")
        parts = MemoryParts(weights=self.weights, **{self.passing: 100 * candidate.training.batch_size})
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


def test_what_fits_is_ranked_by_its_prior_the_unknown_last_and_the_nearest_miss_comes_first(
    tiny_bert,
) -> None:
    made = planner(tiny_bert, gpu_mem=4000).plan(
        "space",
        [
            candidate(rank=400),
            candidate(method="full", rank=None),
            candidate(rank=32),
            candidate(64),
            candidate(32),
            candidate(method="ia3", rank=None),
        ],
    )
    assert [(fit.candidate.method, fit.candidate.rank) for fit in made.fits] == [
        ("lora", 32),
        ("full", None),
        ("lora", 400),
    ]
    assert made.fits[-1].prior is None
    assert [miss.candidate.training.batch_size for miss in made.rejected[:2]] == [32, 64]
    assert made.rejected[-1].reason == "ia3 cannot be costed here"


def test_of_equal_priors_the_faster_a_row_comes_first_and_the_smaller_is_on_the_front(tiny_bert) -> None:
    made = planner(tiny_bert, gpu_mem=4000).plan("space", [candidate(1), candidate(4), candidate(8)])
    assert [fit.candidate.training.batch_size for fit in made.fits] == [8, 4, 1]
    assert [fit.on_front for fit in made.fits] == [False, False, True]


def test_an_unknown_prior_is_on_the_front_only_where_nothing_is_known(tiny_bert) -> None:
    unknown, known = candidate(1, rank=400), candidate(4)
    both = planner(tiny_bert, gpu_mem=4000).plan("space", [unknown, known])
    assert [fit.candidate for fit in both.fits if fit.on_front] == [known]
    alone = planner(tiny_bert, gpu_mem=4000).plan("space", [unknown])
    assert alone.fits[0].on_front


def test_a_near_miss_names_changes_that_were_estimated_and_fit(tiny_bert) -> None:
    made = planner(tiny_bert, gpu_mem=2500).plan("space", [candidate(16), candidate(4)], misses=3)
    (miss,) = made.rejected
    assert [way.change for way in miss.ways_out] == ["batch 4"]
    (way,) = miss.ways_out
    assert way.spare_bytes == 2500 - way.estimate.memory.high_bytes >= 0
    assert miss.way_out == "batch 4: fits with 410 B to spare"


def test_where_no_single_change_helps_several_at_once_are_tried_with_the_largest_batch(tiny_bert) -> None:
    class Saving(LinearCost):
        def estimate(self, base, candidate, workload, profile) -> CostEstimate:
            rows = candidate.training.batch_size * (1 if candidate.training.gradient_checkpointing else 10)
            self.weights = 2_000 if candidate.quantization == "nf4-dq" else 8_000
            same = candidate.model_copy(update={"training": Training(batch_size=rows)})
            return super().estimate(base, same, workload, profile)

    made = planner(tiny_bert, Saving(), gpu_mem=3300).plan("space", [candidate(16)], misses=1)
    (way,) = made.rejected[0].ways_out
    assert way.change == "checkpointing, nf4-dq and batch 4"
    assert (way.candidate.training.batch_size, way.candidate.quantization) == (4, "nf4-dq")
    assert way.candidate.training.gradient_checkpointing


def test_misses_are_not_looked_at_unless_asked_for(tiny_bert) -> None:
    (miss,) = planner(tiny_bert, gpu_mem=2500).plan("space", [candidate(16)]).rejected
    assert not miss.ways_out


def test_a_way_out_keeps_every_other_limit_too(tiny_bert) -> None:
    made = planner(tiny_bert, gpu_mem=2500, params=0.001).plan("space", [candidate(16)], misses=3)
    assert not made.rejected[0].ways_out


def test_the_upper_end_of_the_band_must_fit_not_the_middle(tiny_bert) -> None:
    middle = 1_000 + 1_600 + 500
    assert isinstance(planner(tiny_bert, gpu_mem=middle).judge(candidate()), Rejected)
    assert isinstance(planner(tiny_bert, gpu_mem=round(middle * 1.1)).judge(candidate()), Fits)


def test_the_device_is_a_limit_even_when_the_budget_is_larger(tiny_bert) -> None:
    assert planner(tiny_bert, gpu_mem="1GB").memory_limit == PROFILE.usable_bytes


@given(
    batch=st.integers(2, 400),
    limit=st.integers(1_800, 9_000),
    passing=st.sampled_from(("activations", "logits", "temporary", "kept")),
)
def test_the_smaller_batch_that_is_named_does_fit(batch: int, limit: int, passing: str) -> None:
    base = BaseModel(name="b", family="encoder", source="s", config={})
    judge = planner(base, LinearCost(passing=passing), gpu_mem=limit)
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
    verdict = planner(tiny_bert, LinearCost(weights=8_600)).judge(candidate())
    assert isinstance(verdict, Rejected)
    assert "alone are too much: a smaller model" in verdict.way_out


def test_weights_within_the_limit_are_never_said_to_be_too_much(tiny_bert) -> None:
    # 8,400 and the context fit 9,000, with the band of 10 % they do not.
    verdict = planner(tiny_bert, LinearCost(weights=8_400)).judge(candidate())
    assert isinstance(verdict, Rejected)
    assert "alone" not in verdict.way_out
    assert "even one row is too much" in verdict.way_out


def test_time_and_cost_limits_count_the_whole_run(tiny_bert) -> None:
    cost = LinearCost()
    alone = planner(tiny_bert, cost).judge(candidate())
    assert isinstance(alone, Fits)
    run = RunTime(load_seconds=3540, training_seconds=60, data_seconds=0, evaluation_seconds=0)
    slow = alone.estimate.model_copy(update={"run": run})
    cost.estimate = lambda *_: slow  # type: ignore[method-assign]
    timed = planner(tiny_bert, cost, time="30min").judge(candidate())
    paid = replace(planner(tiny_bert, cost), budget=Budget(cost="1usd"), price=AT_8).judge(candidate())
    assert isinstance(timed, Rejected)
    assert isinstance(paid, Rejected)
    assert "one training takes 1 h 00 min" in timed.reason
    assert "costs $8.00" in paid.reason


@pytest.mark.parametrize(
    ("budget", "words"),
    [({"time": 30}, "one training takes 1 min"), ({"params": 0.001}, "it trains 0.80% of the parameters")],
)
def test_time_and_trainable_share_are_limits_with_a_reason(tiny_bert, budget, words) -> None:
    verdict = planner(tiny_bert, **budget).judge(candidate())
    assert isinstance(verdict, Rejected)
    assert words in verdict.reason
    assert verdict.way_out


def test_a_training_that_is_too_long_because_of_others_says_so(tiny_bert) -> None:
    made = planner(tiny_bert, time=30)
    three = replace(made, profile=PROFILE.model_copy(update={"sharers": 3}))
    assert "takes 1 min 00 s, the limit" in made.judge(candidate()).reason
    assert "takes 1 min 00 s beside 2 others, the limit" in three.judge(candidate()).reason


def test_an_adapter_above_its_limit_is_rejected_with_the_way_out(tiny_bert) -> None:
    cost = LinearCost()
    fitting = planner(tiny_bert, cost, adapter_size="1kB").judge(candidate())
    assert isinstance(fitting, Fits)
    large = fitting.estimate.model_copy(update={"adapter_file_bytes": 2000})
    cost.estimate = lambda *_: large  # type: ignore[method-assign]
    verdict = planner(tiny_bert, cost, adapter_size="1kB").judge(candidate())
    assert isinstance(verdict, Rejected)
    assert "its adapter takes" in verdict.reason
    assert "smaller rank" in verdict.way_out


def test_a_training_above_its_cost_is_rejected_with_the_way_out(tiny_bert) -> None:
    unpaid = planner(tiny_bert, LinearCost(run_seconds=7200))
    verdict = replace(unpaid, budget=Budget(cost="10usd"), price=AT_8).judge(candidate())
    assert isinstance(verdict, Rejected)
    assert "costs $16.00 at $8.00 an hour, the limit is $10.00" in verdict.reason
    assert "0.62 times" in verdict.way_out


def test_what_fits_has_its_cost_on_all_devices_where_a_price_is_known(tiny_bert) -> None:
    unpaid = planner(tiny_bert, LinearCost(run_seconds=7200))
    two = replace(unpaid, price=AT_8, spread=Spread(gpus=2, sharding="fsdp")).plan("space", [candidate()])
    assert [each.usd for each in two.fits] == [32.0]
    assert (two.price, two.spread.gpus) == (AT_8, 2)
    assert [each.usd for each in unpaid.plan("space", [candidate()]).fits] == [None]


def test_limits_are_read_as_people_write_them() -> None:
    budget = Budget(params="1%", cost="$20", adapter_size="50MB")
    assert (budget.params, budget.cost, budget.adapter_size) == (0.01, 20.0, 50_000_000)


def test_what_a_process_alone_is_too_large_for_is_refused_before_anything_is_costed(tiny_bert) -> None:
    class Costly(LinearCost):
        def estimate_many(self, *args, **kwargs) -> list[CostEstimate | AutopeftError]:
            pytest.fail("it was costed")

    made = planner(tiny_bert, Costly(), gpu_mem=500).plan("space", [candidate(1), candidate(4)], misses=3)
    reason = "a training process holds 500 B before its first tensor, the limit is 500 B"
    assert [each.reason for each in made.rejected] == [reason] * 2
    assert planner(tiny_bert, gpu_mem=3000).plan("space", [candidate(1)]).fits
