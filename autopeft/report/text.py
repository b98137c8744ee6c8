"""The facts of a study, a plan or a capacity plan as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from autopeft.plan.capacity import Capacity
from autopeft.plan.plan import Plan
from autopeft.report import capacity_page, plan_page
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


def plan_to_markdown(plan: Plan) -> str:
    """Return what fits in a table, and what does not in another."""
    blocks = [f"# {_cell(plan_page.title(plan))}", _cell(plan_page.asked(plan))]
    blocks.append(f"**{_cell(plan_page.decision(plan))}**")
    blocks.append(_table(plan_page.Row._fields, [plan_page.row_of(fit) for fit in plan.fits]))
    refusals = [(f"{one.number:,}", one.configurations, one.reason) for one in plan_page.refusals(plan)]
    blocks.append(_table(("number", "do not fit", "why"), refusals))
    return "\n\n".join(filter(None, blocks)) + "\n"


def capacity_to_markdown(made: Capacity) -> str:
    """Return the decision for each model, and every cell in a table."""
    blocks = [f"# Capacity for {_cell(', '.join(made.demand.models))}", _cell(capacity_page.demanded(made))]
    blocks += [f"**{_cell(capacity_page.decision(made, model))}**" for model in made.demand.models]
    rows = [capacity_page.row_of(cell)._asdict() for cell in made.cells]
    shown = [name for name in capacity_page.Row._fields if name != "state"]  # the note says it
    blocks.append(_table(shown, [[row[name] for name in shown] for row in rows]))
    return "\n\n".join(filter(None, blocks)) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; nothing where there are no rows."""
    lines = [f"| {' | '.join(_cell(text) for text in row)} |" for row in rows]
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *lines]) if lines else ""


def _comparison(compared: Compared) -> str:
    shown = format_bytes if compared.unit == "bytes" else format_seconds
    return f"| {_cell(compared.quantity)} | {shown(compared.predicted)} | {shown(compared.measured)} |"


def _count(amount: int | None) -> str:
    return "" if amount is None else format_count(amount)


def _cell(text: str) -> str:
    """Keep a text on its line and inside its table cell, and its markup from being read as HTML."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
