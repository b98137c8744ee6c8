"""Write a plan as one HTML file that needs no network."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from autopeft.files import write_atomically
from autopeft.plan.plan import Fits, Plan, Rejected
from autopeft.report.html import environment, inside
from autopeft.units import format_bytes, format_count, format_limit, format_seconds, format_usd


class Row(NamedTuple):
    """A configuration that fits, as words for the table."""

    configuration: str
    fed: str
    prior: str
    trained: str
    memory: str
    band: str
    time: str
    cost: str


class Refusal(NamedTuple):
    """Configurations that do not fit for the same reason."""

    number: int
    configurations: str
    reason: str


def write_page(plan: Plan, path: Path) -> Path:
    """Write the page.

    Raises:
        StorageError: the place cannot be written.
    """
    return write_atomically(path, render(plan))


def render(plan: Plan) -> str:
    """Return the page as text."""
    return (
        environment()
        .get_template("plan.html.j2")
        .render(
            title=title(plan),
            asked=asked(plan),
            decision=decision(plan),
            rows=[row_of(fit) for fit in plan.fits],
            timed=_timed(plan),
            refusals=refusals(plan),
            style=inside("report.css"),
        )
    )


def title(plan: Plan) -> str:
    """Name what is planned, and on what."""
    device = plan.profile.device_name
    if not plan.spread.alone:
        device = f"{plan.spread.gpus} x {device}, {plan.spread.sharding}"
    return f"Plan of {plan.model} on {device}"


def asked(plan: Plan) -> str:
    """Say in a line which space was held against which rows and limits."""
    budget, rows = plan.budget, plan.workload
    limits = [
        f"{format_limit(budget.gpu_mem)} of memory" if budget.gpu_mem is not None else "",
        format_seconds(budget.time) if budget.time is not None else "",
        format_usd(budget.cost) if budget.cost is not None else "",
        f"{100 * budget.params:.3g} % trained" if budget.params is not None else "",
        f"a file of {format_limit(budget.adapter_size)}" if budget.adapter_size is not None else "",
    ]
    number = f"{rows.rows:,} rows" if rows.rows else "rows"
    given = ", ".join(filter(None, limits))
    return f"space {plan.space} · {number} of at most {rows.lengths.longest} tokens" + (
        f" · at most {given}" if given else ""
    )


def decision(plan: Plan) -> str:
    """Say how many fit and what comes first, or what fits nearly."""
    total = len(plan.fits) + len(plan.rejected)
    if plan.fits:
        first = row_of(plan.fits[0])
        order = "the highest published score" if plan.fits[0].prior else "the shortest time a row"
        return (
            f"{len(plan.fits)} of {total} configurations fit; {first.configuration}, {first.fed}, has "
            f"{order}: {first.memory} of memory, {first.time} {_timed(plan)}."
        )
    nearest = f"; the nearest miss is {_missed(plan.rejected[0])}" if plan.rejected else ""
    return f"None of {total} configurations fits{nearest}."


def row_of(fit: Fits) -> Row:
    """Put a configuration that fits in words."""
    training, estimate = fit.candidate.training, fit.estimate
    steps = f" x {training.grad_accum}" if training.grad_accum > 1 else ""
    run = estimate.wall_seconds
    return Row(
        configuration=fit.candidate.form,
        fed=f"batch {training.batch_size}{steps}"
        + (", checkpointing" if training.gradient_checkpointing else ""),
        prior=f"{fit.prior.score:.2f} ±{fit.prior.spread:.2f}" if fit.prior else "unknown",
        trained=format_count(estimate.trainable_params),
        memory=format_bytes(estimate.memory.device_peak_bytes),
        band=f"{format_bytes(estimate.memory.low_bytes)} to {format_bytes(estimate.memory.high_bytes)}",
        time=format_seconds(estimate.time.step_seconds if run is None else run),
        cost="-" if fit.usd is None else format_usd(fit.usd),
    )


def refusals(plan: Plan) -> list[Refusal]:
    """Return what does not fit by reason and way out, the nearest misses first."""
    groups: dict[str, list[str]] = {}
    for each in plan.rejected:
        groups.setdefault(_why(each), []).append(each.candidate.form)
    return [Refusal(len(forms), "; ".join(dict.fromkeys(forms)), reason) for reason, forms in groups.items()]


def _timed(plan: Plan) -> str:
    return "a step" if any(fit.estimate.wall_seconds is None for fit in plan.fits) else "a training"


def _missed(one: Rejected) -> str:
    return f"{one.candidate.form}: {_why(one)}"


def _why(one: Rejected) -> str:
    return f"{one.reason}; {one.way_out}" if one.way_out else one.reason
