"""Messages as tables: pure functions, made to be read at 80 to 100 columns."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from autopeft.units import format_bytes, format_count, format_seconds

if TYPE_CHECKING:
    from autopeft.cost.correction import Calibration
    from autopeft.doctor import Check
    from autopeft.export.bundle import Bundle
    from autopeft.hardware.profile import HardwareProfile
    from autopeft.search.study import Study, Trial
    from autopeft.workload.base_model import BaseModel

LOADERS = {"peft": "transformers and peft", "autopeft": "peft, after `import autopeft.adapters`"}
_UNLIMITED = 10_000
STATE_STYLES = {"ok": "green", "warn": "yellow", "fail": "red", "complete": "green", "failed": "red"}


def table(*columns: str, right: Iterable[str] = ()) -> Table:
    """Return an empty table in the house's style; columns named in `right` hold numbers."""
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    numbers = set(right)
    for name in columns:
        made.add_column(name, justify="right" if name in numbers else "left", no_wrap=name in numbers)
    return made


class FirstThatFits:
    """The same answer at several widths, widest first: what fits the screen is shown, else the last."""

    def __init__(self, choices: Iterable[RenderableType]) -> None:
        self._choices = tuple(choices)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the choice for the width of a screen."""
        unlimited = options.update(max_width=_UNLIMITED)
        for choice in self._choices[:-1]:
            if Measurement.get(console, unlimited, choice).maximum <= options.max_width:
                yield choice
                return
        yield self._choices[-1]


def heading(text: str) -> Text:
    """Return a line that starts a section."""
    return Text(text, style="bold")


def hardware(profile: HardwareProfile) -> Group:
    """Show one device."""
    made = Table.grid(padding=(0, 2))
    made.add_row(
        "memory", f"{format_bytes(profile.usable_bytes)} usable of {format_bytes(profile.total_bytes)}"
    )
    made.add_row("a process holds", f"{format_bytes(profile.context_bytes)} before its first tensor")
    for dtype, speed in profile.matmul_flops.items():
        made.add_row(f"matrix product {dtype}", f"{speed / 1e9:,.1f} GFLOP/s")
    made.add_row("memory bandwidth", f"{profile.bandwidth_bytes_per_second / 1e9:,.1f} GB/s")
    made.add_row("starting an operator", format_seconds(profile.dispatch_seconds))
    if profile.host is not None:
        host = profile.host
        made.add_row(
            "an operator of a model",
            f"forward {format_seconds(host.forward)}, backward {format_seconds(host.backward)}, "
            f"optimizer {format_seconds(host.optimizer)} on the host",
        )
    if profile.bandwidths:
        directions = (f"{name} {speed / 1e9:,.1f}" for name, speed in profile.bandwidths.items())
        made.add_row("streams", f"{', '.join(directions)} GB/s")
    if profile.host_to_device_bytes_per_second:
        made.add_row("host to device", f"{profile.host_to_device_bytes_per_second / 1e9:,.1f} GB/s")
    if profile.operators:
        made.add_row("operators", f"{len(profile.operators)} kinds measured")
    if profile.cores:
        made.add_row("cores", str(profile.cores))
    made.add_row(
        "source", f"{profile.provenance.kind}, {profile.provenance.source}, {profile.provenance.date}"
    )
    return Group(heading(f"{profile.name}: {profile.device_name} ({profile.device})"), made)


def calibration(made: Calibration) -> Group:
    """Show what measured runs taught."""
    grid = Table.grid(padding=(0, 2))
    grid.add_row("learnt from", f"{made.runs} runs ({made.source})")
    grid.add_row("correction", f"{math.expm1(made.offset):+.1%} of the predicted time at the middle")
    grid.add_row("90 % band", f"{math.expm1(made.below):+.0%} to {math.expm1(made.above):+.0%}")
    if made.weights:
        grid.add_row("depends on", ", ".join(name.replace("_", " ") for name in made.weights))
    return Group(heading("Calibration of predicted times"), grid)


def study(done: Study) -> Group:
    """Show the trials of a study and its best."""
    made = table(
        "trial", "configuration", "state", done.metric.name, "rows seen", "peak memory",
        right=("trial", done.metric.name, "rows seen", "peak memory"),
    )  # fmt: skip
    for trial in done.trials:
        made.add_row(*_trial(trial))
    best = done.best
    words = (
        f"Best: trial {best.number}, {best.candidate.label}. Next: autopeft export --study {done.name}"
        if best
        else "No trial was trained to the end."
    )
    return Group(heading(f"Study {done.name}"), made, Text(words, style="bold green" if best else "bold red"))


def _trial(trial: Trial) -> tuple[RenderableType, ...]:
    last = trial.result.reports[-1] if trial.result and trial.result.reports else None
    label = trial.label
    return (
        str(trial.number),
        label,
        Text(trial.state, style=STATE_STYLES.get(trial.state, "dim")),
        f"{last.score:.4f}" if last else "-",
        f"{last.samples:,}" if last else "-",
        format_bytes(trial.result.peak_bytes) if trial.result and last else "-",
    )


def bundle(made: Bundle) -> Group:
    """Show what was exported."""
    grid = Table.grid(padding=(0, 2))
    grid.add_row("directory", made.path)
    grid.add_row("adapter", f"{made.candidate.label} for {made.model}")
    grid.add_row(
        f"test {made.metric.name}", f"{made.test_score:.4f} (95 % interval {made.low:.4f} to {made.high:.4f})"
    )
    if made.reference_difference is not None:
        grid.add_row(
            "checked", f"a fresh process gives the same logits within {made.reference_difference:.1e}"
        )
    if (far := made.fidelity) is not None:
        score = "" if far.change is None else f", test {made.metric.name} {far.change:+.4f}"
        grid.add_row("made of it", far.made)
        grid.add_row("against trained", f"logits {far.logits:.1e} apart{score}")
    grid.add_row("loads with", LOADERS.get(made.format, "transformers"))
    return Group(heading("Exported"), grid)


def models(rows: Sequence[BaseModel]) -> Table:
    """List base models."""
    made = table(
        "model",
        "family",
        "parameters",
        "layers",
        "max. tokens",
        right=("parameters", "layers", "max. tokens"),
    )
    for each in rows:
        size = format_count(each.parameters) if each.parameters else "-"
        longest = f"{each.max_length:,}" if each.max_length else "-"
        made.add_row(each.name, each.family, size, str(each.layers), longest)
    return made


def devices(rows: Sequence[HardwareProfile]) -> Table:
    """List devices: 16-bit speed, memory and link bandwidth in GB/s, and the year of the datasheet."""
    made = table(
        "name", "device", "memory", "usable", "TFLOP/s", "GB/s", "link", "W", "of",
        right=("memory", "usable", "TFLOP/s", "GB/s", "link", "W"),
    )  # fmt: skip
    for each in rows:
        speed = each.matmul_flops.get("bfloat16") or each.matmul_flops.get("float16")
        made.add_row(
            each.name,
            each.device_name,
            format_bytes(each.total_bytes),
            format_bytes(each.usable_bytes),
            f"{speed / 1e12:,.0f}" if speed else "-",
            f"{each.bandwidth_bytes_per_second / 1e9:,.0f}",
            f"{each.link_bytes_per_second / 1e9:,.0f}" if each.link_bytes_per_second else "-",
            f"{each.power_watts:,.0f}" if each.power_watts else "-",
            each.provenance.date if each.provenance.kind == "datasheet" else each.provenance.kind,
        )
    return made


def checks(rows: Sequence[Check]) -> Table:
    """Show what the doctor found."""
    made = table("", "check", "found", "how to mend it")
    for each in rows:
        made.add_row(Text(each.state, style=STATE_STYLES[each.state]), each.name, each.found, each.mend)
    return made
