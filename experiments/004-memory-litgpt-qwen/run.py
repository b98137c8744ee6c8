"""Predict published litgpt and Qwen (v1) fine-tuning runs and hold the predictions against what was measured.

    python experiments/004-memory-litgpt-qwen/run.py ROWS.csv [--only TEXT]

Nothing is fitted per source: each row's stack is a loop of `autopeft/cost/loops.py`. Runs on several GPUs
and with DeepSpeed are not answered.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

from autopeft.cost.loops import find_loop
from autopeft.cost.model import TracedCostModel
from autopeft.errors import AutopeftError, UnsupportedError
from autopeft.hardware.catalog import load_profile, profile_folders
from autopeft.space.candidate import Candidate, Training
from autopeft.workload.dataset import Lengths, Workload
from autopeft.workload.models import find_model

HERE = Path(__file__).parent
CARD_BYTES = {"A100-SXM4-40GB": 40e9 * 1.0737, "A100-SXM4-80G": 80e9 * 1.0737}
QUANTIZATION = {
    "": "none",
    "None": "none",
    "bnb.nf4": "nf4",
    "bnb.nf4-dq": "nf4-dq",
    "GPTQ int4": "gptq-int4",
}


def question(row: dict[str, str]) -> tuple[Candidate, int, str]:
    """Return a row's candidate, its length, and its loop.

    Raises:
        UnsupportedError: nothing describes its stack.
    """
    length = int(re.match(r"\d+", row["seq"]).group())
    if int(row["n_gpus"]) != 1:
        raise UnsupportedError("runs on several GPUs are not predicted.")
    litgpt = row["framework"].startswith("litgpt")
    training = Training(batch_size=int(row["batch"]), max_length=length, precision="bf16", optimizer="adamw")
    quantization = QUANTIZATION[row["quant"]]
    if litgpt:
        if row["method"] == "llama-adapter":
            layers = find_model(row["model"]).layers - 2
            knobs: dict[str, Any] = {"adapter_len": 10, "adapter_layers": layers}
            return (
                Candidate(
                    method="adaption_prompt", knobs=knobs, quantization=quantization, training=training
                ),
                length,
                "litgpt",
            )
        if row["method"] != "lora":
            raise UnsupportedError(f"no method is litgpt's {row['method']}.")
        candidate = Candidate(
            method="lora",
            rank=int(row["rank"]),
            targets="query+value",
            knobs={"lora_dropout": 0.05},
            quantization=quantization,
            training=training,
        )
        return candidate, length, "litgpt"
    if row["method"] not in ("lora", "lora (emb)", "qlora"):
        raise UnsupportedError(f"{row['method']} ran on DeepSpeed, which no loop describes.")
    training = training.model_copy(update={"gradient_checkpointing": True, "grad_accum": 8})
    knobs = {"lora_dropout": 0.05}
    if row["method"] == "lora (emb)":
        knobs["modules_to_save"] = ["embed_tokens", "lm_head"]
    candidate = Candidate(
        method="lora",
        rank=64,
        targets="all-linear",
        knobs=knobs,
        quantization=quantization,
        training=training,
    )
    return candidate, length, "trainer-2023"


def predict(model: TracedCostModel, row: dict[str, str]) -> dict[str, Any]:
    """Predict one row."""
    litgpt = row["framework"].startswith("litgpt")
    said: dict[str, Any] = {
        "row": " ".join(row[name] for name in ("model", "method", "quant", "seq", "batch")),
        "source": "litgpt" if litgpt else "qwen",
        "measured_bytes": float(row["mem_value"]) * 1e9 if row["mem_value"] else None,
    }
    profile = load_profile("a100-40gb", profile_folders(HERE / ".autopeft"))
    try:
        candidate, length, loop = question(row)
        workload = Workload(task="sft", lengths=Lengths.constant(length))
        estimate = model.estimate(find_model(row["model"]), candidate, workload, profile, find_loop(loop))
    except AutopeftError as error:
        return said | {"status": "unsupported", "reason": str(error)}
    memory = estimate.memory
    context = memory.device_peak_bytes - memory.reserved_peak_bytes
    predicted = memory.allocated_peak_bytes if litgpt else memory.reserved_peak_bytes
    shift = context + memory.reserved_peak_bytes - predicted
    limit = CARD_BYTES[row["gpu"]]
    said |= {
        "status": "ok",
        "predicted_bytes": predicted,
        "low_bytes": memory.low_bytes - shift,
        "high_bytes": memory.high_bytes - shift,
        "out_of_memory": [memory.high_bytes > limit, row["status"] == "OOM"],
        "provenance": estimate.provenance,
    }
    if said["measured_bytes"]:
        said["error"] = predicted / said["measured_bytes"] - 1
    return said


def summary(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """Summarise the rows of each source."""
    found: dict[str, Any] = {}
    for source in ("litgpt", "qwen"):
        rows = [each for each in answers if each["source"] == source]
        good = [each for each in rows if "error" in each]
        if not good:
            continue
        errors = sorted(abs(each["error"]) for each in good)
        covered = [each["low_bytes"] <= each["measured_bytes"] <= each["high_bytes"] for each in good]
        told = [each["out_of_memory"] for each in rows if each["status"] == "ok"]
        found[source] = {
            "rows": len(rows),
            "answered": sum(each["status"] == "ok" for each in rows),
            "error_median": statistics.median(errors),
            "error_mean": statistics.mean(errors),
            "error_worst": errors[-1],
            "bias": statistics.mean(each["error"] for each in good),
            "under_by_5_percent": sum(each["error"] < -0.05 for each in good),
            "band_covers": sum(covered) / len(covered),
            "band_width_mean": statistics.mean(
                (each["high_bytes"] - each["low_bytes"]) / each["predicted_bytes"] for each in good
            ),
            "out_of_memory_rows": sum(ran_out for _, ran_out in told),
            "false_fits": sum(ran_out and not said for said, ran_out in told),
            "false_alarms": sum(said and not ran_out for said, ran_out in told),
            "unsupported": sum(each["status"] != "ok" for each in rows),
        }
    return found


def main() -> None:
    """Predict all rows and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    with arguments.rows.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if arguments.only in " ".join(row.values())]
    answers = []
    with TracedCostModel(workers=1, seconds=300) as model:
        for row in rows:
            answers.append(predict(model, row))
            last = answers[-1]
            told = f"{last.get('error', 0):+.3f} {last.get('out_of_memory')} {last.get('reason', '')[:110]}"
            sys.stderr.write(f"{last['row']:70} {last['status']} {told}\n")
    found = {"summary": summary(answers), "rows": answers}
    if not arguments.only:
        (HERE / "results.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found["summary"], indent=1))


if __name__ == "__main__":
    main()
