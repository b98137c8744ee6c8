"""Predict the time of published fine-tuning runs and hold the predictions against what was measured.

    python experiments/008-step-time-published/run.py PEFT_ROWS.csv LITGPT_QWEN_ROWS.csv [--only TEXT]

Datasheet profiles and the generic efficiencies of `autopeft/cost/efficiency.py`; nothing is fitted to the
rows. Then calibrated: 10 rows chosen at random correct the others, 20 times over. Then the bands:
those of each device from the residuals of the others.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rows as published

from autopeft.cost.calibration import calibrate
from autopeft.cost.correction import Observation, features_of
from autopeft.cost.model import TracedCostModel
from autopeft.cost.step_time import BAND
from autopeft.errors import AutopeftError
from autopeft.files import write_atomically
from autopeft.hardware.catalog import load_profile, profile_folders
from autopeft.workload.dataset import Workload
from autopeft.workload.models import find_model

HERE = Path(__file__).parent
TOO_SLOW = ("adamss",)
REPEATS, TAUGHT = 20, 10
SPREAD = BAND["datasheet"]
# PEFT's method_comparison/MetaMathQA/run.py: after its steps it generates up to 300 tokens for each of the
# 1,319 test rows of GSM8K in batches of 50; `train_time` holds that, but no evaluation on the way.
TEST_ROWS, TEST_BATCH, NEW_TOKENS = 1319, 50, 300
# It tokenises MetaMathQA (395,000 rows) first: a fast tokenizer in one process does about 10,000 a second.
DATA_SECONDS = 395_000 / 10_000


def predict(model: TracedCostModel, asked: published.Asked, row: dict[str, str]) -> dict[str, Any]:
    """Predict one published run."""
    base = find_model(asked.model)
    profile = load_profile(asked.device, profile_folders(HERE / ".autopeft"))
    workload = Workload(task="sft", lengths=asked.lengths)
    estimate = model.estimate(base, asked.candidate, workload, profile, asked.loop)
    time = estimate.time
    said: dict[str, Any] = {
        "predicted_seconds": time.step_seconds,
        "measured_seconds": asked.measured_seconds,
        "error": time.step_seconds / asked.measured_seconds - 1,
        "low_seconds": time.low_seconds,
        "high_seconds": time.high_seconds,
        "bound": time.bound,
        "features": features_of(time),
    }
    if asked.source == "peft":
        generated = -(-TEST_ROWS // TEST_BATCH) * NEW_TOKENS * time.token_seconds
        run = float(row["max_steps"]) * time.step_seconds + generated + DATA_SECONDS
        said |= {
            "predicted_run_seconds": run,
            "measured_run_seconds": float(row["train_time"]),
            "run_error": run / float(row["train_time"]) - 1,
        }
    return said


def accuracy(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Compare predictions with measurements."""
    from scipy.stats import spearmanr

    errors = [abs(predicted / measured - 1) for predicted, measured in pairs]
    return {
        "rows": len(pairs),
        "error_mean": statistics.mean(errors),
        "error_median": statistics.median(errors),
        "error_worst": max(errors),
        "bias": statistics.mean(predicted / measured - 1 for predicted, measured in pairs),
        "rank_correlation": float(spearmanr(*zip(*pairs, strict=True)).statistic),
    }


def calibrated(good: list[dict[str, Any]], quantity: str) -> dict[str, float]:
    """Teach the residual by 10 rows at random, 20 times; return the errors and the coverage on the others."""
    errors, inside, widths = [], [], []
    for seed in range(REPEATS):
        taught = random.Random(seed).sample(range(len(good)), TAUGHT)
        seen = [_observation(good[place], quantity) for place in taught]
        correction = calibrate(seen, spread=SPREAD)
        for place, row in enumerate(good):
            if place in taught:
                continue
            low, middle, high = correction.apply(row[f"predicted_{quantity}"], row["features"])
            measured = row[f"measured_{quantity}"]
            errors.append(abs(middle / measured - 1))
            inside.append(low <= measured <= high)
            widths.append((high - low) / middle)
    return {
        "error_mean": statistics.mean(errors),
        "error_median": statistics.median(errors),
        "band_covers": sum(inside) / len(inside),
        "band_width_mean": statistics.mean(widths),
    }


