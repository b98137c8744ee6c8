"""Ray Tune as executor: trials in worker processes, decided by the same `Search` as everywhere."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from autopeft.errors import AutopeftError
from autopeft.search.desk import Failure, checkpoint_folder, reason_of
from autopeft.search.executor import settle
from autopeft.search.loop import Search
from autopeft.search.ray_worker import OUTCOME, Worker, unpack
from autopeft.search.searcher import RunFactory
from autopeft.search.strategy import Decision
from autopeft.train.result import Report

OBJECT_STORE_BYTES = 200 * 2**20
_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_SYNCER": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_WARN_THRESHOLD_S": "3600",
}


def run_on_ray(
    search: Search,
    factory: RunFactory,
    *,
    seed: int,
    concurrent: int,
    threads_per_trial: int,
    folder: Path,
    gpus_per_trial: float = 0,
) -> None:
    """Train the trials of a search in worker processes of Ray on this machine.

    Worker processes are kept from trial to trial. A checkpoint is on disk before its report
    counts, so a killed search goes on where it was. An interrupt (Ctrl-C) shuts Ray down and
    leaves running trials in the store as they are.

    Args:
        search: says what to train.
        factory: makes the runs; pickled once.
        seed: of every trial.
        concurrent: trials that run side by side.
        threads_per_trial: threads that torch computes with in each.
        folder: the study's; checkpoints go to `trials/NNNN/checkpoint` below it.
        gpus_per_trial: share of a GPU for each trial.

    Raises:
        StorageError: the study or a checkpoint cannot be written.
        AutopeftError: Ray cannot start.
    """
    with _environment(_QUIET | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}):
        scratch = folder.resolve() / "ray"
        bridge = _Bridge(search, folder.resolve())
        _start_ray(concurrent, gpus_per_trial)
        try:
            _tune(bridge, factory, seed, concurrent, threads_per_trial, gpus_per_trial, scratch)
        finally:
            ray.shutdown()
            shutil.rmtree(scratch, ignore_errors=True)
    if bridge.fault is not None:
        raise bridge.fault


class _Bridge:
    """Between Tune's callbacks and the search; keeps the fault that ends everything."""

    def __init__(self, search: Search, folder: Path) -> None:
        self._search = search
        self._folder = folder
        self.fault: Exception | None = None

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """Leave the search out of the copies that Tune keeps for a resumption of its own."""
        return type(None), ()

    @property
    def ended(self) -> bool:
        """Whether no further trial starts."""
        return self.fault is not None or bool(self._search.ended)

    def suggest(self) -> dict[str, Any] | None:
        """Return the next trial as Tune's config; None where there is none, for now or for good."""
        try:
            trial = None if self.fault else self._search.next_trial()
        except Exception as error:  # noqa: BLE001 (raised again once Tune, which would hide it, has ended)
            self.fault = error
            return None
        if trial is None:
            return None
        return {
            "number": trial.number,
            "repetition": trial.repetition,
            "candidate": trial.candidate.model_dump_json(),
            "checkpoint": str(checkpoint_folder(self._folder, trial.number)),
            "samples": list(self._search.remaining(trial.number)),
        }

    def settle(self, number: int, outcome: Report | Failure | AutopeftError) -> bool:
        """Tell the search how a piece of a trial went; return whether the trial goes on."""
        if isinstance(outcome, AutopeftError):
            self.fault = self.fault or outcome
        if isinstance(outcome, AutopeftError) or self.fault:
            return False
        try:
            decision = settle(self._search, number, outcome, checkpoint_folder(self._folder, number))
        except Exception as error:  # noqa: BLE001 (raised again once Tune, which would hide it, has ended)
            self.fault = error
            return False
        return decision is Decision.CONTINUE


def _tune(
    bridge: _Bridge,
    factory: RunFactory,
    seed: int,
    concurrent: int,
    threads: int,
    gpus: float,
    scratch: Path,
) -> None:
    trainable = tune.with_resources(
        tune.with_parameters(Worker, factory=factory, seed=seed, threads=threads),
        {"cpu": 1, "gpu": gpus},
    )
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
            failure_config=tune.FailureConfig(max_failures=0),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # the desk has kept its own
            callbacks=[],
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
        return str(self.CONTINUE if goes_on else self.STOP)

    def on_trial_error(self, tune_controller: object, trial: Any) -> None:  # noqa: ARG002
        self._bridge.settle(trial.config["number"], Failure(_death_of(trial)))


class _Halt(tune.Stopper):
    """Tune's stopper: a fault in the store ends all trials at once."""

    def __init__(self, bridge: _Bridge) -> None:
        self._bridge = bridge

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002
        return False

    def stop_all(self) -> bool:
        return self._bridge.fault is not None


def _death_of(trial: Any) -> str:
    """Say why a worker could not even report a failure, from the text Tune wrote about it."""
    try:
        lines = Path(trial.error_file).read_text(encoding="utf-8").split("\n")
    except (OSError, TypeError):
        lines = []
    causes = [line.strip() for line in lines if "Error: " in line and not line.startswith("ray.")]
    if causes:
        return f"the training process could not start: {causes[-1]}"
    return "out of memory, or killed from outside (the training process died without a word)"


def _start_ray(concurrent: int, gpus: float) -> None:
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    try:
        ray.init(
            address="local",
            num_cpus=concurrent,
            num_gpus=math.ceil(gpus * concurrent) if gpus else 0,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            object_store_memory=OBJECT_STORE_BYTES,
        )
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise AutopeftError(f"Ray cannot start on this machine ({reason_of(error)}).") from None


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables, which worker processes inherit, for a while."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
