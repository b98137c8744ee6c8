from __future__ import annotations

import re

import pytest

from autopeft.errors import UnknownNameError
from autopeft.hardware.catalog import list_profiles
from autopeft.hardware.prices import list_prices, price_of, why_no_price


def test_every_price_is_of_a_known_device_with_source_and_month() -> None:
    known = {profile.name for profile in list_profiles()}
    assert len(list_prices()) >= 60
    for price in list_prices():
        assert price.gpu in known
        assert price.usd_per_hour > 0
        assert price.source.startswith("https://")
        assert re.fullmatch(r"20\d\d-\d\d", price.date)


def test_the_lowest_price_is_taken_unless_a_provider_is_named() -> None:
    lowest, aws = price_of("h100-sxm", devices=8), price_of("h100-sxm", provider="AWS")
    assert lowest is not None
    assert aws is not None
    assert lowest.usd_per_hour == min(p.usd_per_hour for p in list_prices() if p.gpu == "h100-sxm")
    assert aws.provider == "aws"


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_a_share_of_a_machine_counts_where_the_whole_machine_is_needed(devices: int) -> None:
    price = price_of("b200", devices=devices)
    assert price is not None
    assert price.together == (8 if devices == 8 else 1)
    only_whole = price_of("b200", provider="lambda")
    assert only_whole is not None
    assert only_whole.together == 8


def test_a_given_price_wins() -> None:
    price = price_of("h100-sxm", given=1.5)
    assert price is not None
    assert (price.usd_per_hour, price.words) == (1.5, "price as given")


def test_no_price_is_made_up() -> None:
    assert price_of("gaudi2") is None
    assert price_of("rtx-3090", provider="aws") is None
    assert "--price" in why_no_price("gaudi2")


def test_an_unknown_provider_is_an_error() -> None:
    with pytest.raises(UnknownNameError, match="lambda"):
        price_of("t4", provider="lamda")
