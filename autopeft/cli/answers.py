"""Answers as tables: pure functions, made to be read at 80 to 100 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from autopeft.cli.tables import heading, table
from autopeft.cost.money import Cost
from autopeft.cost.spread import SpreadEstimate
from autopeft.methods.registry import METHODS
from autopeft.plan.answer import Answer, Explanation, Memory
from autopeft.plan.question import USUAL_EPOCHS, Question
from autopeft.units import (
    MIB,
    format_band,
    format_bound,
    format_bytes,
    format_count,
    format_seconds,
    format_usd,
)

if TYPE_CHECKING:
    from autopeft.cost.estimate import RunTime, TimeEstimate

BAR = 24
_LEAST_SHOWN = MIB // 20


def answer(question: Question, given: Answer) -> Group:
    """Show one answer: memory by component, peaks, headroom, cost, verdict."""
    parts: list[RenderableType] = [heading(f"{question.model}: {_setting(question)}")]
    if given.memory is not None:
        parts.append(Text(f"rows: {_rows(question, given)}", style="dim"))
        parts += [_components(given.memory), Text(), _peaks(given), Text(), _costs(question, given), Text()]
    parts.append(_judgement(question, given))
    return Group(*parts)


def switches(made: Explanation) -> Group:
    """Show what each switch would save or cost."""
    shown = table("switch", "peak memory", "change", "", "verdict", right=("peak memory", "change", ""))
    peak = made.answer.memory.device_peak_bytes if made.answer.memory else 1
    ranked = sorted(made.switches, key=lambda one: -_or_least(one.saved_bytes))
    without_effect: list[str] = []
    untold: dict[str, list[str]] = {}
    for switch in ranked:
        memory, saved = switch.answer.memory, switch.saved_bytes
        if memory is None or saved is None:
            untold.setdefault(str(switch.answer.reason), []).append(switch.name)
        elif abs(saved) < MIB:
            without_effect.append(switch.name)
        else:
            amount = f"{'-' if saved > 0 else '+'}{format_bytes(abs(saved))}"
            share = f"{-100 * saved / peak:+.0f} %"
            shown.add_row(
                switch.name, format_bytes(memory.device_peak_bytes), amount, share, _fit(switch.answer)
            )
    parts: list[RenderableType] = [
        Text(),
        heading("What each switch would do to the peak on the device"),
        shown,
    ]
    if without_effect:
        parts.append(Text(f"Less than 1 MiB: {', '.join(without_effect)}.", style="dim"))
    parts += [Text(f"{', '.join(names)}: {why}", style="dim") for why, names in untold.items()]
    return Group(*parts)


def _or_least(amount: int | None) -> float:
    return float("-inf") if amount is None else amount


def _fit(given: Answer) -> Text:
    words = {True: ("fits", "green"), False: ("does not fit", "red"), None: ("", "")}
    word, style = words[given.fits]
    return Text(word, style=style)


def _setting(question: Question) -> str:
    """Name a configuration, with the rank and the targets of its method where none were asked for."""
    spec = METHODS.get(question.method)
    rank = question.rank or (spec.default_rank if spec else None)
    targets = question.targets or (spec.default_targets if spec else None)
    parts = [question.method]
    if rank is not None:
        parts.append(f"r={rank}")
    if targets is not None:
        parts.append(targets if isinstance(targets, str) else ",".join(targets))
    if question.layers != "all":
        layers = question.layers
        parts.append(f"layers={layers if isinstance(layers, str) else ','.join(map(str, layers))}")
    if question.quantization != "none":
        parts.append(question.quantization)
    parts += [f"{name}={value}" for name, value in sorted(question.knobs.items())]
    rows = f"{question.batch_size} row{'s' if question.batch_size > 1 else ''}"
    settings = [" ".join(parts), rows + (f" x {question.grad_accum}" if question.grad_accum > 1 else "")]
    if question.seq_len is not None:
        settings.append(f"at most {question.seq_len} tokens")
    if question.gradient_checkpointing:
        settings.append("gradient checkpointing")
    return ", ".join([*settings, "packed"] if question.packing else settings)


def _rows(question: Question, given: Answer) -> str:
    """Say how long, how many at once, how many and how often rows are taken, and what nobody asked for."""
    parts = []
    if given.longest is not None:
        most = "at most " if (given.tokens or 0) < given.longest else ""
        mean = f", {given.tokens:,} on average" if most else ""
        parts.append(f"{most}{given.longest:,} tokens{mean}{_default(question.seq_len or question.lengths)}")
    said = "batch_size" in question.model_fields_set
    parts.append(f"batch {question.batch_size}{_default(said)}")
    parts.append(f"{question.examples:,} examples" if question.examples else "no --examples given")
    epochs = question.epochs or USUAL_EPOCHS
    passes = f"{epochs:g} {'epoch' if epochs == 1 else 'epochs'}"
    return ", ".join([*parts, f"{passes}{_default(question.epochs)}"])


def _default(said: object) -> str:
    return "" if said else " (default)"


def _components(memory: Memory) -> Table:
    made = table("component", "MiB", "share", "", right=("MiB", "share"))
    total = max(1, memory.allocated_peak_bytes)
    for part, amount in memory.parts.items():
        if amount < _LEAST_SHOWN:
            continue
        bar = "█" * round(BAR * amount / total)
        made.add_row(part, f"{amount / MIB:,.1f}", f"{100 * amount / total:.0f} %", Text(bar, style="cyan"))
    made.add_section()
    made.add_row(
        "allocated at the peak",
        f"{memory.allocated_peak_bytes / MIB:,.1f}",
        "100 %",
        f"in {memory.peak_phase}",
    )
    return made


def _peaks(given: Answer) -> Table:
    memory, limit = given.memory, given.limit_bytes
    made = Table.grid(padding=(0, 2))
    if memory is None:
        return made
    made.add_row("allocated peak", format_bytes(memory.allocated_peak_bytes), "held by tensors")
    reserved = f"taken by the allocator; 90 % band {format_band(memory.low_bytes, memory.high_bytes)}"
    made.add_row("reserved peak", format_bytes(memory.reserved_peak_bytes), reserved)
    highest = memory.high_bytes + memory.context_bytes
    context = f"with {format_bytes(memory.context_bytes)} of context; up to {format_bytes(highest)}"
    made.add_row("device peak", format_bytes(memory.device_peak_bytes), context)
    if limit is not None:
        room = limit - memory.high_bytes - memory.context_bytes
        words = f"{format_bytes(abs(room))} {'left' if room >= 0 else 'short'}"
        made.add_row("headroom", words, f"from the band's upper end to {format_bound(limit)}")
    return made


def _costs(question: Question, given: Answer) -> Table:
    made = Table.grid(padding=(0, 2))
    trained, total = given.trainable_params or 0, max(1, given.total_params or 1)
    made.add_row("trained", f"{format_count(trained)} parameters, {100 * trained / total:.2f} % of all")
    made.add_row("adapter file", format_bytes(given.adapter_file_bytes or 0))
    if given.time is not None:
        made.add_row("a step", _step(given.time))
        made.add_row("tokens a second", f"{given.time.tokens_per_second:,.0f}, padding among them")
    if given.run is not None:
        made.add_row("a run", _run(question, given.run))
    if given.spread is not None:
        made.add_row("devices", _spread(given.spread))
    if given.cost is not None:
        made.add_row("cost", _money(given.cost))
        if given.cost.kwh is not None:
            made.add_row("energy", _energy(given.cost))
    elif given.time is not None and given.cost_reason is not None:
        made.add_row("cost", given.cost_reason)
    if given.stack is not None:
        made.add_row("trained by", given.stack)
    if given.provenance is not None:
        for guess in given.provenance.guesses:
            made.add_row("assumed", guess)
    return made


def _run(question: Question, run: RunTime) -> str:
    epochs = question.epochs or USUAL_EPOCHS
    passes = f"{epochs:g} {'epoch' if epochs == 1 else 'epochs'} of {question.examples or 0:,} examples"
    steps = f"{run.steps:,} {'step' if run.steps == 1 else 'steps'}"
    return f"{format_seconds(run.total)}: {passes}, {steps}; {format_seconds(run.load_seconds)} of it loading"


def _spread(given: SpreadEstimate) -> str:
    exchange = f"{format_bytes(given.exchanged_bytes)} sent by each a step"
    words = f"{given.spread.words}; {exchange}, up to {format_seconds(given.communication_seconds)}"
    return words + (f"; {format_bytes(given.host_bytes)} of the host's memory" if given.host_bytes else "")


def _money(cost: Cost) -> str:
    if cost.usd_per_hour == 0:
        return f"{format_usd(0)} ({cost.price.words})"
    parts = [f"{format_usd(cost.usd_per_hour)} an hour ({cost.price.words})"]
    if cost.usd is not None and cost.epoch_usd is not None:
        parts.insert(0, f"{format_usd(cost.usd)} a run, {format_usd(cost.epoch_usd)} an epoch")
    else:
        parts.append(
            f"{format_usd(1000 * cost.step_usd)} for 1,000 steps; --examples N says what a run costs"
        )
    return "; ".join(parts)


def _energy(cost: Cost) -> str:
    words = f"at most {cost.kwh:.3g} kWh (the boards at full power)"
    return words if cost.co2_kg is None else f"{words}, {cost.co2_kg:.3g} kg of CO2"


def _step(time: TimeEstimate) -> str:
    low, high = format_seconds(time.low_seconds), format_seconds(time.high_seconds)
    return f"{format_seconds(time.step_seconds)} (90 % band {low} to {high}), bound by {time.bound}"


def _judgement(question: Question, given: Answer) -> Text:
    if given.status != "ok":
        words = Text("It cannot be told: ", style="bold red")
    elif given.fits is None and given.limit_bytes is not None:
        words = Text("Its training fits, but ", style="bold red")
    elif given.fits is None:
        return Text("No limit was given: --gpu-mem 16GB or --gpu NAME says whether it fits.", style="bold")
    elif given.fits:
        words = Text("It fits.", style="bold green")
    else:
        words = Text("It does not fit: ", style="bold red")
    if given.reason:
        words.append(f"{given.reason.rstrip('.')}.", style="not bold default")
    words.append(_batch_hint(question, given), style="not bold default")
    return words


def _batch_hint(question: Question, given: Answer) -> str:
    """Say which batch would fit, where that is another one."""
    largest, now = given.max_batch_size, question.batch_size
    if largest is None or largest == now:
        return ""
    if largest > now:
        return f" You could raise the batch to {largest}."
    way_out = given.way_out or (f"a batch of {largest}" if largest else None)
    if way_out:
        return f"\nIt would fit with {way_out}."
    return "\nNot even one row fits; --explain shows what each switch would save."
