from __future__ import annotations

import pytest

from autopeft.cost.money import cost_of
from autopeft.hardware.catalog import load_profile
from autopeft.hardware.prices import price_of


def bill(**changes):
    price = price_of("l4", given=2.0)
    assert price is not None
    usual = {"gpus": 2, "step_seconds": 3.6, "run_seconds": 7200.0, "epochs": 4.0, "grid_factor": 0.5}
    return cost_of(price, load_profile("l4"), **{**usual, **changes})


def test_all_devices_are_paid_for_the_whole_run() -> None:
    cost = bill()
    assert (cost.usd_per_hour, cost.hours, cost.usd, cost.epoch_usd) == (4.0, 2.0, 8.0, 2.0)
    assert cost.step_usd == pytest.approx(0.004)


def test_energy_is_that_of_the_boards_at_full_power_and_the_grid_makes_it_carbon() -> None:
    cost = bill()
    assert cost.kwh == pytest.approx(72 * 2 * 2 / 1000)
    assert cost.co2_kg == pytest.approx(cost.kwh / 2)
    assert bill(grid_factor=None).co2_kg is None


def test_nothing_is_said_of_a_run_whose_length_is_unknown() -> None:
    cost = bill(run_seconds=None)
    assert (cost.usd, cost.epoch_usd, cost.hours, cost.kwh) == (None, None, None, None)
    assert cost.step_usd > 0
