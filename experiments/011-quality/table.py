"""The tables of what every method reached, and checks on them: `python experiments/011-quality/table.py`."""

from __future__ import annotations

import re
import statistics
from pathlib import Path
from typing import NamedTuple

from run import DATASETS, LINEAR_PROBE, RATES, SEEDS, best_rate, known

from autopeft.files import write_atomically
from autopeft.report.intervals import mean_interval

README = Path(__file__).with_name("README.md")
MARK = re.compile(r"(<!-- table -->\n).*(<!-- end -->)", re.DOTALL)
WIDTH = 24


class Reached(NamedTuple):
    """What a method reached on a dataset with all seeds at its best rate.

    Attributes:
        rows: share of the seeds that were right, for each test row.
        lead: difference to the linear probe on the same rows, in points, with its 95 % interval.
    """

    method: str
    rate: float
    rows: list[float]
    seeds: list[float]
    share: float
    peak_mib: int
    seconds: float
    lead: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def score(self) -> float:
        """Mean accuracy over seeds."""
        return statistics.mean(self.seeds)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy over rows."""
        return mean_interval(self.rows)


def main() -> None:
    """Write the tables into the README."""
    parts = [part for dataset in DATASETS for part in _section(dataset)]
    failed = sorted({f"{m} on {d}: {row['error']}" for (m, d, *_), row in known().items() if "error" in row})
    parts += [*(f"- {line}" for line in failed), ""] if failed else []
    text = README.read_text(encoding="utf-8")
    body = "\n".join(parts)
    write_atomically(README, MARK.sub(lambda found: f"{found[1]}{body}{found[2]}", text))


def reached(dataset: str) -> list[Reached]:
    """Return every method whose seeds are all there, the best first, each held against the linear probe."""
    found = [row for method in RATES if (row := _of(method, dataset)) is not None]
    probe = _linear_probe(dataset)
    if probe is not None:
        found = [row._replace(lead=_lead(row, probe)) for row in (probe, *found)]
    return sorted(found, key=lambda row: -row.score)


def _linear_probe(dataset: str) -> Reached | None:
    row = known().get((LINEAR_PROBE, dataset, 0.0, 0))
    if row is None:
        return None
    rows = [float(mark) for mark in row["right"]]
    return Reached(LINEAR_PROBE, 0.0, rows, [row["test"]], 0.0, 0, row["cpu_seconds"])


def _of(method: str, dataset: str) -> Reached | None:
    rate, runs = best_rate(method, dataset), known()
    if rate is None:
        return None
    made = [runs.get((method, dataset, rate, seed), {}) for seed in SEEDS]
    if not all("right" in row for row in made):
        return None
    rows = [statistics.mean(map(int, marks)) for marks in zip(*(row["right"] for row in made), strict=True)]
    return Reached(
        method=method,
        rate=rate,
        rows=rows,
        seeds=[row["test"] for row in made],
        share=made[0]["share"],
        peak_mib=max(row["peak_mib"] for row in made),
        seconds=statistics.mean(row.get("cpu_seconds", row["seconds"]) for row in made),
    )


def _lead(one: Reached, other: Reached) -> tuple[float, float, float]:
    differences = [100 * (mine - theirs) for mine, theirs in zip(one.rows, other.rows, strict=True)]
    return (statistics.mean(differences), *mean_interval(differences))


def _section(dataset: str) -> list[str]:
    rows = reached(dataset)
    if not rows:
        return []
    lowest, highest = min(row.interval[0] for row in rows), max(row.interval[1] for row in rows)
    head = [
        "method",
        "test accuracy",
        f"{lowest:.2f} to {highest:.2f}",
        "seeds",
        "over the probe",
        "rate",
        "trained",
        "peak",
        "core time",
    ]
    lines = [f"**{dataset}**: {len(rows)} methods", "", *_table(head, rows, lowest, highest), ""]
    return lines + [f"- {line}" for line in _checks(rows)] + [""]


def _table(head: list[str], rows: list[Reached], lowest: float, highest: float) -> list[str]:
    lines = [f"| {' | '.join(head)} |", "|---|" + "---|" * (len(head) - 1)]
    for row in rows:
        low, high = row.interval
        lead, lead_low, lead_high = row.lead
        cells = [
            row.method,
            f"{row.score:.3f} [{low:.3f}, {high:.3f}]",
            f"`{_bar(low, row.score, high, lowest, highest)}`",
            f"{min(row.seeds):.3f}-{max(row.seeds):.3f}",
            "-" if row.method == LINEAR_PROBE else f"{lead:+.1f} [{lead_low:+.1f}, {lead_high:+.1f}]",
            f"{row.rate:g}{_edge(row)}" if row.rate else "-",
            f"{100 * row.share:.2f} %",
            f"{row.peak_mib} MiB" if row.peak_mib else "-",
            f"{row.seconds:.0f} s",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _edge(row: Reached) -> str:
    """Mark a rate at the edge of what was tried: a better one may lie beyond."""
    rates = RATES.get(row.method, (0.0, 0.0))
    return " (lowest)" if row.rate == rates[0] else " (highest)" if row.rate == rates[-1] else ""


def _bar(low: float, middle: float, high: float, lowest: float, highest: float) -> str:
    def place(value: float) -> int:
        return round((value - lowest) / (highest - lowest) * (WIDTH - 1))

    marks = [" "] * WIDTH
    marks[place(low) : place(high) + 1] = "─" * (place(high) - place(low) + 1)
    marks[place(middle)] = "●"
    return "".join(marks).replace(" ", "·")


def _checks(rows: list[Reached]) -> list[str]:
    """Say whether what has to hold of any sound training holds here."""
    by_method = {row.method: row for row in rows}
    lines = []
    if {"lora", LINEAR_PROBE} <= by_method.keys():
        lead, low, _ = by_method["lora"].lead
        beyond = "more than noise" if low > 0 else "not more than noise"
        lines.append(f"LoRA against the linear probe: {lead:+.1f} points, {beyond}")
    if "full" in by_method:
        best, full = rows[0], by_method["full"]
        difference, low, high = _lead(full, best)
        within = "within noise" if high >= 0 else "not within noise"
        lines.append(
            f"full fine-tuning against the best, {best.method}: "
            f"{difference:+.1f} [{low:+.1f}, {high:+.1f}] points, {within}"
        )
    below = [row.method for row in rows if row.method != LINEAR_PROBE and row.lead[1] <= 0]
    if LINEAR_PROBE in by_method:
        lines.append(f"not above the probe beyond noise: {', '.join(below) or 'none'}")
    return lines


if __name__ == "__main__":
    main()
