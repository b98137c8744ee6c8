"""Bytes, seconds and counts: read from text, shown to people. Nothing else converts units.

`GB` is 10**9 bytes and `GiB` 2**30, as the standards say: "16GB" is the smaller, safer reading.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal

from autopeft.errors import InputError

KIB, MIB, GIB = 2**10, 2**20, 2**30
SECONDS_AN_HOUR = 3600.0
HOURS_A_WEEK = 168.0

_BYTE_UNITS = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": KIB,
    "mib": MIB,
    "gib": GIB,
    "tib": 2**40,
}
_SECOND_UNITS = {"s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_COUNT_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB")
_DECIMAL = ("", "k", "M", "B", "T")
_COUNT = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([kKmMbB]?)\s*")
_MONEY = re.compile(r"\s*\$?\s*(\d+(?:\.\d+)?|\.\d+)\s*(?:usd|\$)?\s*")
_SHARE = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*(%?)\s*")
_QUANTITY = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([a-zA-Z]*)\s*")


def parse_bytes(text: str | float) -> int:
    """Read an amount of memory: "16GB", "40 GiB", or a number of bytes.

    Raises:
        InputError: the text is no amount of memory, or is not above zero.
    """
    law = "memory must be a number above 0 with a unit (B, kB, MB, GB, TB, KiB, MiB, GiB, TiB)"
    way_out = "write for example 16GB"
    if isinstance(text, int | float):
        amount = _number(text)
    else:
        match = _QUANTITY.fullmatch(text)
        unit = _BYTE_UNITS.get(match.group(2).lower()) if match else None
        if match is None or unit is None:
            raise InputError(f"{law}, but got {text!r}; {way_out}.")
        amount = float(match.group(1)) * unit
    if not math.isfinite(amount) or amount < 1:
        raise InputError(f"{law}, but got {text!r}; {way_out}.")
    return int(amount)


def parse_seconds(text: str | float) -> float:
    """Read a span of time: "2h", "5min", "1h30m", or a number of seconds.

    Raises:
        InputError: the text is no span of time, or is not above zero.
    """
    law = "a time must be a number above 0 with a unit (s, min, h, d)"
    way_out = "write for example 30min or 1h30m"
    if isinstance(text, int | float):
        total = _number(text)
    else:
        total, at = 0.0, 0
        while at < len(text):
            match = _QUANTITY.match(text, at)
            unit = _SECOND_UNITS.get(match.group(2).lower()) if match else None
            if match is None or unit is None:
                raise InputError(f"{law}, but got {text!r}; {way_out}.")
            total += float(match.group(1)) * unit
            at = match.end()
    if not math.isfinite(total) or total <= 0:
        raise InputError(f"{law}, but got {text!r}; {way_out}.")
    return total


def parse_usd(text: str | float) -> float:
    """Read an amount of money: "20usd", "$20", or a number of US dollars.

    Raises:
        InputError: the text is no amount of dollars, or is not above zero.
    """
    amount = float("nan")
    if isinstance(text, int | float):
        amount = _number(text)
    elif match := _MONEY.fullmatch(text.lower()):
        amount = float(match.group(1))
    if not math.isfinite(amount) or amount <= 0:
        raise InputError(f"a cost must be a number of US dollars above 0, but got {text!r}; write 20usd.")
    return amount


def parse_share(text: str | float) -> float:
    """Read a share of a whole: "1%", or a number of at most 1.

    Raises:
        InputError: the text is no share, or is not above 0 and at most 1.
    """
    amount = float("nan")
    if isinstance(text, int | float):
        amount = _number(text)
    elif match := _SHARE.fullmatch(text):
        amount = float(match.group(1)) / (100 if match.group(2) else 1)
    if not 0 < amount <= 1:
        raise InputError(
            f"params must be a share above 0 and at most 100 %, but got {text!r}; write 1% or 0.01."
        )
    return amount


def parse_count(text: str) -> int:
    """Read a whole number: "4", "1.5k", "50M", "2B" for 2 * 10**9.

    Raises:
        InputError: the text is no whole number.
    """
    match = _COUNT.fullmatch(text)
    amount = Decimal(match.group(1)) * _COUNT_UNITS[match.group(2).lower()] if match else Decimal("NaN")
    if not amount.is_finite() or amount != amount.to_integral_value():
        raise InputError(f"a count must be a whole number such as 4, 1.5k or 50M, but got {text!r}.")
    return int(amount)


def _number(given: float) -> float:
    """Return a number as a float; one that is too large for any is infinite."""
    try:
        return float(given)
    except OverflowError:
        return math.inf


def kilowatt_hours(watts: float, hours: float) -> float:
    """Return the energy of so much power for so long."""
    return watts * hours / 1000


def format_bytes(amount: float) -> str:
    """Show bytes in binary units with three significant digits: "1.50 GiB"."""
    unit, value = _unit_of(amount, _BINARY, 1024)
    return f"{value:.0f} {unit}" if unit == "B" or abs(value) >= 999.5 else f"{value:.3g} {unit}"


def format_speed(bytes_per_second: float) -> str:
    """Show the speed of a link or memory as datasheets do: "600 GB/s"."""
    return f"{bytes_per_second / 10**9:.0f} GB/s"


def format_limit(amount: int) -> str:
    """Show a limit on memory the way people type it: "4 GB", "12.4 GB", else as `format_bytes`."""
    for unit in ("TB", "GB", "MB"):
        size = _BYTE_UNITS[unit.lower()]
        if amount % size == 0 or (amount > size and amount % (size // 10) == 0):
            return f"{amount / size:g} {unit}"
    return format_bytes(amount)


def round_up(amount: int) -> int:
    """Return the next amount of memory that people would type: 650 MB for 642.1 MB, 12.4 GB for 12.34 GB."""
    step = int(10 ** max(7, len(str(amount)) - 3))
    return -(-amount // step) * step


def format_bound(amount: int) -> str:
    """Show a limit beside what `format_bytes` shows, to be compared with it: "4 GB (3.73 GiB)"."""
    typed, shown = format_limit(amount), format_bytes(amount)
    return typed if typed == shown else f"{typed} ({shown})"


def format_band(low: float, high: float) -> str:
    """Show a span of bytes, both ends in the unit of the upper one: "0.97-1.57 GiB"."""
    unit, value = _unit_of(high, _BINARY, 1024)
    digits = 0 if unit == "B" or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{low / 1024 ** _BINARY.index(unit):.{digits}f}-{value:.{digits}f} {unit}"


def format_seconds(amount: float) -> str:
    """Show a span of time: "850 ms", "42.0 s", "5 min 10 s", "2 h 05 min"."""
    if amount < 0.9995:
        return f"{amount * 1000:.3g} ms"
    if amount < 59.95:
        return f"{amount:.1f} s"
    if amount < 3599.5:
        minutes, seconds = divmod(round(amount), 60)
        return f"{minutes} min {seconds:02d} s"
    hours, minutes = divmod(round(amount / 60), 60)
    return f"{hours} h {minutes:02d} min"


def format_count(amount: float) -> str:
    """Show a count as people read parameters: "22.7 M", "8.03 B"."""
    unit, value = _unit_of(amount, _DECIMAL, 1000)
    if not unit:
        return f"{value:.0f}"
    return f"{value:.3g} {unit}" if abs(value) < 999.5 else f"{value:,.0f} {unit}"


def _unit_of(amount: float, units: tuple[str, ...], factor: int) -> tuple[str, float]:
    """Return the smallest unit in which an amount, rounded, is below the next one, and the amount in it."""
    value = amount
    for unit in units[:-1]:
        if abs(value) < factor - 0.5:
            return unit, value
        value /= factor
    return units[-1], value


def format_usd(amount: float) -> str:
    """Show dollars: "$0.0031", "$2.49", "$1,234"; nothing at all is "free"."""
    if amount == 0:
        return "free"
    if amount >= 1000:
        return f"${amount:,.0f}"
    return f"${amount:.2f}" if amount >= 0.1 else f"${amount:.2g}"
