from __future__ import annotations

import pytest

from autopeft.errors import InputError
from autopeft.units import (
    GIB,
    MIB,
    format_band,
    format_bound,
    format_bytes,
    format_count,
    format_limit,
    format_seconds,
    kilowatt_hours,
    parse_bytes,
    parse_count,
    parse_seconds,
    parse_share,
    parse_usd,
    round_up,
)


@pytest.mark.parametrize(
    ("amount", "words"),
    [
        (0, "0"),
        (999.4, "999"),
        (999.6, "1 k"),
        (22.7e6, "22.7 M"),
        (999.9e6, "1 B"),
        (8.03e9, "8.03 B"),
        (1e16, "10,000 T"),
    ],
)
def test_counts_are_rounded_into_the_next_unit_and_never_shown_with_an_exponent(amount, words) -> None:
    assert format_count(amount) == words


@pytest.mark.parametrize(
    ("amount", "words"),
    [
        (1023, "1023 B"),
        (1023.6, "1 KiB"),
        (1023.99 * MIB, "1 GiB"),
        (999.7 * GIB, "1000 GiB"),
        (-1.5 * GIB, "-1.5 GiB"),
    ],
)
def test_bytes_are_rounded_into_the_next_unit_and_never_shown_with_an_exponent(amount, words) -> None:
    assert format_bytes(amount) == words


@pytest.mark.parametrize(
    ("amount", "words"),
    [
        (10**7, "10 MB (9.54 MiB)"),
        (4 * 10**9, "4 GB (3.73 GiB)"),
        (12_400 * 10**6, "12.4 GB (11.5 GiB)"),
        (22 * GIB, "22 GiB"),
    ],
)
def test_a_limit_beside_other_amounts_is_told_in_their_units_too(amount, words) -> None:
    assert format_bound(amount) == words


@pytest.mark.parametrize(
    ("amount", "typed"),
    [(642_100_000, "650 MB"), (12_340_000_000, "12.4 GB"), (650_000_000, "650 MB"), (2 * GIB, "2150 MB")],
)
def test_a_limit_that_is_enough_is_one_that_people_type(amount, typed) -> None:
    assert round_up(amount) >= amount
    assert format_limit(round_up(amount)) == typed


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (1023 * MIB, 1.56 * GIB, "1.00-1.56 GiB"),
        (GIB, 1.57 * GIB, "1.00-1.57 GiB"),
        (13.6 * GIB, 14.9 * GIB, "13.6-14.9 GiB"),
        (848 * MIB, 1010 * MIB, "848-1010 MiB"),
        (9.999 * MIB, 9.999 * MIB, "10.0-10.0 MiB"),
        (0, 512, "0-512 B"),
    ],
)
def test_both_ends_of_a_band_are_in_one_unit_with_as_many_digits(low, high, words) -> None:
    assert format_band(low, high) == words


@pytest.mark.parametrize(
    ("amount", "words"),
    [
        (0.9996, "1.0 s"),
        (0.85, "850 ms"),
        (59.96, "1 min 00 s"),
        (3599.7, "1 h 00 min"),
        (7199, "2 h 00 min"),
    ],
)
def test_times_are_rounded_into_the_next_unit(amount, words) -> None:
    assert format_seconds(amount) == words


def test_counts_are_read_with_their_unit() -> None:
    assert [parse_count(text) for text in ("4", " 1.5k", "50M", "2 b")] == [4, 1500, 50_000_000, 2 * 10**9]
    assert parse_count("1.1M") == 1_100_000


@pytest.mark.parametrize("text", ["", "1.5", "5MB", "-4", "1e6", "nan", "4x", "M"])
def test_what_is_no_whole_number_is_no_count(text) -> None:
    with pytest.raises(InputError, match="a count must be"):
        parse_count(text)


def test_a_kilowatt_for_two_hours_is_two_kilowatt_hours() -> None:
    assert kilowatt_hours(1000, 2) == 2


@pytest.mark.parametrize("read", [parse_bytes, parse_seconds, parse_usd, parse_share])
@pytest.mark.parametrize("amount", [10**400, -(10**400)])
def test_a_number_that_is_too_large_for_a_float_is_no_amount(read, amount) -> None:
    with pytest.raises(InputError, match="1000"):
        read(amount)
