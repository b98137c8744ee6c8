"""One search as the faults find it: a real loop, store, Ray and checkpoints; only the training is small.

    python driver.py FOLDER CANDIDATES [--pause SECONDS] [--hang-seconds SECONDS] [--mlflow URI]

Started again with the same folder it resumes. CANDIDATES: `sound` and `faulty` are lists for successive
halving (of the latter two hang, two diverge); `space` is a search space for freeze-thaw.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from looking import name

from autopeft.cost.estimate import CostEstimate, MemoryEstimate, MemoryParts, TimeEstimate
from autopeft.errors import AutopeftError, TrialError
from autopeft.hardware.profile import HardwareProfile, Provenance
from autopeft.plan.budget import Budget
from autopeft.plan.plan import Fits, Plan, Verdict
from autopeft.search.freeze_thaw import FreezeThaw
from autopeft.search.halving import Rungs
from autopeft.search.loop import Search
from autopeft.search.observer import Observer
from autopeft.search.ray_runner import run_on_ray
from autopeft.search.store import StudyStore
from autopeft.search.strategy import Halving, Strategy
from autopeft.search.study import Trial
from autopeft.space.candidate import Candidate, Training
from autopeft.space.domain import Choice, Domain
from autopeft.space.search_space import SearchSpace
from autopeft.tracking.mlflow import MlflowObserver
from autopeft.train.result import Report
from autopeft.workload.dataset import ACCURACY, Lengths, Workload

RUNGS = Rungs(samples=(20, 40, 80), reduction=2)
RATES = (0.004, 0.006, 0.003, 0.010, 0.005, 0.007, 0.002, 0.009, 0.008, 0.001)
CANDIDATES = {
    "sound": tuple(
        Candidate(method="lora", rank=rank, training=Training(learning_rate=rate))
        for rank, rate in enumerate(RATES, 1)
    ),
    "faulty": (
        Candidate(method="lora", rank=1, training=Training(learning_rate=0.004)),
        Candidate(method="hangs", rank=2, training=Training(learning_rate=0.004)),
        Candidate(method="raises", rank=3, training=Training(learning_rate=0.004)),
        Candidate(method="stops itself", rank=4, training=Training(learning_rate=0.004)),
        Candidate(method="scores nan", rank=5, training=Training(learning_rate=0.004)),
        Candidate(method="lora", rank=6, training=Training(learning_rate=0.010)),
    ),
}
FAULT_AT = 10
SPACE = SearchSpace(
    name="made",
    fixed={"method": "lora"},
    domains=(
        Domain(field="rank", allowed=Choice(choices=(10, 20, 30))),
        Domain(field="training.learning_rate", allowed=Choice(choices=(0.001, 0.002, 0.004, 0.010))),
    ),
)
"""Whoever has the greatest rate ends above the others by far more than chance does."""
DEFAULT = Candidate(method="lora", rank=16, training=Training(learning_rate=0.003))
SEED = 1


class Descent:
    """Gradient descent with steps that chance varies; the checkpoint has its whole state."""

    def __init__(
        self, candidate: Candidate, seed: int, pause: float = 0.0, kilobytes: int = 1, log: Path | None = None
    ) -> None:
        self.candidate, self.pause, self.kilobytes = candidate, pause, kilobytes
        self.who, self.log = name(candidate, seed), log
        self.seen, self.distance, self.chance = 0, 1.0, random.Random(seed + (candidate.rank or 0))
        self.seconds = 0.0

    def advance(self, samples: int) -> Report:
        """Train and score, and note what was trained."""
        began, first = time.monotonic(), self.seen
        while self.seen < samples:
            if self.seen == FAULT_AT:
                fall_ill(self.candidate.method)
            self.seen += 1
            self.distance *= 1 - self.candidate.training.learning_rate * (1 + self.chance.random())
            time.sleep(self.pause)
        self.seconds += time.monotonic() - began
        if self.log:
            with self.log.open("a", encoding="utf-8") as stream:
                stream.write(f"{self.who} {first} {self.seen}\n")
        ill = self.candidate.method == "scores nan" and self.seen > FAULT_AT
        return Report(
            samples=self.seen,
            step=self.seen,
            loss=self.distance,
            score=float("nan") if ill else 1 - self.distance,
            seconds=self.seconds,
            step_seconds=self.seconds / self.seen,
            peak_bytes=1000,
        )

    def save(self, folder: Path) -> None:
        """Write the state, and a file as large as an adapter."""
        (folder / "adapter.bin").write_bytes(os.urandom(1024 * self.kilobytes))
        state = [self.seen, self.distance, self.seconds, self.chance.getstate()]
        (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")

    def restore(self, folder: Path) -> None:
        """Go on from the state."""
        self.seen, self.distance, self.seconds, chance = json.loads((folder / "state.json").read_text())
        self.chance.setstate((chance[0], tuple(chance[1]), chance[2]))


def fall_ill(how: str) -> None:
    """Do what a training does when something is wrong with it."""
    if how == "hangs":
        time.sleep(10**6)
    if how == "stops itself":
        os.kill(os.getpid(), signal.SIGSTOP)
    if how == "raises":
        raise TrialError("the loss became nan at step 30 with learning rate 0.004; a smaller one may hold.")


@dataclass(frozen=True)
class Factory:
    """Makes trainings, and notes the process of each, so that it can be found and killed."""

    log: Path
    pause: float
    kilobytes: int

    def __call__(self, candidate: Candidate, seed: int) -> Descent:
        """Note the process and begin."""
        with self.log.open("a", encoding="utf-8") as stream:
            stream.write(f"{os.getpid()} {candidate.rank}\n")
        return Descent(candidate, seed, self.pause, self.kilobytes, self.log.with_name("trained.txt"))


class Listed:
    """Proposes what is on a list; what was tried is left out by the search."""

    def __init__(self, candidates: tuple[Candidate, ...]) -> None:
        self.left = list(candidates)

    def propose(self) -> Candidate | None:
        """Return the next of the list."""
        return self.left.pop(0) if self.left else None

    def observe(self, trial: Trial) -> None:
        """Learn nothing."""


class Notes(Observer):
    """Notes which trials begin, go on and are set aside."""

    def __init__(self, log: Path) -> None:
        self.log = log

    def trial_started(self, trial: Trial) -> None:
        """Note it."""
        self._note("started", trial)

    def trial_paused(self, trial: Trial) -> None:
        """Note it."""
        self._note("paused", trial)

    def _note(self, event: str, trial: Trial) -> None:
        with self.log.open("a", encoding="utf-8") as stream:
            stream.write(f"{os.getpid()} {event} {trial.number}\n")


def admit(candidate: Candidate) -> Verdict:
    """Let every candidate pass, with a predicted run of a second."""
    memory = MemoryEstimate(
        parts=MemoryParts(weights=1000),
        allocated_peak_bytes=1000,
        reserved_peak_bytes=1000,
        device_peak_bytes=1000,
        low_bytes=900,
        high_bytes=1100,
        peak_phase="forward",
    )
    step = dict.fromkeys(
        ("step", "forward", "backward", "optimizer", "lower", "upper", "low", "high", "evaluation_row"), 0.01
    )
    return Fits(
        candidate=candidate,
        estimate=CostEstimate(
            memory=memory,
            time=TimeEstimate(bound="compute", **{f"{name}_seconds": value for name, value in step.items()}),
            trainable_params=candidate.rank or 1,
            total_params=100,
            adapter_file_bytes=100,
            run_seconds=1.0,
            provenance="made",
        ),
    )


def plan() -> Plan:
    """Return a plan of nothing."""
    profile = HardwareProfile(
        name="made",
        device="cpu",
        device_name="made",
        total_bytes=10**9,
        usable_bytes=10**9,
        context_bytes=0,
        matmul_flops={"fp32": 1e9},
        bandwidth_bytes_per_second=1e9,
        dispatch_seconds=0,
        provenance=Provenance(kind="assumed", source="experiment 015", date="2026-11-22"),
    )
    workload = Workload(task="classification", lengths=Lengths.constant(8), rows=80)
    return Plan(
        model="made", space="made", workload=workload, budget=Budget(), profile=profile, fits=(), rejected=()
    )


def strategy_of(candidates: str) -> Strategy:
    """Return what decides: halving of a list, or freeze-thaw of the space."""
    if candidates == "space":
        return FreezeThaw(SPACE, RUNGS, seed=SEED, metric=ACCURACY, warm=())
    return Halving(Listed(CANDIDATES[candidates]), RUNGS.reduction, ACCURACY)


def main() -> int:
    """Search; the status is that of the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("candidates", choices=[*CANDIDATES, "space"])
    parser.add_argument("--pause", type=float, default=0.05)
    parser.add_argument("--kilobytes", type=int, default=1)
    parser.add_argument("--hang-seconds", type=float, default=300)
    parser.add_argument("--mlflow")
    given = parser.parse_args()
    store = StudyStore(given.folder / "study.db")
    observers: list[Observer] = [Notes(given.folder / "events.txt")]
    if given.mlflow:
        observers.append(MlflowObserver(given.mlflow, "015"))
    try:
        with store.claimed():
            if not store.exists():
                store.create(name="faults", metric=ACCURACY, seed=SEED, request="{}", plan=plan())
            search = Search(
                store,
                strategy_of(given.candidates),
                admit,
                RUNGS,
                ACCURACY,
                observers,
                baseline=DEFAULT if given.candidates == "space" else None,
                max_trials=None,
            )
            search.start(plan(), 10, 60)
            run_on_ray(
                search,
                Factory(given.folder / "made.txt", given.pause, given.kilobytes),
                seed=SEED,
                concurrent=2,
                threads_per_trial=1,
                folder=given.folder,
                hang_seconds=given.hang_seconds,
            )
            search.finish()
    except AutopeftError as error:
        print(f"autopeft: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
