"""Aside: which of the trainings that a search leaves half-way can go on when the study does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from autopeft.search.choosing import standing
from autopeft.search.study import Trial, TrialState
from autopeft.train.result import Report
from autopeft.workload.dataset import Metric

MOST_KEPT = 8
"""So many can go on; the checkpoints of others go."""


def left_aside(
    trials: Iterable[Trial], reports: Mapping[int, Sequence[Report]], metric: Metric
) -> Iterator[tuple[int, TrialState]]:
    """Yield the number of each trial that is under way, and what it becomes: the best can go on.

    The default always can, as a study that goes on compares with it.
    """
    every = list(trials)
    room = MOST_KEPT - sum(trial.state == "paused" for trial in every)
    under_way = [trial for trial in every if trial.state == "running"]
    ranked = sorted(
        under_way,
        key=lambda trial: (trial.role == "baseline", standing(reports[trial.number], metric)),
        reverse=True,
    )
    for place, trial in enumerate(ranked):
        yield trial.number, "paused" if place < room or trial.role == "baseline" else "stopped"


def why_aside(reports: Sequence[Report], *, late: bool) -> str:
    """Return why a trial was left, by its evaluations.

    Args:
        late: its next piece, or the whole of what had no evaluation yet, would have ended after the search.
    """
    where = f"after {reports[-1].samples} rows" if reports else "before its first evaluation"
    return f"set aside {where}: {'the time was spent' if late else 'others promised more'}"
