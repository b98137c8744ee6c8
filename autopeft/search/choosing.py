"""Choosing: which of several configurations is best, where each was trained once or a few times. Pure.

Two trainings of one configuration from different seeds differ by about two points on small data, so that
the highest of many scores is mostly luck. Scores are shrunk towards their mean as far as repetitions show
them to be noise (James and Stein 1961, in the empirical Bayes form of Efron and Morris 1975).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from autopeft.train.result import Report
from autopeft.workload.dataset import Metric


def noise_variance(runs: Sequence[Sequence[float]]) -> float | None:
    """Return the variance between trainings of one configuration, pooled; None where none was repeated."""
    repeated = [scores for scores in runs if len(scores) > 1]
    if not repeated:
        return None
    freedom = sum(len(scores) - 1 for scores in repeated)
    return sum(statistics.variance(scores) * (len(scores) - 1) for scores in repeated) / freedom


def shrunk_means(runs: Sequence[Sequence[float]]) -> list[float]:
    """Return what is to be expected of each configuration, from the scores of its trainings.

    Derivation: with noise variance s2 of a training, pooled over repetitions, and t2 the variance between
    configurations, the mean m of n scores is expected to be M + (m - M) * t2 / (t2 + s2 / n), M being the
    mean of all. Without repetitions nothing tells noise from merit, and the means stay as they are.

    Args:
        runs: scores of each configuration, at least one each.
    """
    means = [statistics.fmean(scores) for scores in runs]
    noise = noise_variance(runs)
    if noise is None or len(runs) < 2:
        return means
    middle = statistics.fmean(means)
    of_noise = statistics.fmean(noise / len(scores) for scores in runs)
    between = max(statistics.variance(means) - of_noise, _LEAST_BETWEEN * noise)
    if not between:
        return means
    return [
        middle + (mean - middle) * between / (between + noise / len(scores))
        for mean, scores in zip(means, runs, strict=True)
    ]


_LEAST_BETWEEN = 0.1
"""Configurations are believed to differ by at least this share of the noise, so that one can be chosen."""


def standing(reports: Sequence[Report], metric: Metric) -> tuple[bool, float]:
    """Return what orders trials by their last score, better ones higher, those without one lowest."""
    sign = 1 if metric.direction == "maximize" else -1
    return (True, sign * reports[-1].score) if reports and reports[-1].is_finite else (False, 0.0)
