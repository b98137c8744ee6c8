"""prices.yaml: what an hour of a rented device costs."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pydantic import Field

from autopeft.errors import UnknownNameError
from autopeft.message import Message

_FILE = Path(__file__).with_name("prices.yaml")
_GIVEN = "given"
_SHARES = {"half": 2, "a quarter": 4, "an eighth": 8}


class Price(Message):
    """What one device costs an hour.

    Attributes:
        gpu: name of its profile.
        offer: what is rented; where it holds several devices, the share that one of them is.
        date: month from which the price was known.   source: where it is listed.
    """

    gpu: str
    usd_per_hour: float = Field(ge=0, allow_inf_nan=False)
    provider: str
    region: str
    offer: str
    date: str
    source: str

    @property
    def together(self) -> int:
        """How many devices are rented together at least."""
        return _SHARES.get(self.offer.rpartition(", ")[2], 1)

    @property
    def words(self) -> str:
        """Where the price comes from, in a line."""
        if self.provider == _GIVEN:
            return "price as given"
        return f"{self.provider} {self.offer}, {self.region}, list price of {self.date}"


@cache
def list_prices() -> tuple[Price, ...]:
    """Read all prices, the cheapest of a device first."""
    import yaml

    content = yaml.load(_FILE.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
    return tuple(sorted((Price(**row) for row in content), key=lambda row: (row.gpu, row.usd_per_hour)))


def price_of(
    gpu: str, *, provider: str | None = None, given: float | None = None, devices: int = 1
) -> Price | None:
    """Return the lowest listed price of a device, None where none is listed.

    Where offers of so many devices are listed, it is the lowest of these: a share of a machine with eight is
    rented by nobody who needs one. Else it is the lowest of all, and its offer says what is rented.

    Args:
        gpu: name of its profile.
        devices: how many are needed.
        provider: take the price of this one only.
        given: dollars an hour that the user pays; wins over the list.

    Raises:
        UnknownNameError: no price of that provider is listed at all.
    """
    if given is not None:
        return Price(
            gpu=gpu, usd_per_hour=given, provider=_GIVEN, region="", offer="", date="", source="the request"
        )
    wanted = None if provider is None else provider.strip().lower()
    providers = {row.provider for row in list_prices()}
    if wanted is not None and wanted not in providers:
        raise UnknownNameError("provider", wanted, providers)
    rows = [row for row in list_prices() if row.gpu == gpu and wanted in (None, row.provider)]
    return min(rows, key=lambda row: (devices % row.together != 0, row.usd_per_hour), default=None)


def why_no_price(gpu: str, provider: str | None = None) -> str:
    """Say that no price is listed, and the way out."""
    whose = f" by {provider}" if provider else ""
    return f"no price of {gpu} is listed{whose}: give --price with the dollars an hour of one device"
