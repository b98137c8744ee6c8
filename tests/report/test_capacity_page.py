from __future__ import annotations

import json
import re

import pytest

from autopeft.cost.money import cost_of
from autopeft.cost.spread import Spread
from autopeft.hardware.catalog import load_profile
from autopeft.hardware.prices import price_of
from autopeft.plan.answer import Memory
from autopeft.plan.capacity import Capacity, Cell, Demand, Way, fleet_of, with_front
from autopeft.report.capacity_charts import charts_of
from autopeft.report.capacity_page import decision, render
from autopeft.units import GIB

DEMAND = Demand(
    models=("small", "large"), ways=(Way.read("lora"), Way.read("full")), gpus=("t4", "l4"), runs_per_week=20
)


def memory(peak: int) -> Memory:
    parts = {"weights": peak // 2, "activations": peak // 2, "adapter": 0}
    return Memory(
        allocated_peak_bytes=sum(parts.values()),
        reserved_peak_bytes=peak,
        device_peak_bytes=peak + GIB // 2,
        low_bytes=peak,
        high_bytes=peak,
        parts=parts,
        peak_phase="backward",
    )


def cell(model: str, way: str, gpu: str, hours: float | None) -> Cell:
    base = Cell(
        model=model, way=way, gpu=gpu, spread=Spread(), fits=hours is not None, batch=4, limit_bytes=16 * GIB
    )
    if hours is None:
        return base.model_copy(
            update={"memory": memory(30 * GIB), "max_batch": 0, "reason": "it is too large"}
        )
    price = price_of(gpu)
    assert price is not None
    cost = cost_of(
        price, load_profile(gpu), gpus=1, step_seconds=1, run_seconds=3600 * hours, epochs=1, grid_factor=0.4
    )
    return base.model_copy(
        update={
            "memory": memory(8 * GIB),
            "max_batch": 9,
            "step_seconds": 1.0,
            "lower_seconds": 0.9,
            "upper_seconds": 1.2,
            "bound": "compute",
            "tokens_per_second": 2000.0,
            "hours": hours,
            "low_hours": 0.7 * hours,
            "high_hours": 1.3 * hours,
            "cost": cost,
            "fleet": fleet_of(hours, cost.usd, DEMAND, 1),
        }
    )


@pytest.fixture(scope="module")
def made() -> Capacity:
    hours = {("lora", "t4"): 10.0, ("full", "t4"): None, ("lora", "l4"): 4.0, ("full", "l4"): 6.0}
    cells = [cell("small", way, gpu, hours[way, gpu]) for way in ("lora", "full") for gpu in ("t4", "l4")]
    cells += [cell("large", way, gpu, None) for way in ("lora", "full") for gpu in ("t4", "l4")]
    ways = {"lora": "lora r=16 query+value", "full": "full"}
    return Capacity(demand=DEMAND, cells=with_front(tuple(cells)), configurations=ways)


def test_the_decision_names_the_cheapest_the_fastest_and_the_fleet(made) -> None:
    words = decision(made, "small")
    assert "cheapest is lora on l4" in words
    assert "fastest is lora on l4: 4 h 00 min" in words
    assert "20 a week take 1 x l4, busy 80.0 hours" in words
    assert decision(made, "large") == "large fits none of these devices in any of these ways."


def test_a_model_that_fits_has_four_plots_and_one_that_does_not_what_there_is(made) -> None:
    assert [chart.name for chart in charts_of(made, "small")] == ["fits", "front", "memory", "bounds"]
    assert [chart.name for chart in charts_of(made, "large")] == ["fits", "memory"]


def test_the_field_of_what_fits_shows_the_most_rows(made) -> None:
    (trace,) = charts_of(made, "small")[0].figure.data
    assert [list(row) for row in trace.text] == [["9", "no"], ["9", "9"]]


def test_the_bars_of_memory_sum_to_the_device_peak(made) -> None:
    bars = charts_of(made, "small")[2].figure.data
    assert sum(bar.x[0] for bar in bars) == pytest.approx(8.5)


def test_the_page_needs_no_network_and_every_plot_is_valid_json(made) -> None:
    page = render(made)
    assert not re.findall(r'(?:src|href)="(?!#|data:)', page)
    plots = re.findall(r'<script type="application/json" data-chart="[^"]+">(.*?)</script>', page, re.DOTALL)
    assert len(plots) == 6
    assert all(json.loads(plot)["data"] for plot in plots)


def test_the_page_says_where_the_prices_come_from(made) -> None:
    assert "https://" in render(made)[render(made).index("Prices") :][:2000]


def test_the_page_says_what_is_priced(made) -> None:
    page = render(made)
    for words in (
        "10,000 examples, at most 16 rows a device at once, no gradient checkpointing, loop autopeft",
        "20 trainings a week",
        "lora: lora r=16 query+value",
    ):
        assert words in page
    recomputed = made.demand.model_copy(update={"gradient_checkpointing": True})
    assert "at once, gradient checkpointing" in render(made.model_copy(update={"demand": recomputed}))


def test_bounds_that_lie_close_together_have_an_axis_with_numbers(made) -> None:
    bounds = next(chart for chart in charts_of(made, "small") if chart.name == "bounds")
    assert bounds.figure.layout.xaxis.type != "log"
    wide = [one.model_copy(update={"upper_seconds": 90.0}) if one.step_seconds else one for one in made.cells]
    far = next(
        c for c in charts_of(made.model_copy(update={"cells": tuple(wide)}), "small") if c.name == "bounds"
    )
    assert far.figure.layout.xaxis.type == "log"