def across_devices(good: list[dict[str, Any]]) -> dict[str, Any]:
    """Leave one device out: is it within the band that the residuals of the others give?"""
    found: dict[str, Any] = {}
    devices = sorted({row["device"] for row in good})
    for device in devices:
        others = [row for row in good if row["device"] != device]
        correction = calibrate([_observation(row, "seconds") for row in others], spread=SPREAD)
        own = [row for row in good if row["device"] == device]
        inside = []
        for row in own:
            low, _, high = correction.apply(row["predicted_seconds"], row["features"])
            inside.append(low <= row["measured_seconds"] <= high)
        found[device] = {"rows": len(own), "band_covers": sum(inside) / len(inside)}
    rows = sum(each["rows"] for each in found.values())
    found["all"] = sum(each["rows"] * each["band_covers"] for each in found.values()) / max(rows, 1)
    return found


def _observation(row: dict[str, Any], quantity: str) -> Observation:
    return Observation(
        predicted_seconds=row[f"predicted_{quantity}"],
        measured_seconds=row[f"measured_{quantity}"],
        features=row["features"],
    )


def summary(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """Summarise the rows of each source."""
    good = [row for row in answers if row["status"] == "ok"]
    found: dict[str, Any] = {}
    for name, sources in (("peft", ("peft",)), ("qwen", ("qwen",)), ("litgpt", ("litgpt",))):
        found[name] = _of(good, sources, "seconds")
    found["peft train_time"] = _of(good, ("peft",), "run_seconds")
    found["litgpt and qwen"] = _of(good, ("qwen", "litgpt"), "seconds")
    found["leave one device out"] = across_devices(good)
    found["unsupported"] = {row["name"]: row["reason"] for row in answers if row["status"] != "ok"}
    return found


def _of(good: list[dict[str, Any]], sources: tuple[str, ...], quantity: str) -> dict[str, Any]:
    rows = [row for row in good if row["source"] in sources]
    if len(rows) <= TAUGHT:
        return {"rows": len(rows)}
    pairs = [(row[f"predicted_{quantity}"], row[f"measured_{quantity}"]) for row in rows]
    inside = [row["low_seconds"] <= row["measured_seconds"] <= row["high_seconds"] for row in rows]
    covers = {"band_covers": sum(inside) / len(inside)} if quantity == "seconds" else {}
    return {"uncalibrated": accuracy(pairs) | covers, "calibrated": calibrated(rows, quantity)}


def main() -> None:
    """Predict all rows and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peft", type=Path)
    parser.add_argument("others", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--summarise", action="store_true", help="of the predictions there are")
    arguments = parser.parse_args()
    if arguments.summarise:
        write(json.loads((HERE / "results.json").read_text(encoding="utf-8"))["rows"])
        return
    answers: list[dict[str, Any]] = []
    with TracedCostModel(workers=1, seconds=40) as model:
        for file, read in ((arguments.peft, published.peft), (arguments.others, published.litgpt_qwen)):
            with file.open(encoding="utf-8") as stream:
                rows = list(csv.DictReader(stream))
            for row in rows:
                name = row.get("experiment") or " ".join(
                    row[key] for key in ("model", "method", "quant", "seq")
                )
                if arguments.only not in name:
                    continue
                said: dict[str, Any] = {"name": name}
                if name.startswith(TOO_SLOW):
                    answers.append(said | {"status": "unsupported", "reason": "its trace takes minutes."})
                    continue
                try:
                    asked = read(row)
                    said |= {"source": asked.source, "device": asked.device, "status": "ok"}
                    said |= predict(model, asked, row)
                except AutopeftError as error:
                    said |= {"status": "unsupported", "reason": str(error)}
                sys.stderr.write(
                    f"{name[:70]:70} {said.get('error', 0):+.3f} {said.get('reason', '')[:90]}\n"
                )
                answers.append(said)
    if not arguments.only:
        write_atomically(HERE / "results.json", (json.dumps({"rows": answers}) + "\n").encode())
        write(answers)


def write(answers: list[dict[str, Any]]) -> None:
    """Summarise and write the results."""
    found = {"summary": summary(answers), "rows": answers}
    write_atomically(HERE / "results.json", (json.dumps(found, indent=1) + "\n").encode())
    print(json.dumps(found["summary"], indent=1))


if __name__ == "__main__":
    main()
