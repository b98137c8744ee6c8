"""The last screen of `autopeft run`: what was decided and why, how good it is, where it lies, what next."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite, isinf, isnan

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from autopeft.cli.tables import heading, table
from autopeft.report.facts import Compared, StudyFacts, TestScore
from autopeft.units import format_band, format_bytes, format_count, format_seconds

SCALE = 21
"""Characters of the scale that intervals are drawn on."""
MOST_REASONS = 6


def summary(facts: StudyFacts, *, wide: bool = True) -> Group:
    """Show a finished study on one screen; a wide one has room to draw the intervals."""
    return Group(*_sections(facts, wide=wide))


def _sections(facts: StudyFacts, *, wide: bool) -> Iterator[RenderableType]:
    yield Text()
    yield Text(facts.decision, style="bold green")
    yield _reasons(facts.reasons)
    if facts.scores:
        yield Text()
        metric = facts.data.metric
        way = ", lower is better" if metric.direction == "minimize" else ""
        touched = "that nothing else has touched"
        if facts.tested_unseen:
            touched = f"that were used for {facts.tested} configurations"
        yield heading(f"Test {metric.name} on {_test_rows(facts)} {touched}{way}")
        yield _scores(facts.scores, wide=wide)
    if facts.comparisons:
        yield Text()
        yield heading("Predicted against measured")
        yield _comparisons(facts.comparisons)
    yield Text()
    yield heading("Where everything is")
    yield _pairs(facts.places)
    yield Text()
    yield heading(_wall_time(facts))
    whose = "all sessions: " if facts.session and facts.session.resumed else ""
    yield Text(
        f"  {whose}"
        + ", ".join(
            f"{stage} {format_seconds(spent)}" for stage, spent in facts.seconds.items() if spent >= 0.05
        )
    )
    if facts.next_steps:
        yield Text()
        yield heading("Next")
        for step in facts.next_steps:
            yield Text(f"  {step}", style="cyan", no_wrap=True, overflow="fold")


def _wall_time(facts: StudyFacts) -> str:
    total = format_seconds(sum(facts.seconds.values()))
    if facts.session is None or not facts.session.resumed:
        return f"Wall time: {total}"
    return f"Wall time of this session: {format_seconds(facts.session.seconds)}, of all sessions: {total}"


def _test_rows(facts: StudyFacts) -> str:
    rows = facts.data.rows.get("test")
    return f"{rows:,} rows" if rows else "rows"


def _reasons(reasons: tuple[str, ...]) -> Table:
    made = Table.grid(padding=(0, 1))
    for reason in reasons[:MOST_REASONS]:
        made.add_row("  -", reason)
    if len(reasons) > MOST_REASONS:
        made.add_row("", f"... {len(reasons) - MOST_REASONS} more in the report")
    return made


def _scores(scores: tuple[TestScore, ...], *, wide: bool) -> Table:
    numbers = ("trained", "score", "95 % interval")
    made = table("", "configuration", *numbers, right=numbers)
    if wide:
        made.add_column(no_wrap=True)
    ends = [end for score in scores for end in (score.low, score.test_score, score.high) if isfinite(end)]
    least, most = min(ends, default=0.0), max(ends, default=1.0)
    for place, each in enumerate(scores):
        drawn = Text(interval(each.low, each.test_score, each.high, least, most), style="cyan")
        made.add_row(
            each.contender,
            each.label,
            format_count(each.trainable_params) if each.trainable_params is not None else "-",
            f"{each.test_score:.3f}",
            f"{each.low:.3f}-{each.high:.3f}",
            *([drawn] if wide else []),
            style="bold" if place == 0 else None,
        )
    return made


def interval(low: float, middle: float, high: float, least: float, most: float) -> str:
    """Draw an interval on a scale from `least` to `most`, such as "   ---o---  "; it may go on beyond."""
    if any(isnan(value) for value in (low, middle, high)) or isinf(middle):
        return " " * SCALE
    width = (most - least) or 1.0
    first, at, last = (
        round((SCALE - 1) * (min(max(value, least), most) - least) / width) for value in (low, middle, high)
    )
    cells = ["─" if first <= cell <= last else " " for cell in range(SCALE)]
    cells[at] = "●"
    return "".join(cells)


def _comparisons(rows: tuple[Compared, ...]) -> Table:
    numbers = ("predicted", "90 % band", "measured", "difference")
    made = table("", *numbers, right=numbers)
    for each in rows:
        show = format_bytes if each.unit == "bytes" else format_seconds
        made.add_row(each.quantity, show(each.predicted), _band(each), show(each.measured), _difference(each))
    return made


def _band(each: Compared) -> str:
    if each.low is None or each.high is None:
        return "-"
    if each.unit == "bytes":
        return format_band(each.low, each.high)
    return f"{format_seconds(each.low)} to {format_seconds(each.high)}"


def _difference(each: Compared) -> Text:
    words = f"{100 * (each.measured / each.predicted - 1):+.0f} %" if each.predicted else "-"
    if each.low is None or each.high is None:
        return Text(words)
    inside = each.low <= each.measured <= each.high
    return Text(words if inside else f"{words}, outside", style="green" if inside else "yellow")


def _pairs(rows: dict[str, str]) -> Table:
    made = Table.grid(padding=(0, 2))
    for name, place in rows.items():
        made.add_row(f"  {name}", Text(place, overflow="fold"))
    return made
