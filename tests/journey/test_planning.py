"""How many trials share a machine decides what each gets of it: the plan holds both together."""

from __future__ import annotations

import pytest
from linear_cost import LinearCost

from autopeft.hardware.catalog import load_profile
from autopeft.hardware.profile import HardwareProfile
from autopeft.journey.inputs import Inputs, load_inputs
from autopeft.journey.planning import plan_side_by_side
from autopeft.plan.budget import Budget
from autopeft.plan.plan import Plan
from autopeft.plan.planner import Planner
from autopeft.request import Request
from autopeft.search.schedule import side_by_side
from autopeft.units import GIB

ROWS = 1_600
BANDWIDTH = 1e10


class ComputedCost(LinearCost):
    """Time grows as the device gets slower."""

    def estimate_many(self, base, candidates, workload, profile, on_done=None, **given):
        slower = BANDWIDTH / profile.bandwidth_bytes_per_second
        found = super().estimate_many(base, candidates, workload, profile, on_done, **given)
        return [
            each.model_copy(update={"run": None, "run_seconds": each.run_seconds * slower}) for each in found
        ]


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    asked = Request(model="bert-base-uncased", task="classification", examples=ROWS, batch_size=16, epochs=1)
    return load_inputs(asked, load_profile("l4"))


def planned(inputs: Inputs, gib: float, **budget: float) -> tuple[Plan, int]:
    """Plan trainings of 100 s alone, of 1.4 GiB each, on 8 cores; return how many share them, too."""
    machine = HardwareProfile(
        name="cores",
        device="cpu",
        device_name="8 cores",
        total_bytes=int(gib * GIB),
        usable_bytes=int(gib * GIB),
        context_bytes=0,
        matmul_flops={"float32": 1e11},
        bandwidth_bytes_per_second=BANDWIDTH,
        dispatch_seconds=0,
        cores=8,
        provenance=load_profile("l4").provenance,
    )
    planner = Planner(
        base=inputs.base,
        workload=inputs.workload,
        profile=machine,
        budget=Budget(**budget),
        cost_model=ComputedCost(),
    )
    sharing, plan = plan_side_by_side(planner, inputs, 4, lambda *_: None)
    assert sharing.profile == plan.profile
    return plan, side_by_side(plan, sharing.memory_limit)


@pytest.mark.parametrize(("gib", "together"), [(64, 4), (3, 2), (2, 1)])
def test_a_prediction_is_for_as_many_side_by_side_as_memory_lets_run(
    inputs: Inputs, gib: float, together: int
) -> None:
    plan, trials = planned(inputs, gib)
    assert trials == together
    assert {fit.estimate.run_seconds for fit in plan.fits} == {100.0 * together}
    assert plan.profile.sharers == together


def test_what_fits_the_time_where_memory_lets_only_one_run_is_not_refused(inputs: Inputs) -> None:
    plan, trials = planned(inputs, 2, time=150)
    assert trials == 1
    assert inputs.baseline in [fit.candidate for fit in plan.fits]


def test_what_nothing_fits_the_time_of_beside_others_is_trained_alone(inputs: Inputs) -> None:
    plan, trials = planned(inputs, 64, time=150)
    assert trials == 1
    assert inputs.baseline in [fit.candidate for fit in plan.fits]


def test_a_study_that_goes_on_with_less_memory_trains_fewer_at_once_but_never_more(inputs: Inputs) -> None:
    plan, _ = planned(inputs, 3)
    assert [side_by_side(plan, gib * GIB) for gib in (64, 3, 2)] == [2, 2, 1]
