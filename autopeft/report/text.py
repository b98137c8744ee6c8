"""The facts of a study as Markdown."""

from __future__ import annotations

from autopeft.report.facts import Compared, StudyFacts
from autopeft.units import format_bytes, format_count, format_seconds


def facts_to_markdown(facts: StudyFacts) -> str:
    """Return a short summary for a pull request or a wiki."""
    blocks = [f"# {_cell(facts.study.name)}", f"**{_cell(facts.decision)}**"]
    blocks.append("\n".join(f"- {_cell(reason)}" for reason in facts.reasons))
    if facts.scores:
        metric = facts.data.metric.name
        head = f"| contender | configuration | test {metric} | 95 % interval | trained parameters |"
        rows = [
            f"| {_cell(score.contender)} | {_cell(score.label)} | {score.test_score:.3f} "
            f"| {score.low:.3f} to {score.high:.3f} | {_count(score.trainable_params)} |"
            for score in facts.scores
        ]
        blocks.append("\n".join([head, "|---|---|---|---|---|", *rows]))
    if facts.comparisons:
        rows = [_comparison(compared) for compared in facts.comparisons]
        blocks.append("\n".join(["| quantity | predicted | measured |", "|---|---|---|", *rows]))
    if facts.next_steps:
        blocks.append("\n".join(["```sh", *facts.next_steps, "```"]))
    return "\n\n".join(filter(None, blocks)) + "\n"


def _comparison(compared: Compared) -> str:
    shown = format_bytes if compared.unit == "bytes" else format_seconds
    return f"| {_cell(compared.quantity)} | {shown(compared.predicted)} | {shown(compared.measured)} |"


def _count(amount: int | None) -> str:
    return "" if amount is None else format_count(amount)


def _cell(text: str) -> str:
    """Keep a text on its line and inside its table cell, and its markup from being read as HTML."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
