from __future__ import annotations

import pytest

from autopeft.cost.money import cost_of
from autopeft.cost.spread import Spread
from autopeft.errors import InputError
from autopeft.hardware.catalog import load_profile
from autopeft.hardware.prices import price_of
from autopeft.plan.capacity import Capacity, Cell, Demand, Way, fleet_of, rows_of, with_front

DEMAND = Demand(models=("m",), ways=(Way.read("lora"),), gpus=("l4",), runs_per_week=20, utilisation=0.5)


def cell(hours: float, usd: float | None) -> Cell:
    cost = None
    if usd is not None:
        price = price_of("l4", given=usd / hours)
        assert price is not None
        cost = cost_of(price, load_profile("l4"), gpus=1, step_seconds=1, run_seconds=3600 * hours, epochs=1)
    return Cell(model="m", way="lora", gpu="l4", spread=Spread(), fits=True, hours=hours, cost=cost)


def test_the_front_holds_what_nothing_else_is_both_faster_and_cheaper_than() -> None:
    cells = with_front((cell(1, 9), cell(2, 5), cell(3, 7), cell(4, 1), cell(5, None)))
    assert [each.on_front for each in cells] == [True, True, False, True, False]


def test_the_cheapest_and_the_fastest_are_named() -> None:
    made = Capacity(demand=DEMAND, cells=(cell(1, 9), cell(4, 1), cell(0.5, None)))
    assert made.cheapest("m") == made.cells[1]
    assert made.fastest("m") == made.cells[2]
    assert made.cheapest("other") is None


def test_a_fleet_has_as_many_devices_as_its_busy_hours_take() -> None:
    fleet = fleet_of(10.0, 3.0, DEMAND, gpus=4)
    assert fleet is not None
    # 200 hours in a week of which half, 84 hours, can be used.
    assert (fleet.busy_hours, fleet.at_once, fleet.gpus, fleet.usd_per_week) == (200.0, 3, 12, 60.0)


def test_no_fleet_is_planned_unless_it_is_asked_for() -> None:
    assert fleet_of(10.0, 3.0, DEMAND.model_copy(update={"runs_per_week": None}), gpus=4) is None


def test_a_way_is_a_method_with_the_quantisation_of_its_base() -> None:
    assert (Way.read("qlora").method, Way.read("qlora").quantization) == ("lora", "nf4-dq")
    assert (Way.read("DoRA+int8").method, Way.read("DoRA+int8").quantization) == ("dora", "int8")
    assert Way.read("full").quantization == "none"


def test_tokens_are_counted_in_rows() -> None:
    assert rows_of(1_000_000, 500) == 2000
    with pytest.raises(InputError, match="--seq-len"):
        rows_of(1_000_000, None)
    with pytest.raises(InputError, match="at least"):
        rows_of(10, 500)
