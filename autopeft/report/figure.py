"""How the figures of all pages look: colours, axes, units and safe words.

Colours stand on white and on black alike; the page's style sheet sets those of text and lines.
"""

from __future__ import annotations

import html
from typing import NamedTuple

import plotly.graph_objects as go

from autopeft.units import GIB, MIB

BLUE, ORANGE, GREEN, GREY, RED = "#3b82f6", "#d97706", "#059669", "#8a94a3", "#dc4c4c"
PART_COLOURS = ("#64748b", "#3b82f6", "#8b5cf6", "#d97706", "#059669", "#c2559d", "#a3a046", "#9aa5b4")

# Above this many trials lines and bands would run together: they are drawn fainter, bands not at all.
MANY = 60

PARTLY = "not trained to the end"


class Chart(NamedTuple):
    """A figure, and what it shows in words for those who do not see it."""

    name: str
    title: str
    finding: str
    figure: go.Figure


def figure_of(across: str, up: str, height: int = 360) -> go.Figure:
    """Return an empty figure in the house's style with the titles of its axes."""
    figure = go.Figure()
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13},
        legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0, "maxheight": 1},
        hoverlabel={"bgcolor": "#1f2937", "font": {"color": "#ffffff"}},
    )
    small = {"size": 13}
    figure.update_xaxes(
        title={"text": across, "standoff": 8, "font": small}, automargin=True, showgrid=True, zeroline=False
    )
    figure.update_yaxes(
        title={"text": up, "standoff": 8, "font": small}, automargin=True, showgrid=bool(up), zeroline=False
    )
    figure.update_yaxes(ticklabelstandoff=6)
    return figure


def between_shares(figure: go.Figure) -> None:
    """Keep an axis of scores that are shares to what they can be, which equal ones would leave far behind."""
    figure.update_yaxes(minallowed=-0.02, maxallowed=1.02)


def unit_of(largest: int) -> tuple[int, str]:
    """Return the unit that suits the largest of some sizes, with its name."""
    return (GIB, "GiB") if largest >= 2 * GIB else (MIB, "MiB")


def safe(text: str) -> str:
    """Keep plotly, which reads some HTML in labels, from reading any."""
    return html.escape(text, quote=False)
