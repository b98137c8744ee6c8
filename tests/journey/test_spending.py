from __future__ import annotations

import pytest

from autopeft.errors import InputError
from autopeft.hardware.catalog import load_profile
from autopeft.journey.spending import cost_as_time, require_one_device, require_rows, usd_per_hour
from autopeft.pipeline import overview
from autopeft.request import Request

L4 = load_profile("l4")


def test_a_search_may_take_as_long_as_its_cost_pays_for_its_machine() -> None:
    request = Request(budget={"cost": "5usd"}, price=2.5)
    assert cost_as_time(request, L4).budget.time == 7200
    short = Request(budget={"cost": "5usd", "time": "1h"}, price=2.5)
    assert cost_as_time(short, L4).budget.time == 3600


def test_a_cost_limits_no_search_on_a_machine_that_is_free() -> None:
    request = Request(budget={"cost": "5usd", "time": "1h"}, price=0)
    assert cost_as_time(request, L4) == request


def test_a_plan_pays_for_all_devices_at_the_lowest_price() -> None:
    four = Request(budget={"cost": "5usd"}, gpus=4)
    alone = Request(budget={"cost": "5usd"})
    assert usd_per_hour(four, L4) == pytest.approx(4 * (usd_per_hour(alone, L4) or 0))
    assert usd_per_hour(Request(), L4) is None


def test_a_cost_limit_without_a_price_is_refused_with_the_way_out() -> None:
    with pytest.raises(InputError, match="--price"):
        usd_per_hour(Request(budget={"cost": "5usd"}), load_profile("gaudi2"))


def test_a_cost_limit_without_rows_is_refused_with_the_way_out() -> None:
    with pytest.raises(InputError, match="--examples"):
        require_rows(Request(model="m", budget={"cost": "5usd"}))
    require_rows(Request(model="m", budget={"cost": "5usd"}, examples=10))


def test_a_time_limit_without_rows_is_refused_with_the_way_out() -> None:
    with pytest.raises(InputError, match=r"a time limit needs to know the rows.*--examples"):
        require_rows(Request(model="m", budget={"time": "2h"}))
    require_rows(Request(model="m", budget={"time": "2h"}, data="rows.csv"))
    require_rows(Request(model="m"))


def test_an_overview_refuses_a_time_limit_without_rows() -> None:
    with pytest.raises(InputError, match="a time limit needs to know the rows"):
        overview(Request(gpu="l4", budget={"time": "2h"}))


def test_what_is_for_one_model_is_refused_where_all_are_gone_through() -> None:
    with pytest.raises(InputError, match="--model"):
        require_one_device(Request(gpus=4))


def test_a_search_trains_each_trial_on_one_device() -> None:
    with pytest.raises(InputError, match="one device"):
        cost_as_time(Request(gpus=4), L4)
