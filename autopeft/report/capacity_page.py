"""Write a capacity plan as one HTML file that needs no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from autopeft.files import write_atomically
from autopeft.hardware.prices import Price
from autopeft.plan.capacity import Capacity, Cell
from autopeft.report.html import environment, inside, packed_plotly, script_of
from autopeft.units import SECONDS_AN_HOUR, format_bytes, format_count, format_seconds, format_usd


class Row(NamedTuple):
    """A cell as words for the table; `state` is its style."""

    model: str
    device: str
    way: str
    state: str
    rows: str
    memory: str
    speed: str
    time: str
    band: str
    cost: str
    energy: str
    fleet: str
    note: str


def write_page(made: Capacity, path: Path) -> Path:
    """Write the page with everything it needs inside (about 2 MB, most of it the plotting library).

    Raises:
        StorageError: the place cannot be written.
    """
    return write_atomically(path, render(made))


def render(made: Capacity) -> str:
    """Return the page as text."""
    from autopeft.report.capacity_charts import charts_of

    sections: list[dict[str, Any]] = [
        {
            "model": model,
            "decision": decision(made, model),
            "charts": [(chart, script_of(chart.figure.to_json())) for chart in charts_of(made, model)],
        }
        for model in made.demand.models
    ]
    return (
        environment()
        .get_template("capacity.html.j2")
        .render(
            demand=made.demand,
            demanded=demanded(made),
            configurations=made.configurations,
            sections=sections,
            rows=[row_of(cell) for cell in made.cells],
            fleet=made.demand.runs_per_week is not None,
            prices=prices(made),
            style=inside("report.css"),
            script=inside("charts.js"),
            plotly=packed_plotly(),
        )
    )


def demanded(made: Capacity) -> str:
    """Say in a line what shall be trained."""
    weekly = made.demand.runs_per_week
    return made.demand.words + (f" · {weekly:g} trainings a week" if weekly else "")


def decision(made: Capacity, model: str) -> str:
    """Say what is cheapest and what is fastest for a model, and the fleet it takes."""
    cheap, fast = made.cheapest(model), made.fastest(model)
    if fast is None:
        return f"{model} fits none of these devices in any of these ways."
    parts = []
    if cheap is not None and cheap.usd is not None:
        parts.append(
            f"cheapest is {cheap.way} on {cheap.device}: {format_usd(cheap.usd)} in {_hours(cheap.hours)}"
        )
    price = "" if fast.usd is None else f" for {format_usd(fast.usd)}"
    parts.append(f"fastest is {fast.way} on {fast.device}: {_hours(fast.hours)}{price}")
    words = f"{model}: {'; '.join(parts)}."
    chosen = cheap or fast
    if chosen.fleet is not None:
        usd = chosen.fleet.usd_per_week
        weekly = f", {format_usd(usd)} a week" if usd else ""
        words += (
            f" {made.demand.runs_per_week:g} a week take {chosen.fleet.gpus} x {chosen.gpu}, busy "
            f"{chosen.fleet.busy_hours:,.1f} hours{weekly}."
        )
    return words


def row_of(cell: Cell) -> Row:
    """Put a cell in words."""
    state = {True: "complete", False: "failed", None: "rejected"}[cell.fits]
    memory = "?"
    if cell.memory is not None and cell.limit_bytes is not None:
        memory = f"{format_bytes(cell.memory.device_peak_bytes)} of {format_bytes(cell.limit_bytes)}"
    largest = "?" if cell.max_batch is None else f"{cell.max_batch:,}"
    cost, fleet = cell.cost, cell.fleet
    return Row(
        model=cell.model,
        device=cell.device,
        way=cell.way,
        state=state,
        rows=f"{cell.batch} of {largest}" if cell.fits else "-",
        memory=memory,
        speed=format_count(cell.tokens_per_second) if cell.tokens_per_second else "-",
        time=_hours(cell.hours) if cell.hours else "-",
        band=f"{_hours(cell.low_hours)} to {_hours(cell.high_hours)}" if cell.hours else "-",
        cost=format_usd(cell.usd) if cell.usd is not None else "-",
        energy=f"{cost.kwh:.3g} kWh" if cost and cost.kwh is not None else "-",
        fleet=f"{fleet.gpus}" if fleet else "-",
        note=(cell.reason or "") if not cell.fits else (cost.price.words if cost else cell.cost_reason or ""),
    )


def prices(made: Capacity) -> list[str]:
    """Return where the prices come from, each once."""
    used = {cell.cost.price for cell in made.cells if cell.cost is not None}
    return sorted(f"{price.gpu}: {_hourly(price)}, {price.words}, {price.source}" for price in used)


def _hourly(price: Price) -> str:
    words = format_usd(price.usd_per_hour)
    return f"{words} an hour" if price.usd_per_hour else words


def _hours(hours: float | None) -> str:
    return "?" if hours is None else format_seconds(hours * SECONDS_AN_HOUR)
