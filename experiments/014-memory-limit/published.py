"""Who would have been admitted on which GPU: `python experiments/014-memory-limit/published.py`.

Every published run whose peak is known and was predicted (experiments 003 and 004) is held against the memory
of every GPU of the catalogue, as a planner does: it is admitted where the upper end of its band fits. What
was measured tells who was admitted or refused wrongly. Writes `published.json` and its table in the README.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from autopeft.files import write_atomically
from autopeft.hardware.catalog import list_profiles

HERE = Path(__file__).parent
SOURCES = {"peft": "PEFT's comparison", "litgpt": "LitGPT", "qwen": "Qwen"}
WITHIN = 2.0
"""The hard cases: limits between the measured peak divided and multiplied by this."""
STEPS = 200


class Run(NamedTuple):
    """Bytes: what was measured, and the upper end of what was predicted."""

    measured: float
    high: float


class Count(NamedTuple):
    """How a set of runs is judged under a set of limits."""

    judged: int
    admitted: int
    wrongly_admitted: int
    refused: int
    wrongly_refused: int


def main() -> None:
    """Count, write, and print the table."""
    found = runs()
    every = [run for source in found.values() for run in source]
    cards = sizes()
    made: dict[str, Any] = {}
    for name, some in {**{SOURCES[key]: found[key] for key in SOURCES}, "all": every}.items():
        near = [judge([run], around(run.measured)) for run in some]
        hard = Count(*(sum(column) for column in zip(*near, strict=True)))
        made[name] = {
            "runs": len(some),
            "cards": judge(some, cards)._asdict(),
            "within_factor_2": hard._asdict(),
        }
    write_atomically(
        HERE / "published.json", json.dumps({"card_bytes": cards, "sources": made}, indent=1) + "\n"
    )
    table = [
        "| source | runs | runs on cards | admitted | of these over | refused | of these fit | of all |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, facts in made.items():
        count = Count(**facts["cards"])
        table.append(
            f"| {name} | {facts['runs']} | {count.judged:,} | {count.admitted:,} | {count.wrongly_admitted} "
            f"| {count.refused:,} | {count.wrongly_refused} | {count.wrongly_refused / count.judged:.1%} |"
        )
    print("\n".join(table))
    page = (HERE / "README.md").read_text(encoding="utf-8")
    block = "<!-- published -->\n" + "\n".join(table) + "\n<!-- end -->"
    page = re.sub(r"<!-- published -->.*?<!-- end -->", lambda _: block, page, flags=re.DOTALL)
    write_atomically(HERE / "README.md", page)


def runs() -> dict[str, list[Run]]:
    """Read the runs of both experiments that have a measured peak and a prediction, by source."""
    made: dict[str, list[Run]] = {key: [] for key in SOURCES}
    for folder in ("003-memory-peft", "004-memory-litgpt-qwen"):
        text = (HERE.parent / folder / "results.json").read_text(encoding="utf-8")
        for row in json.loads(text)["rows"]:
            if row["status"] == "ok" and row.get("measured_bytes"):
                made[row.get("source", "peft")].append(Run(row["measured_bytes"], row["high_bytes"]))
    return made


def sizes() -> list[int]:
    """Return what each size of card of the catalogue leaves a process beside its context, in bytes."""
    gpus = [profile for profile in list_profiles() if profile.device == "cuda"]
    return sorted({round((each.usable_bytes - each.context_bytes) / 2**29) * 2**29 for each in gpus})


def around(peak: float) -> list[float]:
    """Return limits around a peak, evenly by logarithm."""
    return [peak * WITHIN ** (2 * step / (STEPS - 1) - 1) for step in range(STEPS)]


def judge(some: list[Run], limits: list[int] | list[float]) -> Count:
    """Admit each run under each limit where its band's upper end fits; compare with what was measured."""
    pairs = [(run, limit) for run in some for limit in limits]
    admitted = [(run, limit) for run, limit in pairs if run.high <= limit]
    refused = [(run, limit) for run, limit in pairs if run.high > limit]
    return Count(
        judged=len(pairs),
        admitted=len(admitted),
        wrongly_admitted=sum(run.measured > limit for run, limit in admitted),
        refused=len(refused),
        wrongly_refused=sum(run.measured <= limit for run, limit in refused),
    )


if __name__ == "__main__":
    main()
