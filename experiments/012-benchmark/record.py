"""Record the benchmark: `python experiments/012-benchmark/record.py`.

Trains every configuration of a space once on every dataset (and the leaders with further seeds), and keeps
the whole learning curve of each as one line of a file. What has its line is not trained again, so the script
can be stopped at any moment. `--of held-out` records a dataset that no choice was made on, `--of paper` the
space of AutoPEFT.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import multiprocessing
import os
import platform
import random
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from autopeft.errors import AutopeftError
from autopeft.methods.registry import complete
from autopeft.space.candidate import Candidate
from autopeft.space.domain import assemble
from autopeft.space.reader import load_space
from autopeft.space.search_space import assignments
from autopeft.workload.base_model import BaseModel
from autopeft.workload.dataset import Dataset
from autopeft.workload.demo import demo_dataset, demo_model

HERE = Path(__file__).parent
VALIDATION_ROWS, TEST_ROWS = 240, 400
SEEDS = (1, 2)


@dataclass(frozen=True)
class Recording:
    """What is recorded.

    Attributes:
        shares: of the training, where it is evaluated.
        leaders: so many of the best by validation score are trained with further seeds.
    """

    space: Path
    curves: Path
    datasets: tuple[str, ...]
    train_rows: int
    shares: tuple[float, ...]
    leaders: int


MAIN = Recording(
    HERE / "space.yaml",
    HERE / "curves.jsonl",
    ("movies", "tweets", "products", "news"),
    train_rows=500,
    shares=(1 / 8, 1 / 4, 1 / 2, 1.0),
    leaders=20,
)
PAPER = Recording(
    HERE / "space-2024.yaml",
    HERE / "curves-2024.jsonl",
    ("tweets",),
    train_rows=300,
    shares=(1 / 4, 1 / 2, 1.0),
    leaders=0,
)
HELD_OUT = replace(MAIN, curves=HERE / "curves-held-out.jsonl", datasets=("debates",), leaders=0)
RECORDINGS = {"main": MAIN, "held-out": HELD_OUT, "paper": PAPER}


def main() -> None:
    """Record what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--minutes", type=float, default=600.0, help="begin no run after so many")
    parser.add_argument("--of", default="main", choices=RECORDINGS)
    arguments = parser.parse_args()
    of = RECORDINGS[arguments.of]
    deadline = time.monotonic() + 60 * arguments.minutes
    base = demo_model("classification")
    datasets = {name: benchmark_dataset(of, name) for name in of.datasets}
    import autopeft.train.trainer  # noqa: F401 (loaded once, before the processes part)

    for dataset in datasets.values():
        jobs = [(candidate, 0) for candidate in candidates(of)]
        _share_out(of, jobs, base, dataset, deadline, arguments.workers)
    for name, dataset in datasets.items():
        jobs = [(candidate, seed) for seed in SEEDS for candidate in leaders(of, name)]
        _share_out(of, jobs, base, dataset, deadline, arguments.workers)


def candidates(of: Recording = MAIN) -> list[Candidate]:
    """Return the configurations in an order that is the same every time and favours none."""
    space = load_space(str(of.space))
    every = [assemble({**space.fixed, **values}) for values in assignments(space)]
    return random.Random(0).sample(every, len(every))


def benchmark_dataset(of: Recording, name: str) -> Dataset:
    """Return the demo's rows in the benchmark's sizes."""
    whole = demo_dataset("classification", name=name, train_rows=of.train_rows)
    return whole.model_copy(
        update={"validation": whole.validation[:VALIDATION_ROWS], "test": whole.test[:TEST_ROWS]}
    )


def recorded(of: Recording = MAIN) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Read the curves so far, by dataset, key of the candidate, and seed."""
    lines = of.curves.read_text(encoding="utf-8").splitlines() if of.curves.exists() else []
    return {(row["dataset"], row["key"], row["seed"]): row for row in map(json.loads, lines)}


def leaders(of: Recording, dataset: str) -> list[Candidate]:
    """Return the best of a dataset by their validation scores at the end."""
    known, every = recorded(of), candidates(of)
    curves = {each.key: known.get((dataset, each.key, 0), {}).get("curve") for each in every}
    ranked = sorted(every, key=lambda each: -curves[each.key][-1]["score"] if curves[each.key] else 0)
    return ranked[: of.leaders]


def _share_out(
    of: Recording,
    jobs: list[tuple[Candidate, int]],
    base: BaseModel,
    dataset: Dataset,
    deadline: float,
    workers: int,
) -> None:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    queue.cancel_join_thread()  # what is left in it after the deadline is nobody's
    known = recorded(of)
    for candidate, seed in jobs:
        if (dataset.name, candidate.key, seed) not in known:
            queue.put((candidate, seed))
    for _ in range(workers):
        queue.put(None)
    crew = [context.Process(target=_work, args=(of, queue, base, dataset, deadline)) for _ in range(workers)]
    for worker in crew:
        worker.start()
    for worker in crew:
        worker.join()


def _work(of: Recording, queue: Any, base: BaseModel, dataset: Dataset, deadline: float) -> None:
    while (job := queue.get()) is not None and time.monotonic() < deadline:
        # A process for each run, so that its peak of memory is its own.
        run = multiprocessing.get_context("fork").Process(target=_record, args=(of, base, dataset, *job))
        run.start()
        run.join()
        if run.exitcode:
            return


def _record(of: Recording, base: BaseModel, dataset: Dataset, candidate: Candidate, seed: int) -> None:
    import torch
    from transformers.utils import logging

    from autopeft.methods.adapt import trainable
    from autopeft.train.trainer import Trainer

    torch.set_num_threads(1)
    logging.set_verbosity_error()
    row: dict[str, Any] = {
        "dataset": dataset.name,
        "key": candidate.key,
        "seed": seed,
        "candidate": candidate.model_dump(mode="json", exclude_defaults=True),
    }
    curve: list[dict[str, Any]] = []
    began = time.process_time()
    try:
        trainer = Trainer(base, dataset, complete(candidate), seed=seed)
        row["setup_seconds"] = round(time.process_time() - began, 2)
        row["trained"] = sum(parameter.numel() for parameter in trainable(trainer.model))
        for share in of.shares:
            began = time.process_time()
            report = trainer.advance(round(share * trainer.total_samples))
            curve.append(
                {
                    "samples": report.samples,
                    "score": round(report.score, 5),
                    "log_loss": round(report.extra["log_loss"], 5),
                    "training_loss": round(report.loss or 0.0, 5),
                    "seconds": round(time.process_time() - began, 2),
                    "peak_mib": round(report.peak_bytes / 2**20),
                }
            )
        right = trainer.evaluate("test").values
        row |= {"test": round(sum(right) / len(right), 5), "right": _packed(right)}
    except AutopeftError as error:
        row["failed"] = str(error)
    row |= {
        "curve": curve,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": f"one of {os.cpu_count()} cores, {platform.machine()}",
        "versions": " ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft")),
    }
    with of.curves.open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps(row) + "\n")


def _packed(right: tuple[float, ...]) -> str:
    """Write which rows are right as a hexadecimal number, the first row its highest bit."""
    return f"{int(''.join(str(int(value)) for value in right), 2):0{(len(right) + 3) // 4}x}"


if __name__ == "__main__":
    main()
