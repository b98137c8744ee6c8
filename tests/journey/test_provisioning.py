"""A capacity plan: every cell is an answered question, at a batch that fits."""

from __future__ import annotations

from pathlib import Path

import pytest
from linear_cost import LinearCost

from autopeft.errors import InputError, UnknownNameError
from autopeft.journey.answering import Answering
from autopeft.journey.posing import Poser
from autopeft.journey.provisioning import provision
from autopeft.plan.capacity import Capacity, Demand, Way


def capacity(
    tmp_path: Path, load_seconds: float = 0.0, **fields: object
) -> tuple[Capacity, LinearCost, list[str]]:
    def measured():
        raise InputError("this machine is not measured in tests")

    cost, told = LinearCost(load_seconds), []
    usual = {
        "models": ("SmolLM2-135M",),
        "ways": (Way.read("lora"), Way.read("lora+int8")),
        "gpus": ("t4", "h100-sxm"),
        "seq_len": 512,
        "batch_size": 200,
    }
    made = provision(
        Demand.build(**{**usual, **fields}),
        Answering(poser=Poser(tmp_path, measured), cost_model=cost),
        lambda what, done, total: told.append(f"{what} {done}/{total}"),
    )
    return made, cost, told


def test_each_device_takes_as_many_rows_as_fit_and_no_more_than_wished(tmp_path) -> None:
    made, _, told = capacity(tmp_path)
    small, large = made.cells[:2]
    # The linear model: 1 GiB and 100 MiB a row, so about 130 rows on a T4 of 16 GiB.
    assert small.fits
    assert small.batch == small.max_batch
    assert small.batch is not None
    assert 100 < small.batch < 150
    assert (large.fits, large.batch) == (True, 200)
    assert large.max_batch is not None
    assert large.max_batch > 200
    assert told[-1] == "done 2/2"


def test_time_speed_and_cost_are_those_of_all_examples_on_all_devices(tmp_path) -> None:
    made, _, _ = capacity(tmp_path, gpus=("h100-sxm",), counts=(1, 4), tariff={"price": 3.0}, examples=8000)
    alone, four = made.cells[:2]
    # The linear model takes a second a step, here of 200 rows.
    assert alone.hours == pytest.approx(40 / 3600)
    assert alone.tokens_per_second == pytest.approx(200 * 512)
    assert alone.usd == pytest.approx(3 * 40 / 3600)
    assert four.spread.sharding == "ddp"
    assert four.hours == pytest.approx(10 / 3600, rel=0.01)
    assert four.usd == pytest.approx(alone.usd, rel=0.01)


def test_hours_their_band_dollars_and_the_fleet_are_of_one_run_loading_included(tmp_path) -> None:
    made, _, _ = capacity(
        tmp_path, 3600.0, gpus=("h100-sxm",), tariff={"price": 3.0}, examples=200 * 7200, runs_per_week=10.0
    )
    cell = made.cells[0]
    assert cell.cost is not None
    assert cell.fleet is not None
    # An hour of loading, two hours of steps that may take half or twice as long.
    assert (cell.low_hours, cell.hours, cell.high_hours) == (2.0, 3.0, 5.0)
    assert (cell.cost.hours, cell.usd) == (3.0, 9.0)
    assert (cell.fleet.busy_hours, cell.fleet.usd_per_week) == (30.0, 90.0)


def test_what_cannot_be_costed_is_unknown_with_the_reason_and_stops_nothing(tmp_path) -> None:
    made, _, _ = capacity(tmp_path)
    assert [cell.fits for cell in made.cells] == [True, True, None, None]
    assert "int8" in str(made.cells[2].reason)


def test_what_does_not_fit_in_one_row_says_so(tmp_path) -> None:
    made, _, _ = capacity(tmp_path, seq_len=2**17, models=("Llama-3.2-1B",), gpus=("t4",))
    assert made.cells[0].fits is False
    assert made.cells[0].max_batch == 0
    assert "above the limit" in str(made.cells[0].reason)


def test_a_model_is_costed_for_all_devices_and_batches_without_being_read_again(tmp_path) -> None:
    _, cost, _ = capacity(tmp_path, gpus=("t4", "l4", "a10g", "h100-sxm"))
    assert {name for name, _ in cost.asked} == {"SmolLM2-135M"}


def test_an_unknown_device_is_refused_before_anything_is_costed(tmp_path) -> None:
    with pytest.raises(UnknownNameError, match="h100"):
        capacity(tmp_path, gpus=("h100x",))


def test_a_demand_names_the_loop_and_the_micro_batches_of_a_step(tmp_path) -> None:
    with pytest.raises(UnknownNameError, match="trl"):
        capacity(tmp_path, loop="tlr")
    several, _, _ = capacity(tmp_path, loop="trl", grad_accum=4, gpus=("h100-sxm",), examples=8000)
    # The linear model takes a second a step, however many micro-batches that has.
    assert several.cells[0].hours == pytest.approx(10 / 3600)


def test_each_way_says_what_it_adapts(tmp_path) -> None:
    ways = tuple(map(Way.read, ("lora", "LNtuning", "dora+NF4", "full")))
    made, *_ = capacity(tmp_path, ways=ways, rank=4)
    said = made.configurations
    assert said["lora"] == "lora r=4 query+value alpha_ratio=2.0"
    assert said["dora+nf4"] == "dora r=4 query+value nf4 alpha_ratio=2.0"
    assert said["full"] == "full"
    assert "lntuning" not in said, "it has no rank, as its cells say"
    assert all("rank" in str(cell.reason) for cell in made.cells if cell.way == "lntuning")
