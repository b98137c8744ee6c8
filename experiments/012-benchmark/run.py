"""Hold searches against each other on what was recorded: `python experiments/012-benchmark/run.py`.

Every contender searches every completely recorded dataset with the same seeds. Writes `results.json`, its
table of the README and `regret.svg`; with `--of held-out`, the same of the held-out dataset.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from contenders import in_order, others_of, random_search, tpe_with_asha
from record import HELD_OUT, HERE, MAIN, Recording, candidates
from replay import ACCURACY, Trace, load, simulate

from autopeft.files import write_atomically
from autopeft.search.experience import Experience
from autopeft.search.freeze_thaw import FreezeThaw
from autopeft.space.candidate import Candidate
from autopeft.space.search_space import typical

OUTCOMES = {"main": (MAIN, "results.json", "table"), "held-out": (HELD_OUT, "held-out.json", "held-out")}
"""By what is searched: the recording, the file of results, and where the table is in the README."""
TRIALS = 64
"""Complete trainings of the random search that sets the goal."""
CONTENDERS = (
    "random",
    "TPE + ASHA/2",
    "TPE + ASHA/4",
    "TPE + ASHA/2 by log loss",
    "freeze-thaw",
    "freeze-thaw, default first",
    "experience alone",
    "freeze-thaw with experience",
    "freeze-thaw with experience, default first",
)
CHOSEN_ON = {"movies": range(8), "tweets": range(8)}
"""Seeds that settings of freeze-thaw were chosen on, by dataset; with experience, those of all."""
GRID = 64


def main() -> None:
    """Run all that is missing, then write what it comes to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--again", action="store_true", help="forget what was run before")
    parser.add_argument("--of", default="main", choices=OUTCOMES)
    arguments = parser.parse_args()
    of, file, mark = OUTCOMES[arguments.of]
    found: dict[str, Any] = {}
    if (HERE / file).exists() and not arguments.again:
        found = json.loads((HERE / file).read_text(encoding="utf-8"))
    whole = [name for name in of.datasets if len(load(name, of).candidates()) == len(candidates(of))]
    jobs = [
        (of, name, seed, missing)
        for name in whole
        for seed in range(arguments.seeds)
        if (missing := _missing(found.get(f"{name} {seed}")))
    ]
    with multiprocessing.get_context("spawn").Pool(arguments.workers) as pool:
        for (_, name, seed, _), result in zip(jobs, pool.imap(_race, jobs), strict=True):
            before = found.setdefault(f"{name} {seed}", result)
            for part in ("reached", "curve"):
                before[part] |= result[part]
            write_atomically(HERE / file, json.dumps(found) + "\n")
    _write(found, of.datasets, mark)


def _missing(race: dict[str, Any] | None) -> tuple[str, ...]:
    return tuple(who for who in CONTENDERS if race is None or who not in race["reached"])


def _race(job: tuple[Recording, str, int, Sequence[str]]) -> dict[str, Any]:
    """Let contenders search a dataset from one seed.

    Returns:
        the goal, and by contender the rows and seconds until it was reached (None if it was not), and the
        best score so far after each of `GRID` equal parts of the random search's rows.
    """
    of, name, seed, missing = job
    table = load(name, of)
    random_trace = random_search(table, seed, TRIALS)
    goal, rows = random_trace.best[-1], float(random_trace.samples[-1])

    def asha(reduction: int, *, by_loss: bool = False) -> Trace:
        return tpe_with_asha(
            table, seed, reduction=reduction, budget_samples=rows, enough=goal, by_loss=by_loss
        )

    def freeze_thaw(default: Candidate | None, known: Experience | None = None) -> Trace:
        strategy = FreezeThaw(
            *(table.space, table.rungs), seed=seed, metric=ACCURACY, warm=(), runs=1, experience=known
        )
        return simulate(table, strategy, budget_samples=rows, enough=goal, baseline=default)[1]

    runs = {
        "random": lambda: random_trace,
        "TPE + ASHA/2": lambda: asha(2),
        "TPE + ASHA/4": lambda: asha(4),
        "TPE + ASHA/2 by log loss": lambda: asha(2, by_loss=True),
        "freeze-thaw": lambda: freeze_thaw(None),
        "freeze-thaw, default first": lambda: freeze_thaw(typical(table.space, {})),
        "experience alone": lambda: in_order(table, others_of(name), rows),
        "freeze-thaw with experience": lambda: freeze_thaw(None, others_of(name)),
        "freeze-thaw with experience, default first": lambda: freeze_thaw(
            typical(table.space, {}), others_of(name)
        ),
    }
    traces = {who: runs[who]() for who in missing}
    return {
        "goal": goal,
        "top": max(recording.points[-1].score for recording in table.recordings.values()),
        "rows": rows,
        "seconds": random_trace.seconds[-1],
        "reached": {who: _finite(trace.until(goal)) for who, trace in traces.items()},
        "curve": {who: _curve(trace, rows) for who, trace in traces.items()},
    }


