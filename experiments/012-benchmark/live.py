"""Three live searches for the same time: `python experiments/012-benchmark/live.py`.

autopeft, Ray Tune with TPE and ASHA as its documentation teaches them, and random search each have the same
cores for as long, with the same rows, split alike. What autopeft brings along of this dataset is kept from
it. A line of `live.jsonl` is one search; what has its line is not run again. Then the table of the README is
written.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import random
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from contenders import candidate_of, suggest
from record import HERE, MAIN, benchmark_dataset, candidates

from autopeft import pipeline
from autopeft.files import write_atomically
from autopeft.hardware.limits import core_limit
from autopeft.journey import remembering
from autopeft.journey.inputs import load_inputs, require_dataset
from autopeft.journey.workspace import study_folder
from autopeft.plan.budget import Budget
from autopeft.report.intervals import wilson
from autopeft.request import Request
from autopeft.search.experience import recorded_studies
from autopeft.search.past import PastStudy
from autopeft.search.study import Study, Trial
from autopeft.space.candidate import Candidate
from autopeft.space.reader import load_space
from autopeft.train.result import Report
from autopeft.workload.base_model import BaseModel, Family
from autopeft.workload.dataset import Dataset, Example
from autopeft.workload.demo import demo_model
from autopeft.workload.tasks import Task

LINES = HERE / "live.jsonl"
SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)
GOAL_TRIALS = 64
OURS, USUAL, RANDOM = "autopeft run", "TPE + ASHA", "random"
TOGETHER = core_limit()
"""Trials side by side, a core each; autopeft decides for itself."""

Done = tuple[float, str, float]
"""A whole training: seconds since the search began, its candidate's key, validation accuracy."""


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--datasets", nargs="+", default=["movies", "tweets"], choices=MAIN.datasets)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    known = {(line["dataset"], line["who"]) for line in lines()}
    for dataset in arguments.datasets:
        searches = {OURS: partial(ours, dataset=dataset), USUAL: usual, RANDOM: at_random}
        for who, search in searches.items():
            if (dataset, who) in known:
                continue
            hide(dataset)
            with tempfile.TemporaryDirectory() as folder:
                request = request_of(dataset, Path(folder), arguments.minutes, arguments.seed)
                found = search(request)
            line = {
                "dataset": dataset,
                "who": who,
                "minutes": arguments.minutes,
                "seed": arguments.seed,
                **found,
                "date": f"{datetime.now(UTC):%Y-%m-%d}",
                "machine": f"{TOGETHER} of {os.cpu_count()} cores, {platform.machine()}",
                "load": os.getloadavg()[2],
                "versions": " ".join(
                    f"{name} {version(name)}" for name in ("torch", "peft", "ray", "optuna")
                ),
            }
            with LINES.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
    _write(arguments.datasets)


def hide(dataset: str) -> None:
    """Let autopeft's searches know nothing of what was recorded on a dataset."""

    def others(family: Family, task: Task) -> tuple[PastStudy, ...]:
        return tuple(each for each in recorded_studies(family, task) if each.name != dataset)

    remembering.recorded_studies = others  # type: ignore[attr-defined]


def lines() -> list[dict[str, Any]]:
    """Read what was run."""
    return (
        [json.loads(line) for line in LINES.read_text(encoding="utf-8").splitlines()]
        if LINES.exists()
        else []
    )


def request_of(name: str, folder: Path, minutes: float, seed: int) -> Request:
    """Write the benchmark's rows as files of a user, and return the request to search on them."""
    whole = benchmark_dataset(MAIN, name)
    _table(folder / "train.csv", (*whole.train, *whole.validation), whole.labels)
    _table(folder / "test.csv", whole.test, whole.labels)
    return Request.build(
        model=demo_model("classification").path,
        data=str(folder / "train.csv"),
        test_data=str(folder / "test.csv"),
        task="classification",
        space=str(HERE / "space.yaml"),
        budget=Budget(time=60 * minutes),
        seed=seed,
        workspace=str(folder / "workspace"),
        study="live",
    )


