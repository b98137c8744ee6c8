"""A capacity plan as tables and as comma-separated values."""

from __future__ import annotations

import csv as csv_format
import io
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from autopeft.cli.tables import FirstThatFits, heading, table
from autopeft.plan.capacity import Capacity, Cell
from autopeft.units import SECONDS_AN_HOUR, format_bytes, format_count, format_seconds, format_usd

_MOST_REASONS = 4
_MATTER_LEAST = ("rows", "tokens/s", "memory")
"""Columns that a narrow screen has no room for, the first to go first; device, time and cost always stay."""


def capacity(made: Capacity, page: Path | None) -> Group:
    """Show the matrix of each model, what is cheapest and fastest, and why the rest does not fit."""
    demand = made.demand
    parts: list[RenderableType] = [Text(demand.words, style="dim")]
    parts += [Text(f"{way}: {form}", style="dim") for way, form in made.configurations.items() if way != form]
    for model in demand.models:
        cells = [cell for cell in made.cells if cell.model == model]
        parts += [Text(), heading(model), _matrix(cells)]
        parts += _best(made, model)
        parts += _refusals(cells)
        if not demand.gradient_checkpointing and any(cell.fits is False for cell in cells):
            parts.append(Text("With --gradient-checkpointing more may fit.", style="dim"))
    if demand.runs_per_week is not None:
        parts += [Text(), *_fleets(made)]
    parts += [Text(), *_footnotes(made)]
    if page is not None:
        parts.append(Text(f"The page: {page}"))
    return Group(*parts)


def _matrix(cells: list[Cell]) -> FirstThatFits:
    """Show the cells of a model; where the screen is narrow, without the columns that matter least."""
    return _narrowing(lambda left_out: _table(cells, left_out), _MATTER_LEAST)


def _narrowing(table_of: Callable[[tuple[str, ...]], Table], matter_least: tuple[str, ...]) -> FirstThatFits:
    """Show a table with as many columns as the screen has room for, and say which it has none for.

    Args:
        table_of: makes the table without some columns.
        matter_least: columns that may be left out, the first to go first.
    """

    def choices() -> Iterator[RenderableType]:
        yield table_of(())
        for count in range(1, len(matter_least) + 1):
            left_out = matter_least[:count]
            words = f"Too wide for this screen: {', '.join(left_out)}; --json has all."
            yield Group(table_of(left_out), Text(words, style="dim"))

    return FirstThatFits(choices())


def _table(cells: list[Cell], left_out: tuple[str, ...]) -> Table:
    columns = [name for name in ("rows", "memory", "tokens/s", "time", "cost") if name not in left_out]
    made = table("device", "method", *columns, right=columns)
    by_device: dict[str, list[Cell]] = {}
    for cell in cells:
        by_device.setdefault(cell.device, []).append(cell)
    for device, ours in by_device.items():
        for place, cell in enumerate(ours):
            way = Text(f"{cell.way}{' *' if cell.on_front else ''}", style="green" if cell.on_front else "")
            shown = _columns(cell)
            numbers = (shown[name] for name in columns)
            made.add_row("" if place else device, way, *numbers, style=None if cell.fits else "dim")
    return made


def _columns(cell: Cell) -> dict[str, str]:
    """Return what a cell has in each column that holds numbers."""
    if not cell.fits:
        word = "does not fit" if cell.fits is False else "unknown"
        return {"rows": "-", "memory": _memory(cell), "tokens/s": "", "time": word, "cost": ""}
    return {
        "rows": _rows(cell),
        "memory": _memory(cell),
        "tokens/s": format_count(cell.tokens_per_second) if cell.tokens_per_second else "?",
        "time": _hours(cell.hours),
        "cost": "?" if cell.usd is None else format_usd(cell.usd),
    }


def _memory(cell: Cell) -> str:
    if cell.memory is None or cell.limit_bytes is None:
        return "?"
    return f"{format_bytes(cell.memory.device_peak_bytes)} of {format_bytes(cell.limit_bytes)}"


def _rows(cell: Cell) -> str:
    """Show the rows that are taken at once, and how many would fit."""
    largest = "?" if cell.max_batch is None else f"{cell.max_batch:,}"
    return f"{cell.batch} of {largest}"


def _hours(hours: float | None) -> str:
    return "?" if hours is None else format_seconds(hours * SECONDS_AN_HOUR)


def _best(made: Capacity, model: str) -> list[RenderableType]:
    cheap, fast = made.cheapest(model), made.fastest(model)
    lines: list[RenderableType] = []
    if cheap is not None and cheap.usd is not None and cheap.cost is not None:
        words = f"{cheap.way} on {cheap.device}: {format_usd(cheap.usd)} in {_hours(cheap.hours)}"
        lines.append(Text.assemble(("Cheapest: ", "bold"), f"{words} ({cheap.cost.price.words})"))
    if fast is not None:
        cost = "" if fast.usd is None else f" for {format_usd(fast.usd)}"
        lines.append(
            Text.assemble(("Fastest:  ", "bold"), f"{fast.way} on {fast.device}: {_hours(fast.hours)}{cost}")
        )
    if not lines and not any(cell.fits for cell in made.cells if cell.model == model):
        lines.append(Text("Nothing fits.", style="bold red"))
    return lines


