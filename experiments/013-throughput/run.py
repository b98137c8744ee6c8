"""Trials an hour of autopeft's worker against a naive one: `python experiments/013-throughput/run.py`.

Three workers train the same candidates in turns, in one process: "naive" is what a tutorial's trial function
does; "fresh" is autopeft's trainer, loading base and rows anew each time; "kept" is the same trainer in a
worker that keeps both. Naive to fresh is what batching by length saves, fresh to kept what loading once does.
Seconds are the process's own (user and system), of one thread: the machine may be shared.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from autopeft.space.candidate import Candidate, Training
from autopeft.workload.base_model import BaseModel
from autopeft.workload.dataset import Dataset
from autopeft.workload.demo import demo_dataset, demo_model

RESULTS = Path(__file__).with_name("results.jsonl")
WORKERS = ("naive", "fresh", "kept")
BATCH_SIZE, MAX_LENGTH = 16, 128
TRIALS = (
    ("lora", 4, "query+value", 1e-3),
    ("lora", 16, "query+value", 3e-3),
    ("rslora", 8, "query+value", 1e-3),
    ("lora", 8, "all-linear", 1e-3),
    ("dora", 8, "query+value", 1e-3),
    ("lora", 32, "query+value", 3e-4),
)
"""Method, rank, targets and rate: every trial sees the rows once."""
SEED = 0


def main() -> None:
    """Let the workers take turns in what has no line yet; a first, short trial is to warm up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=192, help="training rows; half as many are scored")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    candidates = [candidate_of(*fields) for fields in TRIALS]
    for work in workers_for(BATCH_SIZE).values():
        work(candidates[0])
    workers = workers_for(arguments.rows)
    about = {
        "rows": arguments.rows,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread",
        "torch": torch.__version__,
    }
    done = {(line["trial"], line["worker"]) for line in results(arguments.rows)}
    for turn, candidate in enumerate(candidates):
        for name in list(workers) if turn % 2 else list(reversed(workers)):
            if (turn, name) in done:
                continue
            begun = time.process_time()
            parts = workers[name](candidate)
            seconds = time.process_time() - begun
            line = {"trial": turn, "worker": name, "candidate": candidate.label, "cpu_seconds": seconds}
            with RESULTS.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line | parts | about | {"load": os.getloadavg()[0]}) + "\n")
            print(f"{turn} {name:6} {seconds:6.2f} s  {candidate.label}", flush=True)
    print(json.dumps(summary(results(arguments.rows)), indent=1))


def results(rows: int) -> list[dict[str, Any]]:
    """Read the lines of runs with so many rows."""
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""
    return [line for line in map(json.loads, text.splitlines()) if line["rows"] == rows]


def workers_for(rows: int) -> dict[str, Callable[[Candidate], dict[str, float]]]:
    """Return the workers, each with the demo's model and so many rows."""
    from autopeft.train.trainer import TrainerFactory

    base = demo_model("classification")
    found = demo_dataset("classification", name="movies", train_rows=rows)
    dataset = found.model_copy(update={"validation": found.validation[: rows // 2]})
    kept = TrainerFactory(base=base, dataset=dataset)
    return {
        "naive": lambda candidate: train_naively(base, dataset, candidate),
        "fresh": lambda candidate: train(TrainerFactory(base=base, dataset=dataset), candidate),
        "kept": lambda candidate: train(kept, candidate),
    }


def candidate_of(method: str, rank: int, targets: str, rate: float) -> Candidate:
    """Make a candidate that trains for one epoch."""
    training = Training(learning_rate=rate, batch_size=BATCH_SIZE, epochs=1, max_length=MAX_LENGTH)
    return Candidate(method=method, rank=rank, targets=targets, training=training)


def train(factory: Any, candidate: Candidate) -> dict[str, float]:
    """Train as a worker of autopeft does; the parts are what making the trainer takes."""
    begun = time.process_time()
    run = factory(candidate, SEED)
    made = time.process_time()
    report = run.advance(10**9)
    return {"setup_seconds": made - begun, "score": report.score, "peak_bytes": report.peak_bytes}


def train_naively(base: BaseModel, dataset: Dataset, candidate: Candidate) -> dict[str, float]:
    """Train as a trial function of a tutorial does: load all, pad all rows to the limit, shuffle."""
    import torch
    from peft import LoraConfig, get_peft_model
    from torch.utils.data import DataLoader, TensorDataset
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        get_linear_schedule_with_warmup,
    )

    begun = time.process_time()
    torch.manual_seed(SEED)
    tokenizer = AutoTokenizer.from_pretrained(base.path)
    sets = []
    for split in (dataset.train, dataset.validation):
        texts = [row.text for row in split]
        found = tokenizer(
            texts, padding="max_length", truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
        )
        labels = torch.tensor([row.label for row in split])
        sets.append(TensorDataset(found["input_ids"], found["attention_mask"], labels))
    tokenised = time.process_time()
    model = AutoModelForSequenceClassification.from_pretrained(base.path, num_labels=len(dataset.labels))
    config = LoraConfig(
        task_type="SEQ_CLS",
        r=candidate.rank,
        lora_alpha=2 * (candidate.rank or 0),
        use_dora=candidate.method == "dora",
        use_rslora=candidate.method == "rslora",
        target_modules=["query", "value"] if candidate.targets == "query+value" else "all-linear",
    )
    model = get_peft_model(model, config)
    loaded = time.process_time()
    optimizer = torch.optim.AdamW(model.parameters(), lr=candidate.training.learning_rate)
    batches = DataLoader(sets[0], batch_size=BATCH_SIZE, shuffle=True)
    schedule = get_linear_schedule_with_warmup(optimizer, 1, len(batches))
    model.train()
    for ids, mask, labels in batches:
        model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()
    right = 0
    with torch.no_grad():
        for ids, mask, labels in DataLoader(sets[1], batch_size=BATCH_SIZE):
            right += int((model(input_ids=ids, attention_mask=mask).logits.argmax(-1) == labels).sum())
    return {
        "setup_seconds": loaded - begun,
        "tokenising_seconds": tokenised - begun,
        "score": right / len(dataset.validation),
    }


def summary(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what a trial takes in each worker, over the trials that all three have done, and the ratios."""
    trials = [
        {line["worker"]: line for line in lines if line["trial"] == turn} for turn in range(len(TRIALS))
    ]
    whole = [trial for trial in trials if len(trial) == len(WORKERS)]
    if not whole:
        return {"trials": 0}
    total = {name: _mean(trial[name]["cpu_seconds"] for trial in whole) for name in WORKERS}
    setup = {name: _mean(trial[name]["setup_seconds"] for trial in whole) for name in WORKERS}
    ratios = [trial["naive"]["cpu_seconds"] / trial["kept"]["cpu_seconds"] for trial in whole]
    return {
        "trials": len(whole),
        "cpu_seconds_a_trial": total,
        "trials_an_hour": {name: 3600 / seconds for name, seconds in total.items()},
        "naive_over_kept": total["naive"] / total["kept"],
        "naive_over_kept_by_trial": [min(ratios), max(ratios)],
        "setup_seconds_a_trial": setup,
        "saved_by_batches_of_like_lengths": total["naive"] - setup["naive"] - total["fresh"] + setup["fresh"],
        "saved_by_keeping_base_and_rows": setup["fresh"] - setup["kept"],
    }


def _mean(values: Iterable[float]) -> float:
    return statistics.fmean(values)


if __name__ == "__main__":
    main()
