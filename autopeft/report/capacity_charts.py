"""The charts of a capacity plan: what fits, cost against time, memory, and the bounds of a step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import plotly.graph_objects as go

from autopeft.plan.capacity import Capacity, Cell
from autopeft.report.figure import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PART_COLOURS,
    RED,
    Chart,
    figure_of,
    safe,
    unit_of,
)
from autopeft.report.points import PARTS
from autopeft.units import format_bytes, format_seconds, format_usd

_WAY_COLOURS = (BLUE, ORANGE, GREEN, "#8b5cf6", "#c2559d", "#a3a046", GREY)
_FITS, _TIGHT, _OVER = "#059669", "#65a30d", "#dc4c4c"
_TIGHT_SHARE = 0.85
_NAMES = PARTS | {"adapter": "trained weights"}
_BEYOND = "context and the rest"
_COMMON = ("weights", "activations", "logits", "optimizer", "adapter", "gradients", "temporary")
_COLOURS = dict(zip((*(_NAMES[part] for part in _COMMON), _BEYOND), PART_COLOURS, strict=True))
_FEW_TICKS = 5
"""Below this ratio of the ends of an axis, ticks at 1, 2 and 5 are too few."""

_SMALL_PARTS = 0.005
"""Parts of less than this share of the largest bar are drawn as one."""


def charts_of(made: Capacity, model: str) -> tuple[Chart, ...]:
    """Return the charts of one model, those that there is something for."""
    cells = [cell for cell in made.cells if cell.model == model]
    drawn = (_fits(made, cells), _front(cells), _memory(made, cells, model), _bounds(made, cells, model))
    return tuple(chart for chart in drawn if chart is not None)


def _fits(made: Capacity, cells: Sequence[Cell]) -> Chart | None:
    """Draw a field for each device and way: how full the device is, and the rows that fit."""
    devices = list(dict.fromkeys(cell.device for cell in cells))
    ways = [way.name for way in made.demand.ways]
    at = {(cell.device, cell.way): cell for cell in cells}
    shown = [[at.get((device, way)) for way in ways] for device in devices]
    figure = figure_of("", "", height=90 + 34 * len(devices))
    figure.add_trace(
        go.Heatmap(
            x=ways, y=[safe(device) for device in devices],
            z=[[_fullness(cell) for cell in row] for row in shown],
            text=[[_field(cell) for cell in row] for row in shown],
            customdata=[[_field_words(cell) for cell in row] for row in shown],
            texttemplate="%{text}", textfont={"color": "#ffffff", "size": 13},
            hovertemplate="%{y}, %{x}<br>%{customdata}<extra></extra>",
            zmin=0, zmax=3, xgap=3, ygap=3, showscale=False,
            colorscale=[
                [0, "#64748b"], [0.25, "#64748b"], [0.25, _FITS], [0.5, _FITS],
                [0.5, _TIGHT], [0.75, _TIGHT], [0.75, _OVER], [1, _OVER],
            ],
        )
    )  # fmt: skip
    figure.update_xaxes(side="top", showgrid=False)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    fitting = sum(cell.fits is True for cell in cells)
    finding = (
        f"{fitting} of {len(cells)} fit. The number is the most rows a device takes at once. Lighter green: "
        f"more than {_TIGHT_SHARE:.0%} full with the rows it takes; red: does not fit; grey: unknown."
    )
    return Chart("fits", "What fits where", finding, figure)


def _fullness(cell: Cell | None) -> float:
    """Return the place of a field on the colour scale."""
    if cell is None or cell.fits is None or cell.memory is None or not cell.limit_bytes:
        return 0.3
    if not cell.fits:
        return 2.7
    return 1.8 if cell.memory.device_peak_bytes > _TIGHT_SHARE * cell.limit_bytes else 1.1


def _field(cell: Cell | None) -> str:
    if cell is None or cell.fits is None:
        return "?"
    if not cell.fits:
        return "no"
    return "?" if cell.max_batch is None else f"{cell.max_batch:,}"


def _field_words(cell: Cell | None) -> str:
    if cell is None or cell.memory is None or cell.limit_bytes is None:
        return safe(str(cell.reason)) if cell else ""
    words = f"{format_bytes(cell.memory.device_peak_bytes)} of {format_bytes(cell.limit_bytes)}"
    return f"{words} at {cell.batch} rows"


def _front(cells: Sequence[Cell]) -> Chart | None:
    """Draw cost against time, where it costs; what nothing else is both faster and cheaper than is joined."""
    paid = [cell for cell in cells if cell.fits and cell.hours and cell.usd]
    if not paid:
        return None
    longest = max(cell.hours or 0.0 for cell in paid)
    span, word = (1.0, "hours") if longest > 2 else (1 / 60, "minutes")
    devices = len({cell.device for cell in cells})
    figure = figure_of(f"time of a run, {word}", "cost of a run, $", height=max(360, 70 + 34 * devices))
    logs = [math.log10((cell.hours or 0.0) / span) for cell in paid]
    figure.update_xaxes(type="log", tickformat="~g", dtick="D2", range=[min(logs) - 0.35, max(logs) + 0.15])
    rises = [math.log10(cell.usd) for cell in paid if cell.usd]
    ticks = "D1" if max(rises) - min(rises) < math.log10(_FEW_TICKS) else "D2"
    room = 0.15 * (max(rises) - min(rises)) + 0.05  # below the lowest point, for its name
    figure.update_yaxes(
        type="log", tickformat="~g", dtick=ticks, range=[min(rises) - room, max(rises) + room / 2]
    )
    front = sorted((cell for cell in paid if cell.on_front), key=lambda cell: cell.hours or 0.0)
    figure.add_trace(
        go.Scatter(
            x=[(cell.hours or 0.0) / span for cell in front], y=[cell.usd for cell in front], mode="lines",
            name="Pareto front", line={"color": GREEN, "width": 1.8, "dash": "dot"}, hoverinfo="skip",
        )
    )  # fmt: skip
    ways = list(dict.fromkeys(cell.way for cell in cells))
    for way, colour in zip(ways, _WAY_COLOURS * len(ways), strict=False):
        ours = [cell for cell in paid if cell.way == way]
        figure.add_trace(_dots(way, ours, colour, span))
    ends = [f"{one.way} on {one.device}" for one in (front[0], front[-1])]
    finding = f"The fastest is {ends[0]}, the cheapest {ends[1]}. Diamonds: nothing else beats them in both."
    return Chart("front", "Cost against time", finding, figure)


def _dots(way: str, cells: Sequence[Cell], colour: str, span: float) -> go.Scatter:
    return go.Scatter(
        x=[(cell.hours or 0.0) / span for cell in cells],
        y=[cell.usd for cell in cells],
        text=[_short(cell) if cell.on_front else "" for cell in cells],
        textposition="bottom center",
        textfont={"size": 11},
        customdata=[
            f"{safe(cell.device)}: {format_seconds(3600 * (cell.hours or 0.0))}, {format_usd(cell.usd or 0)}"
            for cell in cells
        ],
        name=way,
        mode="markers+text",
        cliponaxis=False,
        showlegend=bool(cells),
        marker={
            "color": colour,
            "size": [12 if cell.on_front else 8 for cell in cells],
            "symbol": ["diamond" if cell.on_front else "circle" for cell in cells],
        },
        hovertemplate=f"{way}, %{{customdata}}<extra></extra>",
    )


def _short(cell: Cell) -> str:
    return safe(cell.gpu if cell.spread.alone else f"{cell.spread.gpus} x {cell.gpu}")


def _chosen_device(made: Capacity, cells: Sequence[Cell], model: str) -> str:
    """Name the device that is looked at closely: that of the cheapest cell, else the first that fits."""
    best = made.cheapest(model) or made.fastest(model)
    fitting = next((cell for cell in cells if cell.fits), cells[0])
    return (best or fitting).device


def _memory(made: Capacity, cells: Sequence[Cell], model: str) -> Chart | None:
    """Draw what the memory of one device holds in each way to train."""
    device = _chosen_device(made, cells, model)
    split = {cell.way: cell for cell in cells if cell.device == device and cell.memory is not None}
    if not split:
        return None
    limit = next(iter(split.values())).limit_bytes or 0
    parts = {way: _parts(cell) for way, cell in split.items()}
    unit, word = unit_of(max([limit, *(sum(each.values()) for each in parts.values())]))
    figure = figure_of(f"predicted at the peak, {word}", "", height=200 + 44 * len(split))
    found = {name for each in parts.values() for name in each}
    names = [name for name in (*_NAMES.values(), _BEYOND) if name in found]
    for name in names:
        sizes = [each.get(name, 0) for each in parts.values()]
        figure.add_trace(
            go.Bar(
                y=list(parts), x=[size / unit for size in sizes], name=name, orientation="h",
                marker={"color": _COLOURS.get(name, GREY)}, text=[format_bytes(size) for size in sizes],
                textposition="none",
                hovertemplate=f"%{{y}}, {name}: %{{text}}<extra></extra>",
            )
        )  # fmt: skip
    figure.add_vline(x=limit / unit, line={"color": RED, "width": 2, "dash": "dash"})
    figure.update_layout(barmode="stack", legend={"traceorder": "normal"})
    figure.update_yaxes(autorange="reversed")
    batches = ", ".join(f"{way} {cell.batch}" for way, cell in split.items())
    finding = f"Each {device} holds at most {format_bytes(limit)}, the dashed line. Rows at once: {batches}."
    return Chart("memory", f"What the memory of {device} holds", finding, figure)


def _parts(cell: Cell) -> dict[str, int]:
    """Split the peak of a device, the small parts as one, and what is not of tensors apart."""
    if cell.memory is None:
        return {}
    least = _SMALL_PARTS * cell.memory.device_peak_bytes
    parts = {_NAMES[name]: size for name, size in cell.memory.parts.items() if size >= least}
    beyond = cell.memory.device_peak_bytes - cell.memory.allocated_peak_bytes
    rest = sum(cell.memory.parts.values()) - sum(parts.values())
    return {**parts, _BEYOND: beyond + rest}


def _bounds(made: Capacity, cells: Sequence[Cell], model: str) -> Chart | None:
    """Draw the bounds between which the time of a row lies on each device, in the way that is cheapest."""
    best = made.cheapest(model) or made.fastest(model)
    if best is None:
        return None
    timed = [cell for cell in cells if cell.way == best.way and cell.step_seconds and cell.batch]
    figure = figure_of("milliseconds a row", "", height=110 + 34 * len(timed))
    rows = [1000 / ((cell.batch or 1) * cell.spread.gpus) for cell in timed]
    low = [(cell.lower_seconds or 0.0) * each for cell, each in zip(timed, rows, strict=True)]
    high = [(cell.upper_seconds or 0.0) * each for cell, each in zip(timed, rows, strict=True)]
    middle = [(cell.step_seconds or 0.0) * each for cell, each in zip(timed, rows, strict=True)]
    names = [safe(cell.device) for cell in timed]
    figure.add_trace(
        go.Bar(
            y=names, x=[up - down for up, down in zip(high, low, strict=True)], base=low, orientation="h",
            name="all hidden to nothing hidden", marker={"color": BLUE, "opacity": 0.45}, hoverinfo="skip",
        )
    )  # fmt: skip
    figure.add_trace(
        go.Scatter(
            y=names, x=middle, mode="markers", name="expected", marker={"color": ORANGE, "size": 10},
            customdata=[
                f"{down:.3g} to {up:.3g} ms, expected {at:.3g}, bound by {cell.bound}"
                for cell, down, up, at in zip(timed, low, high, middle, strict=True)
            ],
            hovertemplate="%{y}: %{customdata}<extra></extra>",
        )
    )  # fmt: skip
    if max(high, default=0.0) < _FEW_TICKS * min(low, default=0.0):
        figure.update_xaxes(tickformat="~g", rangemode="tozero", nticks=6)
    else:
        figure.update_xaxes(type="log", tickformat="~g", dtick="D2")
    figure.update_yaxes(autorange="reversed")
    finding = f"Of {best.way}, at the rows each device takes at once. Bars: from all waiting hidden to none."
    return Chart("bounds", "Bounds of the time of a row", finding, figure)
