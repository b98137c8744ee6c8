"""Bytes, seconds and counts: read from text, shown to people. Nothing else converts units.

`GB` is 10**9 bytes and `GiB` 2**30, as the standards say: "16GB" is the smaller, safer reading.
"""

from __future__ import annotations

import math
import re

from autopeft.errors import InputError

KIB, MIB, GIB = 2**10, 2**20, 2**30

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
_QUANTITY = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([a-zA-Z]*)\s*")


def parse_bytes(text: str | float) -> int:
    """Read an amount of memory: "16GB", "40 GiB", or a number of bytes.

    Raises:
        InputError: the text is no amount of memory, or is not above zero.
    """
    law = "memory must be a number above 0 with a unit (B, kB, MB, GB, TB, KiB, MiB, GiB, TiB)"
    way_out = "write for example 16GB"
    if isinstance(text, int | float):
        amount = float(text)
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
        total = float(text)
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


def format_bytes(amount: float) -> str:
    """Show bytes in binary units with three significant digits: "1.50 GiB"."""
    for unit, size in (("TiB", 2**40), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if abs(amount) >= size:
            return f"{amount / size:.3g} {unit}" if amount / size < 1000 else f"{amount / size:.0f} {unit}"
    return f"{amount:.0f} B"


def format_limit(amount: int) -> str:
    """Show a limit on memory the way people type it: "4 GB" where that is exact, else as `format_bytes`."""
    for unit in ("TB", "GB", "MB"):
        if amount % _BYTE_UNITS[unit.lower()] == 0:
            return f"{amount // _BYTE_UNITS[unit.lower()]} {unit}"
    return format_bytes(amount)


def format_seconds(amount: float) -> str:
    """Show a span of time: "850 ms", "42.0 s", "5 min 10 s", "2 h 05 min"."""
    if amount < 1:
        return f"{amount * 1000:.3g} ms"
    if amount < 60:
        return f"{amount:.1f} s"
    if amount < 3600:
        minutes, seconds = divmod(round(amount), 60)
        return f"{minutes} min {seconds:02d} s"
    hours, minutes = divmod(round(amount / 60), 60)
    return f"{hours} h {minutes:02d} min"


def format_count(amount: float) -> str:
    """Show a count as people read parameters: "22.7 M", "8.03 B"."""
    for unit, size in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if abs(amount) >= size:
            return f"{amount / size:.3g} {unit}"
    return f"{amount:.0f}"
