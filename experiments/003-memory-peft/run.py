"""Predict the peak memory of PEFT's published method comparison and hold it against what was measured.

    python experiments/003-memory-peft/run.py ROWS.csv [--only NAME]

ROWS.csv holds the published runs (columns experiment, peft_type, adapter_config, opt, mem_max, trainable).
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from rows import candidate_of

from autopeft.cost.loops import find_loop
from autopeft.cost.model import TracedCostModel
from autopeft.errors import AutopeftError, UnsupportedError
from autopeft.files import write_atomically
from autopeft.hardware.catalog import load_profile, profile_folders
from autopeft.workload.dataset import Lengths, Workload
from autopeft.workload.models import find_model

HERE = Path(__file__).parent
# Published for these rows: longest batch, 99th percentile and mean; the shortest is a guess.
LENGTHS = Lengths(percentiles=(64, *(347,) * 97, 604, 604, 703), mean=347.0)

# What newer versions of peft do otherwise than the one that ran (0.19.2.dev0).
CHANGED = {"OSF": "OSF of peft 0.20 and earlier holds every singular vector, that of 0.21 only some of them."}


def predict(model: TracedCostModel, row: dict[str, str]) -> dict[str, Any]:
    """Predict one row."""
    base = find_model("Llama-3.2-3B")
    profile = load_profile("l40s", profile_folders(HERE / ".autopeft"))
    measured = int(row["mem_max"])
    said: dict[str, Any] = {"experiment": row["experiment"], "measured_bytes": measured}
    started = time.perf_counter()
    try:
        if row["peft_type"] in CHANGED:
            raise UnsupportedError(CHANGED[row["peft_type"]])
        candidate = candidate_of(row["peft_type"], json.loads(row["adapter_config"] or "{}"), row["opt"])
        estimate = model.estimate(
            base, candidate, Workload(task="sft", lengths=LENGTHS), profile, find_loop("peft-benchmark")
        )
    except AutopeftError as error:
        return said | {"status": "unsupported", "reason": str(error)}
    memory = estimate.memory
    context = memory.device_peak_bytes - memory.reserved_peak_bytes
    return said | {
        "status": "ok",
        "reserved_peak_bytes": memory.reserved_peak_bytes,
        "low_bytes": memory.low_bytes - context,
        "high_bytes": memory.high_bytes - context,
        "error": memory.reserved_peak_bytes / measured - 1,
        "trainable": [estimate.trainable_params, int(row["trainable"])],
        "seconds": round(time.perf_counter() - started, 2),
        "provenance": estimate.provenance,
        "guesses": list(estimate.guesses),
    }


def summary(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """Summarise all rows; the baseline says the mean of all measurements for each."""
    good = [each for each in answers if each["status"] == "ok"]
    if not good:
        return {"rows": len(answers), "answered": 0}
    errors = sorted(abs(each["error"]) for each in good)
    covered = [each["low_bytes"] <= each["measured_bytes"] <= each["high_bytes"] for each in good]
    mean = statistics.mean(each["measured_bytes"] for each in good)
    constant = [abs(mean / each["measured_bytes"] - 1) for each in good]
    widths = [(each["high_bytes"] - each["low_bytes"]) / each["reserved_peak_bytes"] for each in good]
    return {
        "rows": len(answers),
        "answered": len(good),
        "error_median": statistics.median(errors),
        "error_mean": statistics.mean(errors),
        "error_worst": errors[-1],
        "baseline_constant_error_mean": statistics.mean(constant),
        "under_by_5_percent": sum(each["error"] < -0.05 for each in good),
        "band_covers": sum(covered) / len(covered),
        "band_width_mean": statistics.mean(widths),
        "trainable_equal": sum(each["trainable"][0] == each["trainable"][1] for each in good),
        "unsupported": {each["experiment"]: each["reason"] for each in answers if each["status"] != "ok"},
    }


def main() -> None:
    """Predict all rows and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--resume", action="store_true", help="keep the rows that results.json has")
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    with arguments.rows.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if arguments.only in row["experiment"]]
    results = HERE / "results.json"
    answers = json.loads(results.read_text(encoding="utf-8"))["rows"] if arguments.resume else []
    done = {each["experiment"] for each in answers}
    found: dict[str, Any] = {}
    with TracedCostModel(workers=arguments.workers, seconds=300) as model:
        for row in reversed(rows):
            if row["experiment"] in done:
                continue
            last = predict(model, row)
            answers.append(last)
            told = f"{last.get('error', 0):+.4f} {last.get('reason', '')[:120]}"
            sys.stderr.write(f"{last['experiment']:60} {last['status']} {told}\n")
            found = {"summary": summary(answers), "rows": answers}
            if not arguments.only:  # after each row: a run takes long, and may be ended
                write_atomically(results, (json.dumps(found, indent=1) + "\n").encode())
    print(json.dumps(found.get("summary"), indent=1))


if __name__ == "__main__":
    main()
