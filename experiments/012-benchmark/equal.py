"""What each way finds for the same money: `python experiments/012-benchmark/equal.py`.

Everybody may train as many rows as 16 whole trainings take, proposes the training with the best validation
score, and is judged by its accuracy on test rows that nobody has looked at. Writes `equal.json` and its table
in the README.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from contenders import others_of, random_search, tpe_with_asha, train
from numpy.typing import NDArray
from record import HERE, MAIN, candidates, recorded
from replay import ACCURACY, Table, Trace, load, simulate

from autopeft.files import write_atomically
from autopeft.search.experience import Experience
from autopeft.search.freeze_thaw import FreezeThaw
from autopeft.space.candidate import Candidate
from autopeft.space.search_space import typical

RESULTS = HERE / "equal.json"
TRAININGS = 16
BLANK, OURS = "freeze-thaw, default first", "freeze-thaw with experience, default first"
DEFAULT, TUNED = "LoRA r=8, default", "LoRA, rank and rate tuned"
CONTENDERS = (DEFAULT, TUNED, "random", "TPE + ASHA/2", BLANK, OURS)


def main() -> None:
    """Let everybody choose, then compare what they chose."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--again", action="store_true", help="forget what was run before")
    arguments = parser.parse_args()
    whole = [name for name in MAIN.datasets if len(load(name).candidates()) == len(candidates())]
    chosen: dict[str, dict[str, str]] = {}
    if RESULTS.exists() and not arguments.again:
        chosen = json.loads(RESULTS.read_text(encoding="utf-8"))
    jobs = [
        (name, seed, missing)
        for name in whole
        for seed in range(arguments.seeds)
        if (missing := tuple(who for who in CONTENDERS if who not in chosen.get(f"{name} {seed}", {})))
    ]
    with multiprocessing.get_context("spawn").Pool(arguments.workers) as pool:
        for (name, seed, _), found in zip(jobs, pool.imap(choices, jobs), strict=True):
            chosen.setdefault(f"{name} {seed}", {}).update(found)
            write_atomically(RESULTS, json.dumps(chosen) + "\n")
    _write(chosen, whole, arguments.seeds)


def choices(job: tuple[str, int, Sequence[str]]) -> dict[str, str]:
    """Return the key of the candidate that each of some contenders proposes in the end."""
    name, seed, missing = job
    table = load(name)
    rows = TRAININGS * table.rungs.samples[-1]
    default = typical(table.space, {})

    def freeze_thaw(known: Experience | None) -> Trace:
        trace = Trace()
        strategy = FreezeThaw(
            *(table.space, table.rungs),
            seed=seed,
            metric=ACCURACY,
            warm=(),
            experience=known,
            runs=1,
            share_left=lambda: 1 - (trace.samples[-1] if trace.samples else 0) / rows,
        )
        simulate(table, strategy, budget_samples=rows, baseline=default, trace=trace)
        return trace

    searches = {
        DEFAULT: lambda: _trained(table, [default]),
        TUNED: lambda: _trained(table, _like(table, default)),
        "random": lambda: random_search(table, seed, TRAININGS),
        "TPE + ASHA/2": lambda: tpe_with_asha(table, seed, reduction=2, budget_samples=rows),
        BLANK: lambda: freeze_thaw(None),
        OURS: lambda: freeze_thaw(others_of(name)),
    }
    return {who: searches[who]().chosen for who in missing}


def _like(table: Table, default: Candidate) -> list[Candidate]:
    """Return the default's candidates of every rank and learning rate: 15."""
    return [
        each
        for each in table.candidates()
        if (each.method, each.targets, each.layers) == (default.method, default.targets, default.layers)
    ]


def _trained(table: Table, some: Sequence[Candidate]) -> Trace:
    trace = Trace()
    for candidate in some:
        train(trace, table, candidate)
    return trace


def _write(chosen: dict[str, dict[str, str]], names: Sequence[str], seeds: int) -> None:
    lines = [
        "| dataset | contender | test accuracy, mean | lowest to highest | freeze-thaw above it [95 %] |",
        "|---|---|---|---|---|",
    ]
    for name in names:
        right = {
            key: _bits(row)
            for (dataset, key, seed), row in recorded().items()
            if (dataset, seed) == (name, 0)
        }
        by_who = {
            who: np.stack([right[chosen[f"{name} {seed}"][who]] for seed in range(seeds)])
            for who in CONTENDERS
        }
        for who, rows in by_who.items():
            means = rows.mean(1)
            lead = "-" if who == OURS else _lead(by_who[OURS] - rows)
            lines.append(
                f"| {name} | {who} | {means.mean():.3f} | {means.min():.3f} to {means.max():.3f} | {lead} |"
            )
    text = (HERE / "README.md").read_text(encoding="utf-8")
    mark = re.compile(r"(<!-- equal -->\n).*?(<!-- end -->)", re.DOTALL)
    write_atomically(HERE / "README.md", mark.sub(lambda m: m[1] + "\n".join(lines) + "\n" + m[2], text))


def _bits(row: dict[str, Any]) -> NDArray[np.float64]:
    """Return which test rows were right, (rows,)."""
    digits = row["right"]
    count = 4 * len(digits)
    return np.array([int(bit) for bit in f"{int(digits, 16):0{count}b}"], dtype=float)


def _lead(difference: NDArray[np.float64]) -> str:
    """Show the mean of differences, (seeds, rows), in points, with both seeds and test rows drawn anew."""
    rng = np.random.default_rng(0)
    seeds, rows = difference.shape
    means = [
        difference[rng.integers(0, seeds, seeds)][:, rng.integers(0, rows, rows)].mean() for _ in range(2000)
    ]
    low, high = np.quantile(means, (0.025, 0.975))
    return f"{100 * difference.mean():+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


if __name__ == "__main__":
    main()
