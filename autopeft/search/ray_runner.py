"""Ray Tune as executor: trials in worker processes, decided by the same `Search` as everywhere."""

from __future__ import annotations

import contextlib
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from autopeft.errors import AutopeftError, StorageError
from autopeft.search.desk import CutOff, Failure, checkpoint_folder
from autopeft.search.executor import settle
from autopeft.search.loop import Search
from autopeft.search.oversight import oversee
from autopeft.search.ray_start import count_slots, inspect_nodes, ray_at, ray_here
from autopeft.search.ray_worker import OUTCOME, Worker, unpack
from autopeft.search.searcher import RunFactory
from autopeft.search.shelf import start_shelf
from autopeft.search.strategy import Decision
from autopeft.search.study import Trial
from autopeft.search.watch import FLOOR_SECONDS, Watch, memory_kills, piece_limit
from autopeft.train.result import Report

COUNTED_EVERY_SECONDS = 30.0
"""So much time of a search that is killed outright is not counted, at most."""
RESTARTS = 2
"""How often a trial goes on from its last checkpoint after its process or its node died."""


def run_on_ray(
    search: Search,
    factory: RunFactory,
    *,
    seed: int,
    concurrent: int,
    threads_per_trial: int,
    folder: Path,
    gpus_per_trial: float = 0,
    address: str | None = None,
    needed: Sequence[Path] = (),
    hang_seconds: float = FLOOR_SECONDS,
) -> None:
    """Train the trials of a search in worker processes of Ray, on this machine or on a cluster.

    Worker processes are kept from trial to trial. A checkpoint is in the study's folder before its
    report counts, so a killed search goes on where it was. A trial whose process or node died goes
    on from its last checkpoint; one that hangs is ended; one that runs a minute past the deadline is
    cut off, its last checkpoint kept. An interrupt (Ctrl-C) leaves Ray and the running trials in the
    store as they are.

    Args:
        search: says what to train.
        factory: makes the runs; pickled once.
        seed: of every trial.
        concurrent: trials that run side by side on one machine.
        threads_per_trial: threads that torch computes with in each.
        folder: the study's; checkpoints go to `trials/NNNN/checkpoint` below it.
        gpus_per_trial: share of a GPU for each trial.
        address: `auto` or `HOST:PORT` of a Ray cluster that this machine is a node of; None starts Ray here.
        needed: files that a training reads, which every node of a cluster must have.
        hang_seconds: seconds that a trial may always take until its next evaluation.

    Raises:
        StorageError: the study or a checkpoint cannot be written.
        InputError: the cluster cannot be joined, or lacks something.
        AutopeftError: Ray cannot start, or has died.
    """
    place = folder.resolve()
    scratch = place / "ray"
    with ray_at(address) if address else ray_here(concurrent, gpus_per_trial) as alive:
        bridge = _Bridge(search, place, hang_seconds, alive)
        resources = {"cpu": threads_per_trial if address else 1, "gpu": gpus_per_trial}
        shelf = None
        if address:
            inspect_nodes(needed)
            concurrent = count_slots(threads_per_trial, gpus_per_trial, concurrent)
            shelf = start_shelf(place)
        worker = tune.with_parameters(
            Worker, factory=factory, seed=seed, threads=threads_per_trial, shelf=shelf
        )
        trainable = tune.with_resources(worker, resources)
        try:
            oversee(lambda: _tune(bridge, trainable, concurrent, scratch), alive, bridge.close)
        except AutopeftError as error:
            raise (bridge.fault or error) from None  # a full disk may be what Ray died of
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    if bridge.fault is not None:
        raise bridge.fault