def _table(path: Path, rows: Sequence[Example], labels: Sequence[str]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        writer.writerows((row.text, labels[row.label]) for row in rows)


class Watcher:
    """Notes when trainings end and how many rows were trained (an `Observer`)."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.done: list[tuple[float, int, float]] = []
        self.rows = 0
        self._seen: dict[int, int] = {}

    def data_read(self, dataset: Dataset) -> None:
        """Nothing to note."""

    def study_started(self, study: Study, plan: Any, expected_trials: int, expected_seconds: float) -> None:
        """Nothing to note."""

    def trial_started(self, trial: Trial) -> None:
        """Nothing to note."""

    def trial_reported(self, trial: Trial, report: Report) -> None:
        """Count the rows."""
        self.rows += report.samples - self._seen.get(trial.number, 0)
        self._seen[trial.number] = report.samples

    def trial_paused(self, trial: Trial) -> None:
        """Nothing to note."""

    def trial_finished(self, trial: Trial) -> None:
        """Note a whole training."""
        if trial.state == "complete" and trial.result:
            self.done.append((time.monotonic() - self.began, trial.number, trial.result.score))

    def study_finished(self, study: Study) -> None:
        """Nothing to note."""


def ours(request: Request, dataset: str) -> dict[str, Any]:
    """Run autopeft as a user does, to the report."""
    watcher = Watcher()
    facts = pipeline.run(request, [watcher])
    memory = remembering.Memory.read(study_folder(request.workspace, facts.study.name).memory)
    if dataset in memory.shipped:
        raise RuntimeError(f"the search was told of {dataset}, which it was to find out")
    winner = facts.scores[0]
    best = facts.study.best
    return {
        "seconds": time.monotonic() - watcher.began,
        "rows": watcher.rows,
        "trials": sum(trial.state != "rejected" for trial in facts.study.trials),
        "done": [(seconds, str(number), score) for seconds, number, score in watcher.done],
        "winner": winner.label,
        "validation": best.result.score if best and best.result else None,
        "test": winner.test_score,
        "test_rows": facts.data.rows["test"],
    }


def usual(request: Request) -> dict[str, Any]:
    """Let Ray Tune search with TPE and ASHA (its default reduction of 4)."""
    import optuna
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search import ConcurrencyLimiter
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    base, dataset = _read(request)
    space = load_space(request.space)
    began = time.monotonic()
    folder = Path(request.workspace)
    searcher = OptunaSearch(space=partial(suggest, space), metric="score", mode="max", seed=request.seed)
    longest = round(len(dataset.train) * candidates(MAIN)[0].training.epochs)

    def trainable(config: dict[str, Any]) -> None:
        candidate = candidate_of(space, config)
        _train(base, dataset, candidate, request.seed, folder, began, tune.report)

    folder.mkdir(parents=True, exist_ok=True)
    tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        tune_config=tune.TuneConfig(
            metric="score",
            mode="max",
            search_alg=ConcurrencyLimiter(searcher, TOGETHER),
            scheduler=ASHAScheduler("samples", max_t=longest, grace_period=round(longest * SHARES[0])),
            num_samples=-1,
            time_budget_s=float(request.budget.time or 0),
        ),
        run_config=tune.RunConfig(storage_path=str(folder / "ray"), verbose=0),
    ).fit()
    return _summary(base, dataset, folder, request)


def at_random(request: Request) -> dict[str, Any]:
    """Train configurations to their ends in a random order, two side by side."""
    import multiprocessing

    base, dataset = _read(request)
    folder = Path(request.workspace)
    folder.mkdir(parents=True, exist_ok=True)
    order = random.Random(request.seed).sample(candidates(MAIN), GOAL_TRIALS)
    began = time.monotonic()
    until = began + float(request.budget.time or 0)
    context = multiprocessing.get_context("fork")
    crew = [
        context.Process(
            target=_train_all,
            args=(base, dataset, order[place::TOGETHER], request.seed, folder, began, until),
        )
        for place in range(TOGETHER)
    ]
    for worker in crew:
        worker.start()
    for worker in crew:
        worker.join()
    return _summary(base, dataset, folder, request)


def _read(request: Request) -> tuple[BaseModel, Dataset]:
    inputs = load_inputs(request, pipeline.known_profile(request))
    return inputs.base, require_dataset(inputs)


def _train_all(
    base: BaseModel,
    dataset: Dataset,
    some: Sequence[Candidate],
    seed: int,
    folder: Path,
    began: float,
    until: float,
) -> None:
    for candidate in some:
        if time.monotonic() < until:
            _train(base, dataset, candidate, seed, folder, began, lambda _: None)


def _train(
    base: BaseModel,
    dataset: Dataset,
    candidate: Candidate,
    seed: int,
    folder: Path,
    began: float,
    report: Callable[[dict[str, Any]], None],
) -> None:
    """Train as autopeft does, with a report after each share of the rows; note rows and whole trainings."""
    import torch

    from autopeft.errors import TrialError
    from autopeft.methods.registry import complete
    from autopeft.train.trainer import Trainer

    torch.set_num_threads(1)
    trainer = Trainer(base, dataset, complete(candidate), seed=seed)
    seen = 0
    for share in SHARES:
        try:
            result = trainer.advance(round(share * trainer.total_samples))
        except TrialError:
            report({"score": 0.0, "samples": trainer.total_samples})
            return
        with (folder / f"rows-{os.getpid()}").open("a", encoding="utf-8") as file:
            file.write(f"{candidate.key} {result.samples - seen}\n")
        seen = result.samples
        if share == 1:
            trainer.save(folder / f"kept-{candidate.key}")
            line = (time.monotonic() - began, candidate.key, result.score)
            with (folder / f"done-{os.getpid()}").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        report({"score": result.score, "samples": result.samples})


def _summary(base: BaseModel, dataset: Dataset, folder: Path, request: Request) -> dict[str, Any]:
    """Score the best of what ended in time on the test rows."""
    from autopeft.methods.registry import complete
    from autopeft.train.trainer import Trainer

    until = float(request.budget.time or 0)
    done: list[Done] = sorted(
        tuple(json.loads(line))
        for path in folder.glob("done-*")
        for line in path.read_text(encoding="utf-8").splitlines()
    )
    done = [each for each in done if each[0] <= until]
    pieces = [
        line.split()
        for path in folder.glob("rows-*")
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    best = max(done, key=lambda each: each[2])
    candidate = next(each for each in candidates(MAIN) if each.key == best[1])
    trainer = Trainer(base, dataset, complete(candidate), seed=request.seed)
    trainer.restore(folder / f"kept-{candidate.key}")
    return {
        "seconds": until,
        "rows": sum(int(rows) for _, rows in pieces),
        "trials": len({key for key, _ in pieces}),
        "done": done,
        "winner": candidate.label,
        "validation": best[2],
        "test": trainer.evaluate("test").score,
        "test_rows": len(dataset.test),
    }


def _write(names: Sequence[str]) -> None:
    table = [
        "| dataset | search | minutes | trials | rows | winner | validation | test [95 %] | "
        "seconds until TPE + ASHA's best |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in names:
        mine = [line for line in lines() if line["dataset"] == name]
        goal = max(
            (score for line in mine if line["who"] == USUAL for _, _, score in line["done"]), default=1
        )
        for line in mine:
            reached = min((each[0] for each in line["done"] if each[2] >= goal), default=None)
            low, high = wilson(round(line["test"] * line["test_rows"]), line["test_rows"])
            cells = (
                name,
                line["who"],
                f"{line['seconds'] / 60:.1f}",
                f"{line['trials']}",
                f"{line['rows']:,}",
                line["winner"],
                f"{line['validation']:.3f}",
                f"{line['test']:.3f} [{low:.3f}, {high:.3f}]",
                "never" if reached is None else f"{reached:.0f}",
            )
            table.append(f"| {' | '.join(cells)} |")
    text = (HERE / "README.md").read_text(encoding="utf-8")
    mark = re.compile(r"(<!-- live -->\n).*?(<!-- end -->)", re.DOTALL)
    write_atomically(HERE / "README.md", mark.sub(lambda m: m[1] + "\n".join(table) + "\n" + m[2], text))


if __name__ == "__main__":
    main()
