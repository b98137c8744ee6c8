"""Train every listed method on two datasets: `python experiments/011-quality/run.py`.

A method first trains once at each of three learning rates (seed 0), is scored on the validation rows, and
then trains with seeds 1 and 2 at the best rate. The three runs at that rate are scored on the test rows, the
others never. Each run is one line of `results.jsonl`; a run that has its line is not repeated, so the script
can be stopped at any moment.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import multiprocessing
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autopeft.errors import AutopeftError
from autopeft.methods.registry import complete
from autopeft.space.candidate import Candidate, Training
from autopeft.workload.base_model import BaseModel
from autopeft.workload.dataset import Dataset
from autopeft.workload.demo import demo_dataset, demo_model

if TYPE_CHECKING:
    from autopeft.train.trainer import Trainer

RESULTS = Path(__file__).with_name("results.jsonl")
DATASETS = ("movies", "tweets")
TRAIN_ROWS, EPOCHS, BATCH_SIZE, MAX_LENGTH = 800, 2, 16, 64
SEEDS = (0, 1, 2)

_WEIGHTS = (5e-5, 1e-4, 3e-4)
_UPDATES = (1e-3, 3e-3, 1e-2)
_FEW = (3e-3, 1e-2, 3e-2)
"""Rates worth trying: of the model's own weights, of matrices that start at zero, of few parameters."""

