"""Plans as tables: pure functions, made to be read at 80 to 100 columns."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from autopeft.cli.tables import heading, table
from autopeft.plan.plan import Fits, Plan, Rejected, Verdict
from autopeft.units import format_band, format_bytes, format_count, format_limit, format_seconds, format_usd

if TYPE_CHECKING:
    from autopeft.plan.budget import Budget
    from autopeft.plan.overview import ModelRow, Option
    from autopeft.space.candidate import Candidate

MOST_ROWS, MOST_REASONS, MOST_ON_FRONT = 20, 6, 12


def name(candidate: Candidate) -> str:
    """Name what a candidate adapts; the learning rate costs nothing."""
    return candidate.form


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


def plan(made: Plan) -> Group:
    """Show what fits, ranked, and the rest by reason with its nearest miss."""
    limits = _limits(made.budget)
    lengths = made.workload.lengths
    device = made.profile.device_name
    if not made.spread.alone:
        device = f"{made.spread.gpus} x {device}, {made.spread.sharding}"
        device += ", offloaded" if made.spread.offload else ""
    parts: list[RenderableType] = [
        heading(f"{made.model} on {device}{f', {limits}' if limits else ''}"),
        Text(
            f"space {made.space}; {made.workload.rows:,} rows of {lengths.mean:.0f} tokens on average, "
            f"{lengths.longest} at most"
            if made.workload.rows
            else f"space {made.space}; rows of {lengths.longest} tokens",
            style="dim",
        ),
    ]
    if made.profile.device == "cpu" and made.budget.gpu_mem is not None:
        parts.append(
            Text("the memory is that of a process here, on the CPU; for a GPU: --gpu NAME", style="dim")
        )
    total, call = len(made.fits) + len(made.rejected), namer([*made.fits, *made.rejected])
    if made.fits:
        chosen = [each for each in made.fits if each.on_front]
        if 1 < len(chosen) < len(made.fits):
            parts += [Text(), heading(_front_title(made.fits)), _front(chosen, made.fits)]
        parts += [Text(), heading(f"{len(made.fits)} of {total} configurations fit"), _fits(made.fits)]
        parts += [*_about_prior(made.fits), *_about_cost(made)]
    else:
        parts += [Text(), Text(f"None of {total} configurations fits.", style="bold red")]
    if made.rejected:
        parts += [Text(), heading(f"{len(made.rejected)} do not"), _rejected(made.rejected, call)]
        parts += _near_misses(made.rejected, call)
    return Group(*parts)


def _limits(budget: Budget) -> str:
    words = []
    if budget.gpu_mem is not None:
        words.append(f"{format_limit(budget.gpu_mem)} of memory")
    if budget.time is not None:
        words.append(format_seconds(budget.time))
    if budget.trials is not None:
        words.append(f"{budget.trials} trials")
    if budget.cost is not None:
        words.append(f"at most {format_usd(budget.cost)}")
    if budget.params is not None:
        words.append(f"at most {100 * budget.params:.3g} % trained")
    return ", ".join(words)


def _front_title(fits: Sequence[Fits]) -> str:
    known = any(each.prior for each in fits)
    return f"Pareto front of {'prior, ' if known else ''}memory and trained parameters"


def _front(chosen: Sequence[Fits], fits: Sequence[Fits]) -> Table:
    """Show the front from the least memory on; with each the largest batch among all that fit."""
    columns = ("prior", "peak memory", "trained", "batch up to")
    made = table("configuration", *columns, right=columns)
    batches: dict[str, int] = {}
    for each in fits:
        key = _apart_from_batch(each.candidate)
        batches[key] = max(batches.get(key, 0), each.candidate.training.batch_size)
    shown = sorted(chosen, key=lambda each: each.estimate.memory.device_peak_bytes)
    for each in shown[:MOST_ON_FRONT]:
        memory = each.estimate.memory
        made.add_row(
            _apart_from_batch(each.candidate),
            _prior(each),
            format_bytes(memory.device_peak_bytes),
            format_count(each.estimate.trainable_params),
            str(batches[_apart_from_batch(each.candidate)]),
        )
    if len(shown) > MOST_ON_FRONT:
        made.add_row(f"... {len(shown) - MOST_ON_FRONT} more (--json has all)")
    return made


def _fits(fits: Sequence[Fits]) -> Table:
    """Show the best way to feed each configuration, by its number in the plan, which is ranked already."""
    groups = _groups(fits)
    several = len({batch(each.candidate) for each in fits}) > 1
    runs = any(each.estimate.wall_seconds is not None for each in fits)
    paid = any(each.usd is not None for each in fits)
    # There is no room for both; a plan with costs has its bands in --json.
    shown = ("a run", "cost") if paid else ("90 % band", "a run" if runs else "a step")
    columns = ("prior", "trained", "peak memory", *shown)
    made = table("#", "configuration", *columns, right=("#", *columns))
    for members in groups[:MOST_ROWS]:
        best, label = members[0], _with_ranks(members)
        number = next(place for place, each in enumerate(fits, start=1) if each is best)
        memory, run = best.estimate.memory, best.estimate.wall_seconds
        seconds = format_seconds(best.estimate.time.step_seconds if run is None else run)
        usd = "?" if best.usd is None else format_usd(best.usd)
        made.add_row(
            str(number),
            f"{label}, {batch(best.candidate)}" if several else label,
            _prior(best),
            format_count(best.estimate.trainable_params),
            format_bytes(memory.device_peak_bytes),
            *((seconds, usd) if paid else (format_band(memory.low_bytes, memory.high_bytes), seconds)),
        )
    if len(groups) > MOST_ROWS:
        made.add_row("", f"... {len(groups) - MOST_ROWS} more (--json has all)")
    return made


def _groups(fits: Sequence[Fits]) -> list[list[Fits]]:
    """Gather what one row of the table shows: ways to feed a configuration, and ranks of the same prior."""
    groups: dict[object, list[Fits]] = {}
    for each in fits:
        alike = each.candidate.model_copy(update={"rank": None}) if each.prior else each.candidate
        groups.setdefault((name(alike), each.prior and each.prior.score), []).append(each)
    return list(groups.values())


def _ranks(members: Sequence[Fits]) -> str:
    """Return the ranks of a row where they are several: "r=1-64"."""
    ranks = {each.candidate.rank for each in members if each.candidate.rank is not None}
    return f"r={min(ranks)}-{max(ranks)}" if len(ranks) > 1 else ""


def _with_ranks(members: Sequence[Fits]) -> str:
    """Name a configuration with all the ranks for which the same is published: "lora r=1-64 attention"."""
    first, ranks = members[0].candidate, _ranks(members)
    return re.sub(r"r=\d+", f"{ranks} [{first.rank}]", name(first), count=1) if ranks else name(first)


def _prior(fit: Fits) -> str:
    return f"{fit.prior.score:.2f} ±{fit.prior.spread:.2f}" if fit.prior else "unknown"


def _about_prior(fits: Sequence[Fits]) -> list[RenderableType]:
    metric = next((each.prior.metric for each in fits if each.prior), None)
    if metric is None:
        return [Text("No published comparison covers these configurations: no prior.", style="dim")]
    words = (
        f"prior: published, not predicted: {metric}, with what placement and quantisation changed "
        "elsewhere; ± one standard deviation; it ranks. Sources are in --json. "
        "Of each configuration the variant that is fastest a row is shown, by its number in the plan "
        "(`recipe --from PLAN.json --line N`)."
    )
    return [Text(f"{words}{_about_ranks(fits)}", style="dim")]


def _about_ranks(fits: Sequence[Fits]) -> str:
    """Say of which rank the numbers of a row are that stands for several."""
    if not any(_ranks(members) for members in _groups(fits)[:MOST_ROWS]):
        return ""
    return " Ranks of the same prior share a row, whose numbers are of the one in brackets."


def _about_cost(made: Plan) -> list[RenderableType]:
    """Say what a cost is of, or what is needed to tell one."""
    if made.price is None:
        return []
    if made.price.usd_per_hour == 0:
        hourly = format_usd(0)
    else:
        hourly = f"{format_usd(made.price.usd_per_hour * made.spread.gpus)} an hour"
    if any(each.usd is not None for each in made.fits):
        words = f"cost: of one training, {hourly} ({made.price.words})."
    else:
        words = f"cost: {hourly} ({made.price.words}); --examples N says what a training costs."
    return [Text(words, style="dim")]


def _apart_from_batch(candidate: Candidate) -> str:
    return f"{name(candidate)}{' checkpointing' if candidate.training.gradient_checkpointing else ''}"


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


def _near_misses(rejected: Sequence[Rejected], call: Callable[[Candidate], str]) -> list[RenderableType]:
    """Say of other kinds of configurations that nearly fit what would make them fit."""
    others = [each for each in rejected[1:] if each.ways_out]
    if not others:
        return []
    words = [Text.assemble((call(each.candidate), "cyan"), f": {each.way_out}") for each in others]
    return [Text(), heading("Other near misses"), *words]


def overview(rows: Sequence[ModelRow], budget: Budget, gpu: str | None = None) -> Group:
    """Show which known models a budget has room for, how, and how far.

    Args:
        gpu: the device, where it was named.
    """
    fitting = [row for row in rows if row.fits]
    limits = _limits(budget)
    title = f"{len(fitting)} of {len(rows)} known models fit" + (f" {limits}" if limits else "")
    parts: list[RenderableType] = [heading(title)]
    if fitting:
        names = [option.name for option in fitting[0].options]
        lengths = {row.length for row in fitting}
        tokens = f"{max(lengths)} tokens" if len(lengths) == 1 else "the usual length"
        made = table("model", "parameters", *names, right=("parameters", *names))
        for row in fitting:
            size = format_count(row.parameters) if row.parameters else "-"
            made.add_row(row.model, size, *(_option(option) for option in row.options))
        parts += [
            Text(
                f"with gradient checkpointing: the largest batch of {tokens} / the longest single row",
                style="dim",
            ),
            made,
            Text(f"Plan one of these: autopeft plan --model NAME{_on_what(budget, gpu)}", style="dim"),
        ]
    refused = [row for row in rows if row.refusal is not None]
    if refused:
        parts += [Text(), _refused(refused, all_of_them=not fitting)]
    return Group(*parts)


def _refused(rows: Sequence[ModelRow], *, all_of_them: bool) -> Text:
    """Say why the smallest model does not fit, and where no other does either, what it would take."""
    nearest = rows[0]
    words = f"{nearest.model} does not fit: {nearest.refusal.reason if nearest.refusal else ''}"
    others = ", ".join(row.model for row in rows[1:])
    if not all_of_them:
        return Text(f"{words}; nor do {others}." if others else f"{words}.")
    way_out = f"; {nearest.refusal.way_out}" if nearest.refusal and nearest.refusal.way_out else ""
    return Text(f"{words}{way_out}.{' Nor does any other, all of which are larger.' if others else ''}")


def _on_what(budget: Budget, gpu: str | None) -> str:
    """Return the flags that say what is planned for."""
    memory = f" --gpu-mem {format_limit(budget.gpu_mem).replace(' ', '')}" if budget.gpu_mem else ""
    return f" --gpu {gpu}{memory}" if gpu else memory


def _option(option: Option) -> Text:
    """Show how far one way to train goes: "12 / 8,192"."""
    if option.largest_batch == 0:
        return Text("-", style="dim")
    batch = "?" if option.largest_batch is None else str(option.largest_batch)
    longest = "?" if option.longest_row is None else f"{option.longest_row:,}"
    fits = isinstance(option.verdict, Fits)
    return Text(f"{batch} / {longest}", style="green" if fits else "dim")