def _refusals(cells: list[Cell]) -> list[RenderableType]:
    """Say why cells are unknown."""
    unknown: dict[str, list[str]] = {}
    for cell in cells:
        if cell.fits is None:
            unknown.setdefault(str(cell.reason), []).append(f"{cell.way} on {cell.device}")
    return [
        Text(f"Unknown, {names[0]}{f' and {len(names) - 1} more' if names[1:] else ''}: {why}", style="dim")
        for why, names in list(unknown.items())[:_MOST_REASONS]
    ]


def _fleets(made: Capacity) -> list[RenderableType]:
    """Show which fleet does the demanded trainings, on each device in its fastest way."""
    demand = made.demand
    title = f"{demand.runs_per_week:g} such trainings a week, devices busy {demand.utilisation:.0%} of it"
    ranked: list[Cell] = []
    for model in demand.models:
        best: dict[str, Cell] = {}
        for cell in made.fitting:
            if cell.model == model and cell.fleet is not None:
                known = best.get(cell.device)
                if known is None or (cell.hours or 0.0) < (known.hours or 0.0):
                    best[cell.device] = cell
        ranked += sorted(best.values(), key=_weekly)

    def shown(left_out: tuple[str, ...]) -> Table:
        numbers = ("devices", "at once", "busy hours", "a week")
        columns = [name for name in numbers if name not in left_out]
        fleets = table("model", "method", "device", *columns, right=columns)
        for cell in ranked:
            words = _fleet(cell)
            fleets.add_row(cell.model, cell.way, cell.device, *(words[name] for name in columns))
        return fleets

    return [heading(title), _narrowing(shown, ("at once", "busy hours"))]


def _fleet(cell: Cell) -> dict[str, str]:
    fleet = cell.fleet
    if fleet is None:
        return {}
    return {
        "devices": f"{fleet.gpus}",
        "at once": f"{fleet.at_once}",
        "busy hours": f"{fleet.busy_hours:,.1f}",
        "a week": "?" if fleet.usd_per_week is None else format_usd(fleet.usd_per_week),
    }


def _weekly(cell: Cell) -> float:
    usd = cell.fleet.usd_per_week if cell.fleet else None
    return float("inf") if usd is None else usd


def _footnotes(made: Capacity) -> list[RenderableType]:
    words = ["* nothing else for this model is both faster and cheaper."]
    words.append("Rows: trained at once, of those that fit. Memory: of one device.")
    if made.demand.tariff.price is None:
        words.append("Cost: the lowest list price of the device, for its hours only; --price overrides it.")
    timed = [cell for cell in made.fitting if cell.hours and cell.low_hours and cell.high_hours]
    if timed:
        low = min((cell.low_hours or 0.0) / (cell.hours or 1.0) for cell in timed) - 1
        high = max((cell.high_hours or 0.0) / (cell.hours or 1.0) for cell in timed) - 1
        words.append(f"The 90 % bands of the times reach from {low:+.0%} to {high:+.0%}; --csv has them.")
    reasons = {
        cell.cost_reason for cell in made.cells if cell.fits and cell.cost is None and cell.cost_reason
    }
    words += [f"{reason}." for reason in sorted(reasons)[:_MOST_REASONS]]
    return [Text(" ".join(words), style="dim")]


def csv(made: Capacity) -> str:
    """Return the cells as comma-separated values with a head."""
    stream = io.StringIO()
    rows = [_record(cell) for cell in made.cells]
    writer = csv_format.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _record(cell: Cell) -> dict[str, object]:
    cost, fleet, memory = cell.cost, cell.fleet, cell.memory
    return {
        "model": cell.model,
        "method": cell.way,
        "gpu": cell.gpu,
        "gpus": cell.spread.gpus,
        "sharding": cell.spread.sharding,
        "fits": cell.fits,
        "reason": cell.reason,
        "batch_size": cell.batch,
        "max_batch_size": cell.max_batch,
        "device_peak_bytes": memory.device_peak_bytes if memory else None,
        "limit_bytes": cell.limit_bytes,
        "step_seconds": cell.step_seconds,
        "tokens_per_second": cell.tokens_per_second,
        "hours": cell.hours,
        "low_hours": cell.low_hours,
        "high_hours": cell.high_hours,
        "usd": cell.usd,
        "usd_per_hour": cost.usd_per_hour if cost else None,
        "price": cost.price.words if cost else cell.cost_reason,
        "kwh": cost.kwh if cost else None,
        "co2_kg": cost.co2_kg if cost else None,
        "on_front": cell.on_front,
        "fleet_gpus": fleet.gpus if fleet else None,
        "fleet_usd_per_week": fleet.usd_per_week if fleet else None,
    }
