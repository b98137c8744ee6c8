"""The charts of memory: predicted against measured, and what it holds at the peak."""

from __future__ import annotations

import statistics

import plotly.graph_objects as go

from autopeft.report.facts import StudyFacts
from autopeft.report.figure import (
    BLUE,
    GREY,
    MANY,
    PART_COLOURS,
    PARTLY,
    RED,
    Chart,
    figure_of,
    safe,
    unit_of,
)
from autopeft.report.leads import percent
from autopeft.report.points import PARTS_AND_REST, MemoryPoint, memory_parts, memory_points
from autopeft.search.study import Trial
from autopeft.units import format_bound, format_bytes

_MORE_COLOURS = ("#65a30d", "#0891b2", "#dc4c4c", "#92613a")
_COLOURS = dict(zip(PARTS_AND_REST, (*PART_COLOURS[:-1], *_MORE_COLOURS, PART_COLOURS[-1]), strict=True))
_LINE = 19
"""Height of a line of a legend, in pixels."""


def memory(facts: StudyFacts) -> Chart | None:
    """Draw each measured peak beside its prediction; only whole trainings are judged."""
    points = memory_points(facts)
    if not points:
        return None
    most = max(max(point.measured, point.high) for point in points)
    unit, word = unit_of(most)
    figure = figure_of(f"measured peak, {word}", f"predicted peak, {word}")
    whole = [point for point in points if point.whole]
    partly = [point for point in points if not point.whole]
    inside = [point for point in whole if point.inside]
    outside = [point for point in whole if not point.inside]
    ends = [min(min(point.measured, point.low) for point in points) - 0.02 * most, 1.02 * most]
    line = {"color": GREY, "dash": "dash", "width": 1.2}
    figure.add_trace(
        go.Scatter(
            x=[end / unit for end in ends], y=[end / unit for end in ends], mode="lines", line=line,
            name="exact", hoverinfo="skip",
        )
    )  # fmt: skip
    figure.add_trace(_peaks(PARTLY, partly, GREY, unit, "circle-open"))
    figure.add_trace(_banded("inside the 90 % band", inside, BLUE, unit))
    figure.add_trace(_banded("outside", outside, RED, unit))
    finding = f"{_judged(whole, len(inside))}{_left_out(len(partly))}"
    return Chart("memory", "Memory: predicted against measured", finding, figure)


def _judged(whole: list[MemoryPoint], inside: int) -> str:
    if not whole:
        return "No trial was trained to the end, so that no prediction can be judged."
    errors = sorted(abs(point.predicted / point.measured - 1) for point in whole)
    found = f"Measured inside the predicted 90 % band: {inside:,} of {len(whole):,} trained to the end"
    if len(errors) == 1:
        return f"{found}; its error is {percent(errors[0], 1)}."
    middle, largest = percent(statistics.median(errors), 1), percent(errors[-1], 1)
    return f"{found}; the median error is {middle}, the largest {largest}."


def _left_out(partly: int) -> str:
    if not partly:
        return ""
    return f" Hollow: {partly:,} {PARTLY}, whose peak is only that of the rows they saw."


def _banded(name: str, points: list[MemoryPoint], colour: str, unit: int) -> go.Scatter:
    band = {
        "array": [(point.high - point.predicted) / unit for point in points],
        "arrayminus": [(point.predicted - point.low) / unit for point in points],
        "color": colour,
        "thickness": 1,
        "visible": len(points) <= MANY,
        "width": 3,
    }
    return _peaks(name, points, colour, unit, "circle").update(error_y=band)


def _peaks(name: str, points: list[MemoryPoint], colour: str, unit: int, symbol: str) -> go.Scatter:
    return go.Scatter(
        x=[point.measured / unit for point in points],
        y=[point.predicted / unit for point in points],
        text=[
            f"{safe(f'{point.number}: {point.label}')}<br>predicted {format_bytes(point.predicted)}, "
            f"measured {format_bytes(point.measured)}"
            for point in points
        ],
        name=name,
        mode="markers",
        showlegend=bool(points),
        marker={"color": colour, "size": 8, "symbol": symbol, "line": {"width": 1.5, "color": colour}},
        hovertemplate="%{text}<extra></extra>",
    )


def parts_of_memory(facts: StudyFacts) -> Chart | None:
    """Draw what is predicted to lie in memory at the peak, of the winner and the default."""
    best, base = facts.study.best, facts.study.baseline
    if best is None or best.predicted is None:
        return None
    bars: dict[str, Trial] = {"winner": best}
    if base is not None and base.number != best.number and base.predicted is not None:
        bars = {"default": base, "winner": best}
    split = {name: memory_parts(trial) for name, trial in bars.items()}
    unit, word = unit_of(max(sum(parts.values()) for parts in split.values()))
    words = [part for part in _COLOURS if any(part in parts for parts in split.values())]
    height = 130 + 50 * len(bars) + _LINE * len(words)  # on a phone each part has a line of the legend
    figure = figure_of(f"predicted at the peak, {word}", "", height=height)
    for part in words:
        sizes = [parts.get(part, 0) for parts in split.values()]
        figure.add_trace(
            go.Bar(
                y=list(split), x=[size / unit for size in sizes], name=part, orientation="h",
                marker={"color": _COLOURS[part]}, text=[format_bytes(size) for size in sizes],
                textposition="none", hovertemplate=f"%{{y}}, {part}: %{{text}}<extra></extra>",
            )
        )  # fmt: skip
    figure.update_layout(barmode="stack", legend={"traceorder": "normal", "font": {"size": 12}})
    limit = facts.plan.budget.gpu_mem
    finding = ", ".join(f"{part} {format_bytes(size)}" for part, size in split["winner"].items())
    finding = f"The winner: {finding}."
    if limit:
        finding += f" The budget is {format_bound(limit)}."
    return Chart("parts", "What the memory holds", finding, figure)
