"""Watch: ends a trial that hangs or overruns the time budget, and sees what the kernel kills for memory."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.tune import Callback

from autopeft.search.halving import Rungs
from autopeft.search.study import Trial
from autopeft.units import format_seconds

FACTOR = 10.0
"""A piece of a training may take so many times what was predicted for it."""

FLOOR_SECONDS = 300.0
"""It may always take so long: the start of a process and the loading of a model are in it."""

_OOM_KILLS = (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat"))


def piece_limit(trial: Trial, rungs: Rungs, seen: int, floor: float) -> float | None:
    """Return how many seconds a trial may take until its next evaluation; None where nothing is predicted.

    Args:
        seen: training rows at its last evaluation.
        floor: seconds that it may always take.
    """
    predicted = trial.predicted.run_seconds if trial.predicted else None
    left = rungs.left(seen)
    if predicted is None or not left:
        return None
    share = (left[0] - seen) / rungs.length(trial.candidate)
    return max(floor, FACTOR * predicted * share)


class Watch(Callback):
    """Tune's callback: kills the process of a trial that is silent for too long.

    Args:
        limit: seconds that a trial, by its number, may take until its next evaluation.
        overdue: told a trial's number and the reason before its process is killed.
        overrun: says whether a trial has run past the end of the time budget.
    """

    def __init__(
        self,
        limit: Callable[[int], float | None],
        overdue: Callable[[int, str], None],
        overrun: Callable[[int], bool] = lambda _: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit, self._overdue, self._clock = limit, overdue, clock
        self._overrun = overrun
        self._since: dict[int, float] = {}

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """Leave processes out of the copies that Tune keeps for a resumption of its own."""
        return type(None), ()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        """Begin to count."""
        self._since[trial.config["number"]] = self._clock()

    on_trial_recover = on_trial_start

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Begin to count anew."""
        del result
        self.on_trial_start(iteration, trials, trial, **info)

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:  # noqa: ARG002
        """Look at every running trial; called ten times a second."""
        for trial in trials:
            if trial.status != trial.RUNNING or (actor := trial.temporary_state.ray_actor) is None:
                continue
            number = trial.config["number"]
            now, limit = self._clock(), self._limit(number)
            waited = now - self._since.setdefault(number, now)
            if self._overrun(number):
                _kill(trial, actor)
            elif limit is not None and waited > limit:
                self._since[number] = now
                self._overdue(
                    number,
                    f"hung: no evaluation within {format_seconds(limit)} "
                    f"({FACTOR:g} times what was predicted, or the least that is granted)",
                )
                _kill(trial, actor)


def _kill(trial: Any, actor: Any) -> None:
    """End a trial's process; it is not started again."""
    trial.max_failures = 0
    ray.kill(actor)


def memory_kills() -> int:
    """Return how many processes the kernel has killed for memory, here or on this machine; 0 where unknown.

    In this control group where it counts them, else since the machine started.
    """
    for counters in _OOM_KILLS:
        with contextlib.suppress(OSError):
            for line in counters.read_text(encoding="ascii").split("\n"):
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    return 0
