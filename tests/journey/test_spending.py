from __future__ import annotations

import pytest

from autopeft.errors import InputError, UnknownNameError
from autopeft.hardware.catalog import load_profile
from autopeft.hardware.prices import price_of
from autopeft.journey.inputs import any_gpu
from autopeft.journey.spending import cost_as_time, device_price, require_one_device, require_rows
from autopeft.pipeline import overview
from autopeft.request import Request
from autopeft.units import GIB

L4 = load_profile("l4")


def test_a_search_may_take_as_long_as_its_cost_pays_for_its_machine() -> None:
    request = Request(budget={"cost": "5usd"}, price=2.5)
    assert cost_as_time(request, L4).budget.time == 7200
    short = Request(budget={"cost": "5usd", "time": "1h"}, price=2.5)
    assert cost_as_time(short, L4).budget.time == 3600


def test_a_cost_limits_no_search_on_a_machine_that_is_free() -> None:
    request = Request(budget={"cost": "5usd", "time": "1h"}, price=0)
    assert cost_as_time(request, L4) == request


def test_a_plan_pays_the_lowest_price_whether_or_not_it_is_limited() -> None:
    for request in (Request(gpus=4), Request(gpus=4, budget={"cost": "5usd"})):
        assert device_price(request, L4) == price_of("l4", devices=4)
    with pytest.raises(UnknownNameError, match="unknown provider"):
        device_price(Request(provider="nosuch"), L4)


def test_a_cost_limit_without_a_price_is_refused_with_the_way_out() -> None:
    with pytest.raises(InputError, match="--price"):
        device_price(Request(budget={"cost": "5usd"}), load_profile("gaudi2"))
    assert device_price(Request(), load_profile("gaudi2")) is None


def test_a_device_of_which_only_the_memory_is_known_has_no_cost() -> None:
    unknown = any_gpu(16 * GIB)
    assert device_price(Request(price=2.0), unknown) is None
    with pytest.raises(InputError, match="speed is known"):
        device_price(Request(price=2.0, budget={"cost": "5usd"}), unknown)


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
