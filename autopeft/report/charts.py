"""The charts of a report: plotly figures, each with a title and its finding in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from autopeft.report.costs import COSTS, Cost
from autopeft.report.facts import StudyFacts
from autopeft.report.figure import (
    BLUE,
    GREEN,
    GREY,
    MANY,
    ORANGE,
    PARTLY,
    Chart,
    between_shares,
    figure_of,
    safe,
)
from autopeft.report.memory_charts import memory, parts_of_memory
from autopeft.report.points import Curve, TradeOff, curves, noise, trade_offs
from autopeft.units import format_seconds

_DOT = 8
"""Size of what has no line to be seen by: a training with one score."""


def charts(facts: StudyFacts) -> tuple[Chart, ...]:
    """Return every chart that the facts have something for."""
    drawn = (_learning(facts), _trade_off(facts), memory(facts), parts_of_memory(facts), _stages(facts))
    return tuple(chart for chart in drawn if chart is not None)


def _learning(facts: StudyFacts) -> Chart | None:
    shown = curves(facts.study)
    if all(len(curve.samples) < 2 for curve in shown):
        return None
    best = facts.study.best
    chosen = best.number if best else -1
    groups: dict[str, list[Curve]] = {PARTLY: [], "other trials": [], "default": [], "winner": []}
    for curve in shown:
        if curve.number == chosen:
            groups["winner"].append(curve)
        elif curve.role == "baseline":
            groups["default"].append(curve)
        else:
            groups["other trials" if curve.state == "complete" else PARTLY].append(curve)
    looks: dict[str, dict[str, Any]] = {
        PARTLY: {"color": GREY, "width": 1.2, "dash": "dot"},
        "other trials": {"color": GREY, "width": 1.4},
        "default": {"color": ORANGE, "width": 2.4},
        "winner": {"color": BLUE, "width": 3},
    }
    figure = figure_of("training rows seen", f"validation {facts.data.metric.name}")
    if facts.data.metric.interval == "proportion":
        between_shares(figure)
    for name, members in groups.items():
        if members:
            figure.add_traces(_joined(name, members, looks[name]))
    partly = sum(curve.state != "complete" for curve in shown)
    dots = sum(len(curve.samples) == 1 for curve in shown)
    ended = f"{partly:,} of them {PARTLY}" if partly else "all trained to the end"
    finding = f"{len(shown):,} with a score, {ended}"
    finding += f"; {dots:,} scored only once, each a dot." if dots else "."
    if best and best.result:
        finding += f" The winner, {best.candidate.label}, ended at {best.result.score:.3f}."
    return Chart("learning", "Learning curves", finding, figure)


def _joined(name: str, members: list[Curve], line: dict[str, Any]) -> list[go.Scatter]:
    """Draw many curves as one trace with gaps, and too many to tell apart as a backdrop without points."""
    if len(members) > MANY:
        return _backdrop(name, members, line)
    across, up = _gapped(members)
    texts = [safe(f"{curve.number}: {curve.label}") for curve in members for _ in (*curve.samples, None)]
    usual = 5 if len(members) == 1 else 3
    sizes = [_DOT if len(curve.samples) == 1 else usual for curve in members for _ in (*curve.samples, None)]
    trace = go.Scatter(
        x=across, y=up, text=texts, name=name, mode="lines+markers", line=line,
        marker={"size": sizes, "line": {"width": 0}, "opacity": 1},
        hovertemplate="%{text}<br>%{x:,} rows: %{y:.3f}<extra></extra>",
    )  # fmt: skip
    return [trace]


def _backdrop(name: str, members: list[Curve], line: dict[str, Any]) -> list[go.Scatter]:
    """Draw curves as faint lines, and as dots those of one point, which a line would not show."""
    long = [curve for curve in members if len(curve.samples) > 1]
    short = [curve for curve in members if len(curve.samples) == 1]
    look: dict[str, Any] = {"name": name, "hoverinfo": "skip", "opacity": 0.5}
    across, up = _gapped(long)
    traces = [go.Scatter(x=across, y=up, mode="lines", line=line, **look)] if long else []
    if short:
        dots = [(curve.samples[0], curve.scores[0]) for curve in short]
        traces.append(
            go.Scatter(
                x=[at for at, _ in dots], y=[score for _, score in dots], mode="markers",
                marker={"size": 3, "color": line["color"]}, showlegend=not long, **look,
            )
        )  # fmt: skip
    return traces


def _gapped(members: list[Curve]) -> tuple[list[int | None], list[float | None]]:
    """Put curves behind each other, with a gap after each."""
    across = [at for curve in members for at in (*curve.samples, None)]
    return across, [score for curve in members for score in (*curve.scores, None)]


def _trade_off(facts: StudyFacts) -> Chart | None:
    points = trade_offs(facts.study)
    if not any(point.front for point in points):
        return None
    best = facts.study.best
    chosen = best.number if best else -1
    cost = COSTS[facts.study.front_of or "params"]
    figure = figure_of(cost.axis, f"validation {facts.data.metric.name}")
    if facts.data.metric.interval == "proportion":
        between_shares(figure)
    figure.update_xaxes(exponentformat="SI")
    if cost.log:
        marks = _marks([point.cost for point in points])
        figure.update_xaxes(type="log", tickvals=marks, ticktext=[cost.show(mark) for mark in marks])
    band = noise(facts)
    if band:
        figure.add_hrect(y0=band[0], y1=band[1], fillcolor=BLUE, opacity=0.1, line_width=0, layer="below")
    front = sorted((point for point in points if point.front), key=lambda point: point.cost)
    figure.add_trace(
        go.Scatter(
            x=[point.cost for point in front], y=[point.score for point in front], mode="lines",
            name="front", line={"color": GREEN, "width": 1.6, "shape": "hv"}, hoverinfo="skip",
            showlegend=len(front) > 1,
        )
    )  # fmt: skip
    rest = [point for point in points if point.number != chosen and point.role != "baseline"]
    partly = [point for point in rest if point.state != "complete"]
    trained = [one for one in rest if one.state == "complete"]
    base = [point for point in points if point.role == "baseline" and point.number != chosen]
    top = [one for one in points if one.number == chosen]
    for name, some, colour, symbol, size in (
        (PARTLY, partly, GREY, "circle-open", 8),
        ("trained", trained, GREEN, "circle", 9),
        ("default", base, ORANGE, "diamond", 12),
        ("winner", top, BLUE, "star", 16),
    ):
        figure.add_trace(_dots(name, some, colour, symbol, size, cost))
    ends = [f"{one.label} ({cost.show(one.cost)}, {one.score:.3f})" for one in (front[0], front[-1])]
    span = f"from {ends[0]} to {ends[1]}" if len(front) > 1 else ends[0]
    finding = f"On the front: {len(front)} of {len(points):,}, {span}"
    finding += "." if not band else ". Inside the shaded band, validation cannot tell trials from the winner."
    return Chart("trade-off", cost.title, finding, figure)


def _marks(amounts: Sequence[float]) -> list[float]:
    """Return powers of ten about the amounts; 2 and 5 times these too where they are few decades apart."""
    positive = [amount for amount in amounts if amount > 0] or [1.0]
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    steps = (1, 2, 5) if high - low <= 2 else (1,)
    return [step * 10.0**decade for decade in range(low, high + 1) for step in steps]


def _dots(name: str, points: list[TradeOff], colour: str, symbol: str, size: int, cost: Cost) -> go.Scatter:
    return go.Scatter(
        x=[point.cost for point in points],
        y=[point.score for point in points],
        text=[safe(f"{point.number}: {point.label}, {cost.show(point.cost)}") for point in points],
        name=name,
        mode="markers",
        showlegend=bool(points),
        opacity=1 if len(points) <= MANY else 0.5,
        marker={"color": colour, "symbol": symbol, "size": size, "line": {"width": 1.5, "color": colour}},
        hovertemplate="%{text}: %{y:.3f}<extra></extra>",
    )


def _stages(facts: StudyFacts) -> Chart | None:
    if not facts.seconds:
        return None
    names, spans = list(facts.seconds), list(facts.seconds.values())
    unit, word = (60.0, "minutes") if max(spans) > 180 else (1.0, "seconds")
    figure = figure_of(word, "", height=90 + 30 * len(names))
    figure.add_trace(
        go.Bar(
            y=[safe(name) for name in names], x=[span / unit for span in spans], orientation="h",
            marker={"color": BLUE}, text=[format_seconds(span) for span in spans], textposition="outside",
            cliponaxis=False, hoverinfo="skip",
        )
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(range=[0, max(spans) / unit * 1.6])
    figure.update_layout(showlegend=False)
    longest = max(names, key=lambda name: facts.seconds[name])
    finding = (
        f"The journey took {format_seconds(sum(spans))}; the longest stage, {longest}, "
        f"{format_seconds(facts.seconds[longest])}."
    )
    return Chart("stages", "Where the time went", finding, figure)
