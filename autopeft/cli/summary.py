"""The last screen of `autopeft run`: what was decided and why, how good it is, where it lies, what next."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from autopeft.cli.tables import band, heading, table
from autopeft.report.facts import Compared, StudyFacts, TestScore
from autopeft.units import format_bytes, format_count, format_seconds

SCALE = 21
"""Characters of the scale that intervals are drawn on."""


def summary(facts: StudyFacts) -> Group:
    """Show a finished study on one screen."""
    return Group(*_sections(facts))


def _sections(facts: StudyFacts) -> Iterator[RenderableType]:
    yield Text()
    yield Text(facts.decision, style="bold green")
    for reason in facts.reasons:
        yield Padding(Text(f"- {reason}"), (0, 0, 0, 2))
    if facts.scores:
        yield Text()
        yield heading(f"Test {facts.data.metric.name} on {_test_rows(facts)} that nothing else has touched")
        yield _scores(facts.scores)
    if facts.comparisons:
        yield heading("Predicted against measured")
        yield _comparisons(facts.comparisons)
    yield heading("Where everything is")
    yield _pairs(facts.places)
    yield Text()
    yield heading(f"Wall time: {format_seconds(sum(facts.seconds.values()))}")
    yield Text("  " + ", ".join(f"{stage} {format_seconds(spent)}" for stage, spent in facts.seconds.items()))
    if facts.next_steps:
        yield Text()
        yield heading("Next")
        for step in facts.next_steps:
            yield Text(f"  {step}", style="cyan", no_wrap=True, overflow="fold")


def _test_rows(facts: StudyFacts) -> str:
    rows = facts.data.rows.get("test")
    return f"{rows:,} rows" if rows else "rows"


def _scores(scores: tuple[TestScore, ...]) -> Table:
    made = table(
        "", "configuration", "score", "95 % interval", "", "trained",
        right=("score", "95 % interval", "trained"),
    )  # fmt: skip
    low, high = min(score.low for score in scores), max(score.high for score in scores)
    for place, each in enumerate(scores):
        made.add_row(
            each.contender,
            each.label,
            f"{each.test_score:.3f}",
            f"{each.low:.3f}-{each.high:.3f}",
            Text(interval(each.low, each.test_score, each.high, low, high), style="cyan"),
            format_count(each.trainable_params) if each.trainable_params is not None else "-",
            style="bold" if place == 0 else None,
        )
    return made


def interval(low: float, middle: float, high: float, least: float, most: float) -> str:
    """Draw an interval on a scale from `least` to `most`, such as "   ---o---  "."""
    width = (most - least) or 1.0
    first, at, last = (round((SCALE - 1) * (value - least) / width) for value in (low, middle, high))
    cells = ["─" if first <= cell <= last else " " for cell in range(SCALE)]
    cells[at] = "●"
    return "".join(cells)


def _comparisons(rows: tuple[Compared, ...]) -> Table:
    made = table(
        "",
        "predicted",
        "90 % band",
        "measured",
        "error",
        right=("predicted", "90 % band", "measured", "error"),
    )
    for each in rows:
        show = format_bytes if each.unit == "bytes" else format_seconds
        error = f"{(each.predicted - each.measured) / each.measured:+.0%}" if each.measured else "-"
        made.add_row(
            each.quantity, show(each.predicted), _band(each), show(each.measured), _judged(each, error)
        )
    return made


def _band(each: Compared) -> str:
    if each.low is None or each.high is None:
        return "-"
    if each.unit == "bytes":
        return band(each.low, each.high)
    return f"{format_seconds(each.low)} to {format_seconds(each.high)}"


def _judged(each: Compared, error: str) -> Text:
    if each.low is None or each.high is None:
        return Text(error)
    inside = each.low <= each.measured <= each.high
    return Text(error if inside else f"{error}, outside", style="green" if inside else "yellow")


def _pairs(rows: dict[str, str]) -> Table:
    made = Table.grid(padding=(0, 2))
    for name, place in rows.items():
        made.add_row(f"  {name}", Text(place, overflow="fold"))
    return made
