"""Money and energy of a training, from its time, a price and the device's power."""

from __future__ import annotations

from pydantic import Field

from autopeft.hardware.prices import Price
from autopeft.hardware.profile import HardwareProfile
from autopeft.message import Message
from autopeft.units import SECONDS_AN_HOUR, kilowatt_hours


class Cost(Message):
    """What a training costs; what is of a run or an epoch is None where the number of rows is unknown.

    Attributes:
        usd: of the whole run.   epoch_usd: of one pass over the rows.   step_usd: of an optimizer step.
        usd_per_hour: of all devices together.
        hours: wall time of the run.
        kwh: energy of the run, the devices at the full power of their boards: an upper bound, without
            host and cooling; None where that power is unknown.
        co2_kg: from `kwh` and the grid's factor; None where that was not given.
    """

    usd: float | None
    epoch_usd: float | None
    step_usd: float
    usd_per_hour: float
    price: Price
    hours: float | None
    kwh: float | None = None
    co2_kg: float | None = None


class Tariff(Message):
    """What of a request decides the money: a price, and how dirty the grid is.

    Attributes:
        price: dollars an hour of one device, in place of the list's; 0 of one's own.
        provider: whose list price to take; None takes the lowest.
        grid_factor: kg of CO2 a kWh.
    """

    price: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    provider: str | None = None
    grid_factor: float | None = Field(default=None, ge=0, allow_inf_nan=False)


def cost_of(
    price: Price,
    profile: HardwareProfile,
    *,
    gpus: int,
    step_seconds: float,
    run_seconds: float | None,
    epochs: float,
    grid_factor: float | None = None,
) -> Cost:
    """Return the bill of a training on `gpus` devices that are all paid from its start to its end."""
    usd_per_hour = price.usd_per_hour * gpus
    hours = None if run_seconds is None else run_seconds / SECONDS_AN_HOUR
    usd = None if hours is None else hours * usd_per_hour
    kwh = None if hours is None else energy_kwh(profile, gpus, hours)
    return Cost(
        usd=usd,
        epoch_usd=None if usd is None else usd / epochs,
        step_usd=step_seconds / SECONDS_AN_HOUR * usd_per_hour,
        usd_per_hour=usd_per_hour,
        price=price,
        hours=hours,
        kwh=kwh,
        co2_kg=None if kwh is None or grid_factor is None else kwh * grid_factor,
    )


def energy_kwh(profile: HardwareProfile, gpus: int, hours: float) -> float | None:
    """Return the energy of boards at full power, None where that is unknown."""
    return None if profile.power_watts is None else kilowatt_hours(profile.power_watts * gpus, hours)