RATES: dict[str, tuple[float, ...]] = {
    "lora": _UPDATES,
    "full": _WEIGHTS,
    "probe": _FEW,
    "bitfit": _UPDATES,
    "ia3": _FEW,
    "pfeiffer": _UPDATES,
    "prefix_tuning": _FEW,
    "dora": _UPDATES,
    "houlsby": _UPDATES,
    "parallel_adapter": _UPDATES,
    "ln_tuning": _FEW,
    "compacter": _FEW,
    "prompt_tuning": _FEW,
    "rslora": _UPDATES,
    "lokr": _UPDATES,
    "loha": _UPDATES,
    "adalora": _FEW,
    "vera": _FEW,
    "oft": _UPDATES,
    "hra": _UPDATES,
    "miss": _UPDATES,
    "fourierft": _FEW,
    "shira": _UPDATES,
    "road": _FEW,
    "randlora": _UPDATES,
    "lst": _UPDATES,
    "adapterdrop": _UPDATES,
    "p_tuning": _FEW,
    "delora": _FEW,
    "hira": _UPDATES,
    "mam": _UPDATES,
    "unipelt": _UPDATES,
    "pissa": _UPDATES,
}
LINEAR_PROBE = "linear probe"
"""No method: logistic regression on frozen, mean-pooled features, which all others are held against."""
KNOBS: dict[str, dict[str, Any]] = {
    "adalora": {"total_step": TRAIN_ROWS * EPOCHS // BATCH_SIZE, "tinit": 10, "tfinal": 50},
    "fourierft": {"scaling": 100.0},
}
"""Not left at its default: AdaLoRA has to know how long training is; FourierFT has its paper's scale."""


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--minutes", type=float, default=600.0, help="begin no run after so many")
    parser.add_argument("--methods", nargs="+", default=list(RATES), choices=list(RATES))
    arguments = parser.parse_args()
    deadline = time.monotonic() + 60 * arguments.minutes
    base = demo_model("classification")
    datasets = {name: demo_dataset("classification", name=name, train_rows=TRAIN_ROWS) for name in DATASETS}
    import autopeft.train.trainer  # noqa: F401 (loaded once, before the processes part)

    for dataset in datasets.values():
        if (LINEAR_PROBE, dataset.name, 0.0, 0) not in known():
            _fit_linear_probe(base, dataset)
    jobs = [(method, data) for method in arguments.methods for data in DATASETS]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    for job in jobs:
        queue.put(job)
    for _ in range(arguments.workers):
        queue.put(None)
    workers = [
        context.Process(target=_work, args=(queue, base, datasets, deadline))
        for _ in range(arguments.workers)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def known() -> dict[tuple[str, str, float, int], dict[str, Any]]:
    """Read the runs so far, by method, dataset, learning rate and seed."""
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
    rows = map(json.loads, lines)
    return {(row["method"], row["dataset"], row["learning_rate"], row["seed"]): row for row in rows}


def best_rate(method: str, dataset: str) -> float | None:
    """Return the learning rate with the best validation score; None before all have been tried."""
    runs = known()
    tried = [runs.get((method, dataset, rate, SEEDS[0])) for rate in RATES[method]]
    if not all(tried):
        return None
    scores = [row.get("validation", 0.0) for row in tried if row is not None]
    return RATES[method][scores.index(max(scores))]


def _work(queue: Any, base: BaseModel, datasets: dict[str, Dataset], deadline: float) -> None:
    while (job := queue.get()) is not None:
        method, data = job
        for rate, seed in _runs(method, data):
            if time.monotonic() > deadline:
                return
            # A process for each run, so that its peak of memory is its own.
            run = multiprocessing.get_context("fork").Process(
                target=_run, args=(base, datasets[data], method, rate, seed)
            )
            run.start()
            run.join()
            if run.exitcode:
                return


def _runs(method: str, data: str) -> Iterator[tuple[float, int]]:
    """Yield what is missing: the three rates, then all seeds at the best, the first only to be scored."""
    for rate in RATES[method]:
        if (method, data, rate, SEEDS[0]) not in known():
            yield rate, SEEDS[0]
    chosen = best_rate(method, data)
    for seed in SEEDS if chosen is not None else ():
        row = known().get((method, data, chosen, seed), {})
        if "test" not in row and "error" not in row:
            yield chosen, seed
    for rate in RATES[method]:
        shutil.rmtree(_checkpoint(method, data, rate), ignore_errors=True)


def _run(base: BaseModel, dataset: Dataset, method: str, rate: float, seed: int) -> None:
    """Train once and write the run's line; one of the first seed that is there already is only scored."""
    import torch
    from transformers.utils import logging

    from autopeft.train.trainer import Trainer

    torch.set_num_threads(1)
    logging.set_verbosity_error()
    training = Training(
        learning_rate=rate, epochs=EPOCHS, batch_size=BATCH_SIZE, max_length=MAX_LENGTH, precision="fp32"
    )
    candidate = complete(Candidate(method=method, knobs=KNOBS.get(method, {}), training=training))
    row: dict[str, Any] = {"method": method, "dataset": dataset.name, "learning_rate": rate, "seed": seed}
    trained_before = known().get((method, dataset.name, rate, seed))
    checkpoint = _checkpoint(method, dataset.name, rate)
    try:
        trainer = Trainer(base, dataset, candidate, seed=seed)
        if trained_before is not None and checkpoint.exists():
            trainer.restore(checkpoint)
            row = trained_before
        else:
            row |= _train(trainer)
    except AutopeftError as error:
        _keep({**row, "error": str(error)})
        return
    if seed == SEEDS[0] and trained_before is None:
        trainer.save(checkpoint)
        _keep(row)
        return
    _keep({**row, **_tested(trainer.evaluate("test").values)})


def _fit_linear_probe(base: BaseModel, dataset: Dataset) -> None:
    from autopeft.train.probe import linear_probe

    began = time.process_time()
    validation, test = linear_probe(base, dataset, Training(max_length=MAX_LENGTH, precision="fp32"))
    _keep(
        {
            "method": LINEAR_PROBE,
            "dataset": dataset.name,
            "learning_rate": 0.0,
            "seed": 0,
            "validation": validation.score,
            "cpu_seconds": round(time.process_time() - began, 1),
            **_tested(test.values),
        }
    )


def _tested(values: Sequence[float]) -> dict[str, Any]:
    return {"test": sum(values) / len(values), "right": "".join(str(int(value)) for value in values)}


def _train(trainer: Trainer) -> dict[str, Any]:
    from autopeft.methods.adapt import trainable

    began = time.process_time()
    report = trainer.advance(trainer.total_samples)
    cpu_seconds = time.process_time() - began
    trained = sum(parameter.numel() for parameter in trainable(trainer.model))
    return {
        "validation": report.score,
        "loss": round(report.loss or 0.0, 4),
        "trained": trained,
        "share": round(trained / sum(p.numel() for p in trainer.model.parameters()), 6),
        "peak_mib": round(report.peak_bytes / 2**20),
        "seconds": round(report.seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "step_seconds": round(report.step_seconds, 4),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
    }


def _checkpoint(method: str, data: str, rate: float) -> Path:
    return Path(tempfile.gettempdir()) / "autopeft-quality" / f"{method}-{data}-{rate:g}"


def _keep(row: dict[str, Any]) -> None:
    """Append a line; a later line of the same run takes the earlier one's place."""
    with RESULTS.open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
