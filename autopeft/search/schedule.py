"""Schedule: how many candidates a time budget pays for, and how they share the machine. Pure."""

from __future__ import annotations

import math
import statistics

from autopeft.hardware.profile import HardwareProfile
from autopeft.message import Message
from autopeft.plan.plan import Plan
from autopeft.search.halving import Rungs
from autopeft.units import format_seconds
from autopeft.workload.dataset import Dataset

MOST_SIDE_BY_SIDE = 4
DEFAULT_TRIALS = 16
EXPORT_SECONDS = 15.0
"""Loading the base anew, writing the bundle and checking it, and the report, on an idle machine."""
START_SECONDS = 10.0
"""Starting the processes that train, on an idle machine."""


class Schedule(Message):
    """How a search spends its time.

    Attributes:
        trials: candidates to start, the baseline not counted.
        concurrent: trials side by side.   threads: CPU threads of each.
        expected_seconds: predicted wall time of the search.
    """

    trials: int
    concurrent: int
    threads: int
    expected_seconds: float


def most_side_by_side(profile: HardwareProfile) -> int:
    """Return how many trials a device computes at once: on a CPU one a core, on a GPU one."""
    return max(1, min(profile.cores, MOST_SIDE_BY_SIDE)) if profile.device == "cpu" else 1


def sharers_of(profile: HardwareProfile) -> int:
    """Return among how many trials a profile shares its device; what older studies kept does not say."""
    if profile.share_of is None:
        return 1
    return profile.sharers or most_side_by_side(profile)


def side_by_side(plan: Plan, memory_limit: int) -> int:
    """Return how many of the trials that share a plan's device run at once within the memory limit."""
    largest = max((fit.estimate.memory.high_bytes for fit in plan.fits), default=memory_limit)
    return max(1, min(sharers_of(plan.profile), memory_limit // largest))


def share_of(profile: HardwareProfile, trials: int) -> HardwareProfile:
    """Return what one of several trials side by side gets of a CPU: its share of speed and bandwidth."""
    return profile.model_copy(
        update={
            "share_of": profile.digest,
            "sharers": trials,
            "matmul_flops": {dtype: flops / trials for dtype, flops in profile.matmul_flops.items()},
            "bandwidth_bytes_per_second": profile.bandwidth_bytes_per_second / trials,
            "operators": {name: speed.shared(trials) for name, speed in profile.operators.items()},
        }
    )


def too_short(plan: Plan, seconds: float, beside: float) -> str:
    """Say that no training may end within the time for the search; empty where one is sure to.

    Args:
        seconds: of the search.   beside: that the session takes for other things.
    """
    ends = [
        (run, run * fit.estimate.time.high_seconds / fit.estimate.time.step_seconds)
        for fit in plan.fits
        if (run := fit.estimate.run_seconds) is not None
    ]
    if not ends or min(high for _, high in ends) <= seconds:
        return ""
    run, high = min(ends, key=lambda end: end[1])
    enough = 60 * math.ceil((beside + START_SECONDS + high) / 60)
    return (
        f"the search has {format_seconds(seconds)}, and the quickest that was planned trains for about "
        f"{format_seconds(run)}, perhaps for {format_seconds(high)}: it may end with nothing to export; "
        f"to be sure of one takes at least {format_seconds(enough)} in all"
    )


def cost_share(rungs: Rungs) -> float:
    """Return the mean share of a whole training that successive halving spends on a candidate.

    Derivation: all candidates train to the first rung, 1/reduction of them to the second, and so on.
    """
    total = rungs.samples[-1]
    share, survivors, before = 0.0, 1.0, 0
    for samples in rungs.samples:
        share += survivors * (samples - before) / total
        survivors, before = survivors / rungs.reduction, samples
    return share


def conclusion_seconds(plan: Plan, dataset: Dataset, *, refit: bool = False) -> float:
    """Return about how long the test scores and the export take: what a search leaves of its time.

    The winner and the default score the test rows, the probe reads all rows once, each as fast as the slowest
    configuration that fits evaluates; a refit trains as long as the slowest, on the validation rows too. Each
    has the whole machine.
    """
    again = 0.0
    if refit:
        runs = (fit.estimate.run_seconds or 0.0 for fit in plan.fits)
        again = max(runs, default=0.0) * (1 + len(dataset.validation) / len(dataset.train))
    row = max((fit.estimate.time.evaluation_row_seconds for fit in plan.fits), default=0.0)
    tested = len(dataset.test)
    shared = again + row * (3 * tested + len(dataset.train) + len(dataset.validation))
    # Unlike the measured speeds, the time that the export takes knows nothing of other work yet.
    return EXPORT_SECONDS / (1 - plan.profile.doubt) + shared / sharers_of(plan.profile)


def make_schedule(
    plan: Plan,
    rungs: Rungs,
    *,
    seconds: float | None,
    trials: int | None,
    concurrent: int,
    repetitions: int = 0,
    nodes: int = 1,
) -> Schedule:
    """Choose the number of candidates: as many as the time pays for, unless it is given.

    The last training of all runs alone. Left out: the start of the workers.

    Args:
        plan: how long trainings take where as many share the machine as its profile says.
        seconds: wall time for training; None where there is no limit.
        concurrent: trials side by side on one machine.   nodes: machines like it.
        repetitions: whole trainings of leaders from other seeds, after the candidates.
    """
    runs = [fit.estimate.run_seconds for fit in plan.fits if fit.estimate.run_seconds is not None]
    whole = statistics.median(runs) * concurrent / sharers_of(plan.profile) if runs else 0.0
    each = whole * cost_share(rungs) / (concurrent * nodes)
    beside = whole * (1 + repetitions / (concurrent * nodes))
    count = DEFAULT_TRIALS
    if trials is not None:
        count = trials
    elif seconds is not None and each > 0:
        count = max(1, int((seconds - beside) / each))
    return Schedule(
        trials=count,
        concurrent=concurrent,
        threads=max(1, plan.profile.cores // concurrent),
        expected_seconds=min(beside + count * each, math.inf if seconds is None else seconds),
    )
