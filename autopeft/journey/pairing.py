"""Pairing: how much more one scores than another on the same rows, with its interval."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from autopeft.report.intervals import bootstrap_interval, mean_interval, paired_difference
from autopeft.workload.tasks import Metric

if TYPE_CHECKING:
    from autopeft.train.scoring import Facts


def lead(metric: Metric, one: Facts, other: Facts) -> tuple[float, float, float]:
    """Return the first's score less the other's with its paired 95 % interval.

    Args:
        one, other: what the same rows contributed, in the same order, (rows, numbers).
    """
    match metric.interval:
        case "proportion":
            return paired_difference((one[:, 0] > 0).tolist(), (other[:, 0] > 0).tolist())
        case "mean":
            differences = (one[:, 0] - other[:, 0]).tolist()
            return (sum(differences) / len(differences), *mean_interval(differences))
        case "bootstrap":
            from autopeft.train.scoring import f1  # loads torch, which the other metrics do without

            found = f1(one) - f1(other)
            low, high = bootstrap_interval(len(one), lambda rows: f1(one[rows]) - f1(other[rows]))
            return found, min(low, found), max(high, found)
        case _:
            assert_never(metric.interval)
