"""Run the demo with several seeds and keep what each one reached: `python experiments/001-demo/run.py`.

A seed that has its row already is not run again; delete `results.json` to start over.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from autopeft import pipeline
from autopeft.files import write_atomically
from autopeft.report.facts import StudyFacts
from autopeft.request import Request

RESULTS = Path(__file__).with_name("results.json")


def main() -> None:
    """Run what is missing and show all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--demo", choices=["classification", "sft"], default="classification")
    parser.add_argument("--workspace", default=".autopeft")
    arguments = parser.parse_args()
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    for seed in arguments.seeds:
        if any(row["seed"] == seed and row["demo"] == arguments.demo for row in rows):
            continue
        began = time.monotonic()
        request = Request.build(demo=arguments.demo, seed=seed, workspace=arguments.workspace)
        facts = pipeline.run(request)
        rows.append(row_of(facts, arguments.demo, seed, time.monotonic() - began))
        write_atomically(RESULTS, json.dumps(rows, indent=1) + "\n")
    show(rows)


def row_of(facts: StudyFacts, demo: str, seed: int, seconds: float) -> dict[str, Any]:
    """Keep of a finished study what the claim needs."""
    states = [trial.state for trial in facts.study.trials]
    return {
        "demo": demo,
        "seed": seed,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {facts.environment['device']}",
        "versions": facts.environment,
        "seconds": round(seconds, 1),
        "stages": {name: round(value, 1) for name, value in facts.seconds.items()},
        "trials": {state: states.count(state) for state in sorted(set(states))},
        "scores": [
            score.model_dump(
                include={
                    "contender",
                    "label",
                    "test_score",
                    "low",
                    "high",
                    "lead",
                    "lead_low",
                    "lead_high",
                    "extra",
                }
            )
            for score in facts.scores
        ],
        "predictions": [item.model_dump() for item in facts.comparisons],
        "all_trials": [
            {
                "label": trial.candidate.label,
                "state": trial.state,
                "validation": trial.result.score if trial.result and trial.result.reports else None,
                "predicted_bytes": trial.predicted.memory.device_peak_bytes if trial.predicted else None,
                "low_bytes": trial.predicted.memory.low_bytes if trial.predicted else None,
                "high_bytes": trial.predicted.memory.high_bytes if trial.predicted else None,
                "measured_bytes": trial.result.peak_bytes if trial.result else None,
                "predicted_step_seconds": trial.predicted.time.step_seconds if trial.predicted else None,
                "measured_step_seconds": trial.result.reports[-1].step_seconds
                if trial.result and trial.result.reports
                else None,
            }
            for trial in facts.study.trials
        ],
        "decision": facts.decision,
    }


def show(rows: list[dict[str, Any]]) -> None:
    """Print a line a seed."""
    for row in rows:
        scores = ", ".join(
            f"{s['contender']} {s['test_score']:.3f} [{s['low']:.3f}, {s['high']:.3f}]" for s in row["scores"]
        )
        print(
            f"{row['demo']} seed {row['seed']}: {scores}; {row['seconds']:.0f} s; {row['scores'][0]['label']}"
        )


if __name__ == "__main__":
    main()
