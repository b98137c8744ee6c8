"""The charts of why this winner: which fields decided, and what became of all that was considered."""

from __future__ import annotations

from collections import Counter

import plotly.graph_objects as go

from autopeft.report.facts import StudyFacts
from autopeft.report.figure import BLUE, GREEN, GREY, ORANGE, RED, Chart, figure_of, safe
from autopeft.report.leads import percent
from autopeft.search.study import TrialState

_MOST_FIELDS = 8
_FEW = 5
"""Up to so many, an axis would have fractions between its marks."""
_WORDS = {
    "targets": "where",
    "training.learning_rate": "learning rate",
    "training.batch_size": "batch",
    "knobs.alpha_ratio": "alpha",
}
_STATES: dict[TrialState, str] = {
    "complete": GREEN,
    "paused": ORANGE,
    "stopped": GREY,
    "failed": RED,
    "running": BLUE,
}


def explain_charts(facts: StudyFacts) -> tuple[Chart, ...]:
    """Return the charts that the facts have something for."""
    drawn = (_importances(facts), _fates(facts))
    return tuple(chart for chart in drawn if chart is not None)


def _importances(facts: StudyFacts) -> Chart | None:
    found = facts.importances
    if found is None:
        return None
    rows = found.rows[:_MOST_FIELDS]
    names = [safe(_word(row.field)) for row in rows]
    figure = figure_of("share of what decided, %", "", height=110 + 40 * len(rows))
    ways = (
        ("among the best (PED-ANOVA)", BLUE, [row.share for row in rows]),
        ("of all variance (fANOVA)", ORANGE, [row.variance for row in rows]),
    )
    for name, colour, shares in ways:
        figure.add_trace(
            go.Bar(
                y=names, x=[None if share is None else 100 * share for share in shares], name=name,
                orientation="h", marker={"color": colour}, hovertemplate="%{y}: %{x:.0f} %<extra></extra>",
            )
        )  # fmt: skip
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(barmode="group", legend={"traceorder": "normal"})
    first = rows[0]
    finding = (
        f"What set the best {found.top} of {found.trials} trials apart after {found.samples:,} rows, which "
        f"all of them reached: {_word(first.field)} ({percent(first.share)}) most of all. "
        "It says what mattered among what was tried; fields that only some methods have carry no orange bar."
    )
    return Chart("importance", "What decided the score", finding, figure)


def _fates(facts: StudyFacts) -> Chart | None:
    fates: Counter[TrialState] = Counter(
        trial.state for trial in facts.study.trials if trial.state != "rejected" and not trial.repetition
    )
    bars = [(str(state), fates[state], colour) for state, colour in _STATES.items() if fates[state]]
    bars += [(f"refused:<br>{safe(_short(one.reason))}", one.count, ORANGE) for one in facts.untried]
    if not facts.untried and facts.combinations is None:
        return None
    figure = figure_of("configurations", "", height=90 + 38 * len(bars))
    figure.add_trace(
        go.Bar(
            y=[name for name, _, _ in bars], x=[number for _, number, _ in bars],
            text=[f"{number:,}" for _, number, _ in bars], orientation="h",
            marker={"color": [colour for _, _, colour in bars]}, textposition="outside", cliponaxis=False,
            hoverinfo="skip",
        )
    )  # fmt: skip
    most = max((number for _, number, _ in bars), default=1)
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(range=[0, 1.6 * most], nticks=4, tickangle=0)  # room for the numbers on a phone
    if most <= _FEW:
        figure.update_xaxes(dtick=1)
    figure.update_layout(showlegend=False)
    tried, refused = sum(fates.values()), sum(one.count for one in facts.untried)
    finding = f"Trained, whole or in part: {tried:,}. Refused before they were trained: {refused:,}"
    if facts.untried:
        worst = facts.untried[0]
        finding += f", most often as {worst.example}: {worst.reason.rstrip('.')}"
    finding += "."
    if facts.combinations is not None:
        finding += f" The space holds {facts.combinations:,} combinations"
        finding += " for each learning rate" if facts.continuous else ""
        finding += "; the rest was never proposed."
    return Chart("fates", "What became of every configuration", finding, figure)


def _word(field: str) -> str:
    return _WORDS.get(field, field.partition(".")[2] or field).replace("_", " ")


def _short(reason: str, most: int = 24) -> str:
    return reason if len(reason) <= most else f"{reason[: most - 3].rstrip()}..."