def _finite(reached: tuple[float, float]) -> list[float] | None:
    return list(reached) if math.isfinite(reached[0]) else None


def _curve(trace: Trace, rows: float) -> list[float]:
    """Return the best score so far after each part of `rows`; 0 before the first training ended."""
    curve = []
    for part in range(1, GRID + 1):
        known = [
            best for seen, best in zip(trace.samples, trace.best, strict=True) if seen <= rows * part / GRID
        ]
        curve.append(max(0.0, known[-1]) if known else 0.0)
    return curve


def _write(found: dict[str, Any], datasets: Sequence[str], place: str) -> None:
    names = [name for name in datasets if any(key.startswith(f"{name} ") for key in found)]
    lines = [
        "| dataset | contender | reached | rows, mean | times fewer than 64 random trainings [95 %] | "
        "times fewer seconds | times fewer, seeds that nothing was chosen on |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in names:
        races = {int(key.split()[1]): race for key, race in found.items() if key.startswith(f"{name} ")}
        unseen = [race for seed, race in races.items() if seed not in CHOSEN_ON.get(name, ())]
        for who in CONTENDERS:
            every = list(races.values())
            reached = sum(race["reached"][who] is not None for race in every)
            rows, fewer = _fewer(every, who)
            seconds = statistics.fmean(race["seconds"] for race in every) / statistics.fmean(
                race["reached"][who][1] if race["reached"][who] else race["seconds"] for race in every
            )
            untouched = "-" if "with experience" in who and name in MAIN.datasets else _fewer(unseen, who)[1]
            lines.append(
                f"| {name} | {who} | {reached} of {len(every)} | {rows:,.0f} | {fewer} | {seconds:.1f} | "
                f"{untouched} |"
            )
    text = (HERE / "README.md").read_text(encoding="utf-8")
    mark = re.compile(rf"(<!-- {place} -->\n).*?(<!-- end -->)", re.DOTALL)
    write_atomically(HERE / "README.md", mark.sub(lambda m: m[1] + "\n".join(lines) + "\n" + m[2], text))
    if datasets == MAIN.datasets:
        _plot(found, names, HERE / "regret.svg")


def _fewer(races: Sequence[dict[str, Any]], who: str) -> tuple[float, str]:
    """Return the mean rows until the goal, and how many times fewer they are than the random search's.

    Who did not get there has spent all, and more: the ratio flatters it.
    """
    rows = [race["reached"][who][0] if race["reached"][who] else race["rows"] for race in races]
    low, high = _interval(rows, races[0]["rows"])
    return statistics.fmean(rows), f"{races[0]['rows'] / statistics.fmean(rows):.1f} [{low:.1f}, {high:.1f}]"


def _interval(rows: Sequence[float], whole: float) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of `whole` over the mean of `rows`."""
    rng = np.random.default_rng(0)
    drawn = rng.choice(np.asarray(rows), (2000, len(rows))).mean(1)
    return whole / float(np.quantile(drawn, 0.975)), whole / float(np.quantile(drawn, 0.025))


def _plot(found: dict[str, Any], names: Sequence[str], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        1, len(names), figsize=(4.2 * len(names), 3.4), squeeze=False, layout="constrained"
    )
    for axis, name in zip(axes[0], names, strict=True):
        races = [race for key, race in found.items() if key.startswith(f"{name} ")]
        at = np.arange(1, GRID + 1) * races[0]["rows"] / GRID / 1000
        for who in CONTENDERS:
            regret = np.array([[race["top"] - score for score in race["curve"][who]] for race in races]) * 100
            mean, error = regret.mean(0), 1.96 * regret.std(0, ddof=1) / math.sqrt(len(races))
            (line,) = axis.plot(at, mean, label=who)
            axis.fill_between(at, mean - error, mean + error, color=line.get_color(), alpha=0.2)
        axis.set(title=name, xlabel="thousand training rows", ylim=(0, 10))
    axes[0][0].set_ylabel("points below the best of the table")
    axes[0][0].legend()
    figure.savefig(path)


if __name__ == "__main__":
    main()