class _Bridge:
    """Between Tune's callbacks and the search; keeps the fault that ends everything."""

    def __init__(self, search: Search, folder: Path, hang_seconds: float, alive: Callable[[], bool]) -> None:
        self._search = search
        self._alive = alive
        self._closed = False
        self._folder = folder
        self._hang_seconds = hang_seconds
        self._trials: dict[int, Trial] = {}
        self._overdue: dict[int, str] = {}
        self._cut_off: set[int] = set()
        self._lost: Counter[int] = Counter()
        self._memory_kills = memory_kills()
        self.fault: Exception | None = None

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """Leave the search out of the copies that Tune keeps for a resumption of its own."""
        return type(None), ()

    def close(self) -> None:
        """Let nothing more happen to the search, and have Tune end."""
        self._closed = True

    @property
    def halted(self) -> bool:
        """Whether nothing more may happen to the search: what dies with Ray is no trial's failure."""
        return self._closed or self.fault is not None or not self._alive()

    @property
    def ends_all(self) -> bool:
        """Whether all trials are to end at once."""
        return self._closed or self.fault is not None

    @property
    def ended(self) -> bool:
        """Whether no further trial starts."""
        return self.ends_all or bool(self._search.ended)

    def suggest(self) -> dict[str, Any] | None:
        """Return the next trial as Tune's config; None where there is none, for now or for good."""
        try:
            trial = None if self.halted else self._search.next_trial()
        except Exception as error:  # noqa: BLE001 (raised again once Tune, which would hide it, has ended)
            self.fault = error
            return None
        if trial is None:
            return None
        self._trials[trial.number] = trial
        return {
            "number": trial.number,
            "repetition": trial.repetition,
            "candidate": trial.candidate.model_dump_json(),
            "checkpoint": str(checkpoint_folder(self._folder, trial.number)),
            "samples": list(self._search.remaining(trial.number)),
        }

    def settle(self, number: int, outcome: Report | Failure | CutOff | AutopeftError) -> bool:
        """Tell the search how a piece of a trial went; return whether the trial goes on."""
        if isinstance(outcome, AutopeftError):
            self.fault = self.fault or outcome
        if isinstance(outcome, AutopeftError) or self.halted:
            return False
        try:
            decision = settle(self._search, number, outcome, checkpoint_folder(self._folder, number))
        except Exception as error:  # noqa: BLE001 (raised again once Tune, which would hide it, has ended)
            self.fault = error
            return False
        return decision is Decision.CONTINUE

    def remaining(self, number: int) -> list[int]:
        """Return the evaluations that a trial has before it."""
        return list(self._search.remaining(number))

    def limit(self, number: int) -> float | None:
        """Return how many seconds a trial may take until its next evaluation."""
        left = self._search.remaining(number)
        samples = self._search.rungs.samples
        seen = max((one for one in samples if not left or one < left[0]), default=0)
        return piece_limit(self._trials[number], self._search.rungs, seen, self._hang_seconds)

    def overdue(self, number: int, reason: str) -> None:
        """Take note why a trial's process is about to be killed."""
        self._overdue[number] = reason

    def overrun(self, number: int) -> bool:
        """Say whether a trial's process is to be killed for the time budget, and take note of it.

        The time that passes is counted meanwhile; what cannot be written now is counted the next time.
        """
        if not self.halted:
            with contextlib.suppress(StorageError):
                self._search.count_time(every=COUNTED_EVERY_SECONDS)
        if not self._search.overrun:
            return False
        self._cut_off.add(number)
        return True

    def lost(self, number: int, trial: Any) -> Failure | CutOff:
        """Say what becomes of a trial that did not begin: it is put back, but not without end."""
        self._lost[number] += 1
        return CutOff() if self._lost[number] <= RESTARTS else Failure(_death_of(trial))

    def death(self, number: int, trial: Any) -> Failure | CutOff:
        """Say what a trial's process died of."""
        if number in self._cut_off:
            return CutOff()
        return Failure(self._overdue.pop(number, "") or _death_of(trial))

    def short_of_memory(self) -> bool:
        """Say whether the kernel has killed a process for memory since this was last asked."""
        before, self._memory_kills = self._memory_kills, memory_kills()
        return self._memory_kills > before


def _tune(bridge: _Bridge, trainable: type[Worker], concurrent: int, scratch: Path) -> None:
    tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=_Adapter(bridge),
            scheduler=_Scheduler(bridge),
            num_samples=-1,
            max_concurrent_trials=concurrent,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: f"{trial.config['number']:04d}-{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(scratch),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=RESTARTS),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # the desk has kept its own
            callbacks=[Watch(bridge.limit, bridge.overdue, bridge.overrun)],
            stop=_Halt(bridge),
        ),
    ).fit()


class _Adapter(Searcher):
    """Tune's searcher: it asks the search."""

    def __init__(self, bridge: _Bridge) -> None:
        super().__init__(metric=OUTCOME, mode="max")
        self._bridge = bridge

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # noqa: ARG002
        config = self._bridge.suggest()
        return str(Searcher.FINISHED) if config is None and self._bridge.ended else config

    def on_trial_complete(self, trial_id: str, result: object = None, error: object = None) -> None:
        """Do nothing: the scheduler has told the search."""

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the study is in its store."""


class _Scheduler(FIFOScheduler):
    """Tune's scheduler: it reports to the search and does what the search decides."""

    def __init__(self, bridge: _Bridge) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._bridge = bridge

    def on_trial_result(self, tune_controller: object, trial: Any, result: dict[str, Any]) -> str:  # noqa: ARG002
        goes_on = self._bridge.settle(trial.config["number"], unpack(result[OUTCOME]))
        if goes_on:
            trial.config["samples"] = self._bridge.remaining(trial.config["number"])
        return str(self.CONTINUE if goes_on else self.STOP)

    def on_trial_error(self, tune_controller: object, trial: Any) -> None:  # noqa: ARG002
        """Let Tune start the trial again from its checkpoint, unless it died of itself or too often."""
        number = trial.config["number"]
        if trial.status == trial.PENDING:
            # The process died, or failed, while it was handed the trial: Tune drops a trial that never ran.
            self._bridge.settle(number, self._bridge.lost(number, trial))
        elif not trial.should_recover():
            self._bridge.settle(number, self._bridge.death(number, trial))
        elif self._bridge.short_of_memory():
            trial.config["died"] = "out of memory (the kernel killed the training process)"
        elif _cause_of(trial):
            trial.max_failures = 0  # a process that cannot start hardly will


class _Halt(tune.Stopper):
    """Tune's stopper: a fault in the store, or an interrupt, ends all trials at once."""

    def __init__(self, bridge: _Bridge) -> None:
        self._bridge = bridge

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002
        return False

    def stop_all(self) -> bool:
        return self._bridge.ends_all


def _death_of(trial: Any) -> str:
    """Say why a worker could not even report a failure."""
    if cause := _cause_of(trial):
        return f"the training process could not start: {cause}"
    return "killed from outside, or for its memory (the training process died without a word)"


def _cause_of(trial: Any) -> str:
    """Return what kept a worker from starting, by what Tune wrote about it; empty where it was killed."""
    try:
        lines = Path(trial.error_file).read_text(encoding="utf-8").split("\n")
    except (OSError, TypeError):
        return ""
    causes = [line.strip() for line in lines if "Error: " in line and not line.startswith("ray.")]
    return causes[-1] if causes else ""
