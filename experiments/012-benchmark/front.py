"""Fronts of quality against trained share: `python experiments/012-benchmark/front.py`.

On AutoPEFT's space in small, recorded whole, random search, NSGA-II and autopeft's search for a front spend
the same training rows. What counts is the area under the front of validation accuracy (and of the test
accuracy of the same trainings) against the logarithm of the trained share, as a part of the whole table's.
Writes `front.json`, a seed at a time (what is there is not searched again), and its table in the README.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import re
from collections.abc import Iterable, Sequence

import numpy as np
from contenders import random_search, train
from record import HERE, PAPER, candidates
from replay import ACCURACY, Table, Trace, admit, load, simulate
from scipy.stats import sem, t

from autopeft.files import write_atomically
from autopeft.plan.plan import Fits
from autopeft.search.encoding import Encoding
from autopeft.search.freeze_thaw import FreezeThaw
from autopeft.search.front import Point, front, hypervolume
from autopeft.search.frontier import Frontier
from autopeft.search.optuna_searcher import Nsga2Searcher
from autopeft.search.study import Trial
from autopeft.train.result import TrialResult

RESULTS = HERE / "front.json"
OURS = "freeze-thaw --front share"
CONTENDERS = ("random", "NSGA-II", OURS)
BUDGETS = (25, 50, 100, 200)
"""Whole trainings' worth of rows."""


def main() -> None:
    """Let everybody search, then measure the fronts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    table = load("tweets", PAPER)
    known = len({key for key, _ in table.recordings})
    print(f"{known} of {len(candidates(PAPER))} configurations are recorded")
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    lacking = [seed for seed in range(arguments.seeds) if str(seed) not in found]
    with multiprocessing.get_context("spawn").Pool(arguments.workers) as pool:
        for seed, made in pool.imap_unordered(_of_seed, lacking):
            found[str(seed)] = made
            write_atomically(RESULTS, json.dumps(dict(sorted(found.items()))) + "\n")
            _write(list(found.values()))
            print(f"seed {seed} is done, {len(found)} in all", flush=True)


def _of_seed(seed: int) -> tuple[int, dict[str, dict[str, list[float]]]]:
    return seed, areas(seed)


def areas(seed: int) -> dict[str, dict[str, list[float]]]:
    """Return for each contender the area on validation and test rows after each of the budgets."""
    table = load("tweets", PAPER)
    rows = BUDGETS[-1] * table.rungs.samples[-1]
    frontier = Frontier("share", lambda candidate: admit(table, candidate), Encoding(table.space))
    strategy = FreezeThaw(
        *(table.space, table.rungs), seed=seed, metric=ACCURACY, warm=(), runs=1, frontier=frontier
    )
    traces = {
        "random": random_search(table, seed, BUDGETS[-1]),
        "NSGA-II": _nsga2(table, seed, rows),
        OURS: simulate(table, strategy, budget_samples=rows)[1],
    }
    return {
        who: {
            kind: [_area(table, trace, budget * table.rungs.samples[-1], kind) for budget in BUDGETS]
            for kind in ("validation", "test")
        }
        for who, trace in traces.items()
    }


def _nsga2(table: Table, seed: int, rows: int) -> Trace:
    """Train what NSGA-II proposes, each to its end."""
    trace = Trace()
    searcher = Nsga2Searcher(table.space, seed=seed, metric=ACCURACY)
    number = 0
    while (not trace.samples or trace.samples[-1] < rows) and (candidate := searcher.propose()) is not None:
        verdict = admit(table, candidate)
        trial = Trial(number=number, role="candidate", candidate=candidate, state="rejected")
        if isinstance(verdict, Fits):
            train(trace, table, candidate)
            score = table.recordings[candidate.key, 0].points[-1].score
            result = TrialResult.model_validate(
                {"state": "complete", "reports": (_report(score),), "reason": ""}
            )
            change = {"state": "complete", "predicted": verdict.estimate, "result": result}
            trial = trial.model_copy(update=change)
        searcher.observe(trial)
        number += 1
    return trace


def _report(score: float) -> dict[str, float | None]:
    rows = dict.fromkeys(("samples", "step", "seconds", "step_seconds", "peak_bytes"), 1)
    return {**rows, "loss": None, "score": score}


def _area(table: Table, trace: Trace, rows: float, kind: str) -> float:
    """Return the area of the front that validation shows, over that of the whole table."""
    done = {key for spent, key in trace.finished if spent <= rows}
    return _measured(table, done, kind) / _measured(table, {key for key, _ in table.recordings}, kind)


def _measured(table: Table, keys: Iterable[str], kind: str) -> float:
    every = [training for training in table.recordings.values() if training.trained]
    dearest = math.log(max(training.trained for training in every)) + 1e-9
    worst = min(training.points[-1].score if kind == "validation" else training.test for training in every)
    some = {key: table.recordings[key, 0] for key in sorted(keys) if table.recordings[key, 0].trained}
    shown = front(
        (Point(n, each.points[-1].score, math.log(each.trained)) for n, each in enumerate(some.values())),
        ACCURACY,
    )
    if kind == "test":
        tests = [each.test for each in some.values()]
        shown = tuple(point._replace(score=tests[point.number]) for point in shown)
    return hypervolume(shown, ACCURACY, score=worst, cost=dearest)


def _write(found: Sequence[dict[str, dict[str, list[float]]]]) -> None:
    lines = [
        f"{len(found)} seeds:",
        "",
        "| contender | rows | " + " | ".join(f"{budget} trainings" for budget in BUDGETS) + " |",
        "|---|---|" + "---|" * len(BUDGETS),
    ]
    for kind in ("validation", "test"):
        for who in CONTENDERS:
            cells = []
            for place in range(len(BUDGETS)):
                values = np.array([one[who][kind][place] for one in found])
                error = sem(values) * t.ppf(0.975, len(values) - 1) if len(values) > 1 else math.nan
                cells.append(f"{values.mean():.3f} ± {error:.3f}")
            lines.append(f"| {who} | {kind} | " + " | ".join(cells) + " |")
    text = (HERE / "README.md").read_text(encoding="utf-8")
    mark = re.compile(r"(<!-- front -->\n).*?(<!-- end -->)", re.DOTALL)
    write_atomically(HERE / "README.md", mark.sub(lambda m: m[1] + "\n".join(lines) + "\n" + m[2], text))


if __name__ == "__main__":
    main()
