"""Estimates and plans as tables: pure functions, made to be read at 80 to 100 columns."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from autopeft.cli.tables import band, heading, table
from autopeft.plan.plan import Fits, Plan, Rejected, Verdict
from autopeft.units import MIB, format_bytes, format_count, format_limit, format_seconds

if TYPE_CHECKING:
    from autopeft.cost.estimate import CostEstimate, MemoryEstimate, TimeEstimate
    from autopeft.plan.budget import Budget
    from autopeft.plan.overview import ModelRow
    from autopeft.space.candidate import Candidate

MOST_ROWS, MOST_REASONS, BAR = 20, 6, 24


def verdict(answer: Verdict, model: str, limit: int | None) -> Group:
    """Show one estimate: memory by component, peaks, headroom, time, verdict."""
    parts: list[RenderableType] = [heading(f"{model}: {_setting(answer.candidate)}")]
    if answer.estimate:
        memory = answer.estimate.memory
        parts += [_components(memory), Text(), _peaks(memory, limit), Text(), _costs(answer.estimate), Text()]
    parts.append(_judgement(answer))
    return Group(*parts)


def _setting(candidate: Candidate) -> str:
    training = candidate.training
    rows = f"{training.batch_size} rows" + (f" x {training.grad_accum}" if training.grad_accum > 1 else "")
    parts = [name(candidate), rows, f"at most {training.max_length} tokens", training.precision]
    if training.gradient_checkpointing:
        parts.append("gradient checkpointing")
    return ", ".join(parts)


def name(candidate: Candidate) -> str:
    """Name what a candidate adapts: its label without the learning rate, which costs nothing."""
    return re.sub(r" lr=\S+$", "", candidate.label)


def batch(candidate: Candidate) -> str:
    """Name how a candidate is fed, as far as that costs memory or time."""
    training = candidate.training
    rows = f"batch {training.batch_size}" + (f"x{training.grad_accum}" if training.grad_accum > 1 else "")
    return f"{rows} checkpointing" if training.gradient_checkpointing else rows


def namer(verdicts: Sequence[Verdict]) -> Callable[[Candidate], str]:
    """Return how to name candidates in one table: with the batch only where batches differ."""
    if len({batch(each.candidate) for each in verdicts}) == 1:
        return name
    return lambda candidate: f"{name(candidate)}, {batch(candidate)}"


def _components(memory: MemoryEstimate) -> Table:
    made = table("component", "MiB", "share", "", right=("MiB", "share"))
    total = max(1, memory.parts.total)
    for name, amount in memory.parts:
        bar = "█" * round(BAR * amount / total)
        made.add_row(name, f"{amount / MIB:,.1f}", f"{100 * amount / total:.0f} %", Text(bar, style="cyan"))
    made.add_section()
    made.add_row(
        "allocated at the peak",
        f"{memory.allocated_peak_bytes / MIB:,.1f}",
        "100 %",
        f"in {memory.peak_phase}",
    )
    return made


def _peaks(memory: MemoryEstimate, limit: int | None) -> Table:
    made = Table.grid(padding=(0, 2))
    made.add_row("allocated peak", format_bytes(memory.allocated_peak_bytes), "held by tensors")
    made.add_row("reserved peak", format_bytes(memory.reserved_peak_bytes), "taken by the allocator")
    made.add_row(
        "device peak",
        format_bytes(memory.device_peak_bytes),
        f"with context; 90 % band {band(memory.low_bytes, memory.high_bytes)}",
    )
    if limit is not None:
        room = limit - memory.high_bytes
        words = f"{format_bytes(abs(room))} {'left' if room >= 0 else 'too much'}"
        made.add_row("headroom", words, f"from the band's upper end to {format_limit(limit)}")
    return made


def _costs(estimate: CostEstimate) -> Table:
    made = Table.grid(padding=(0, 2))
    share = estimate.trainable_params / max(1, estimate.total_params)
    made.add_row(
        "trained", f"{format_count(estimate.trainable_params)} parameters, {100 * share:.2f} % of all"
    )
    made.add_row("adapter file", format_bytes(estimate.adapter_file_bytes))
    made.add_row("a step", _step(estimate.time))
    if estimate.run_seconds is not None:
        made.add_row("a run", format_seconds(estimate.run_seconds))
    for guess in estimate.guesses:
        made.add_row("assumed", guess)
    return made


def _step(time: TimeEstimate) -> str:
    low, high = format_seconds(time.low_seconds), format_seconds(time.high_seconds)
    return f"{format_seconds(time.step_seconds)} (90 % band {low} to {high}), bound by {time.bound}"


def _judgement(answer: Verdict) -> Text:
    if isinstance(answer, Fits):
        return Text("It fits.", style="bold green")
    words = Text("It does not fit: " if answer.estimate else "It cannot be told: ", style="bold red")
    words.append(f"{answer.reason}.", style="not bold default")
    if answer.way_out:
        words.append(f"\nWay out: {answer.way_out}.", style="not bold default")
    return words


def plan(made: Plan) -> Group:
    """Show what fits, ranked, and the rest by reason with its nearest miss."""
    limits = _limits(made.budget)
    lengths = made.workload.lengths
    parts: list[RenderableType] = [
        heading(f"{made.model} on {made.profile.device_name}{f', {limits}' if limits else ''}"),
        Text(
            f"space {made.space}; {made.workload.rows:,} rows of {lengths.mean:.0f} tokens on average, "
            f"{lengths.longest} at most"
            if made.workload.rows
            else f"space {made.space}; rows of {lengths.longest} tokens",
            style="dim",
        ),
    ]
    total, call = len(made.fits) + len(made.rejected), namer([*made.fits, *made.rejected])
    if made.fits:
        parts += [Text(), heading(f"{len(made.fits)} of {total} configurations fit"), _fits(made.fits, call)]
    else:
        parts += [Text(), Text(f"None of {total} configurations fits.", style="bold red")]
    if made.rejected:
        parts += [Text(), heading(f"{len(made.rejected)} do not"), _rejected(made.rejected, call)]
    return Group(*parts)


def _limits(budget: Budget) -> str:
    words = []
    if budget.gpu_mem is not None:
        words.append(f"{format_limit(budget.gpu_mem)} of memory")
    if budget.time is not None:
        words.append(format_seconds(budget.time))
    if budget.trials is not None:
        words.append(f"{budget.trials} trials")
    if budget.params is not None:
        words.append(f"at most {100 * budget.params:.3g} % trained")
    return ", ".join(words)


def _fits(fits: Sequence[Fits], call: Callable[[Candidate], str]) -> Table:
    made = table(
        "#", "configuration", "trained", "peak memory", "90 % band", "a step", "a run",
        right=("#", "trained", "peak memory", "90 % band", "a step", "a run"),
    )  # fmt: skip
    for number, each in enumerate(fits[:MOST_ROWS], start=1):
        memory, run = each.estimate.memory, each.estimate.run_seconds
        made.add_row(
            str(number),
            call(each.candidate),
            format_count(each.estimate.trainable_params),
            format_bytes(memory.device_peak_bytes),
            band(memory.low_bytes, memory.high_bytes),
            format_seconds(each.estimate.time.step_seconds),
            format_seconds(run) if run is not None else "-",
        )
    if len(fits) > MOST_ROWS:
        made.add_row("", f"... {len(fits) - MOST_ROWS} more (--json has all)")
    return made


def _rejected(rejected: Sequence[Rejected], call: Callable[[Candidate], str]) -> Table:
    """Group refusals that differ only in their numbers; the plan has the nearest miss of each first."""
    groups: dict[str, list[Rejected]] = {}
    for each in rejected:
        groups.setdefault(re.sub(r"[\d.,]+( ?[KMGT]i?B| ?m?s| min| h|%)?", "N", each.reason), []).append(each)
    made = Table.grid(padding=(0, 1))
    made.add_column(justify="right")
    made.add_column()
    for members in list(groups.values())[:MOST_REASONS]:
        nearest = members[0]
        words = Text()
        words.append("nearest: " if len(members) > 1 else "")
        words.append(call(nearest.candidate), style="cyan")
        words.append(f": {nearest.reason}")
        words.append(f"; {nearest.way_out}" if nearest.way_out else "", style="dim")
        made.add_row(f"{len(members)} x", words)
    if len(groups) > MOST_REASONS:
        made.add_row("", f"... {len(groups) - MOST_REASONS} more reasons (--json has all)")
    return made


def overview(rows: Sequence[ModelRow], budget: Budget) -> Group:
    """Show which known models a budget has room for."""
    labels = [f"{name(row.verdict.candidate)}, {batch(row.verdict.candidate)}" for row in rows]
    columns = ("model", "parameters", "verdict", "peak memory", "90 % band", "why not, or what would fit")
    made = table(*columns, right=("parameters", "peak memory", "90 % band"))
    one_for_all = len(set(labels)) == 1
    if not one_for_all:
        made.add_column("configuration")
    for row, label in zip(rows, labels, strict=True):
        estimate = row.verdict.estimate
        cells = (
            row.model,
            format_count(row.parameters) if row.parameters else "-",
            _word(row.verdict),
            format_bytes(estimate.memory.device_peak_bytes) if estimate else "-",
            band(estimate.memory.low_bytes, estimate.memory.high_bytes) if estimate else "-",
            "" if isinstance(row.verdict, Fits) else _note(row.verdict),
        )
        made.add_row(*cells, *([] if one_for_all else [label]))
    count, limits = sum(isinstance(row.verdict, Fits) for row in rows), _limits(budget)
    title = f"{count} of {len(rows)} known models fit" + (f" {limits}" if limits else "")
    memory = f" --gpu-mem {format_limit(budget.gpu_mem).replace(' ', '')}" if budget.gpu_mem else ""
    hint = f"Plan one of them: autopeft plan --model NAME{memory}"
    return Group(
        heading(f"{title}, with {labels[0]}" if one_for_all else title), made, Text(hint, style="dim")
    )


def _note(verdict: Rejected) -> str:
    return (verdict.way_out if verdict.estimate else "") or verdict.reason


def _word(verdict: Verdict) -> Text:
    if isinstance(verdict, Fits):
        return Text("fits", style="green")
    return Text("too big" if verdict.estimate else "no", style="red")
