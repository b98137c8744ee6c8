"""A real, tiny training: gradient descent on a parabola, in plain Python, with its state in JSON."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

from autopeft.cost.estimate import CostEstimate, MemoryEstimate, MemoryParts, TimeEstimate
from autopeft.hardware.profile import HardwareProfile, Provenance
from autopeft.plan.budget import Budget
from autopeft.plan.plan import Fits, Plan, Rejected, Verdict
from autopeft.search.study import Study, Trial
from autopeft.space.candidate import Candidate, Training
from autopeft.space.domain import Choice, Domain, Range
from autopeft.space.search_space import SearchSpace
from autopeft.train.result import Report
from autopeft.workload.dataset import Dataset, Lengths, Metric, Workload

ACCURACY = Metric(name="accuracy", direction="maximize")
OPTIMUM = {"lora": 1.0, "ia3": 0.8, "prompt_tuning": 0.5, "explodes": 0.9}


def toy_space() -> SearchSpace:
    """Three methods, of which only one has a rank, each with learning rates of its own."""
    return SearchSpace(
        name="toy",
        domains=(
            Domain(field="method", allowed=Choice(choices=("lora", "ia3", "prompt_tuning"))),
            Domain(field="rank", allowed=Choice(choices=(2, 4, 8, 16)), when={"method": ("lora",)}),
            Domain(
                field="knobs.virtual_tokens",
                allowed=Choice(choices=(8, 16)),
                when={"method": ("prompt_tuning",)},
            ),
            Domain(
                field="training.learning_rate",
                allowed=Range(low=1e-4, high=1e-2, log=True),
                when={"method": ("lora",)},
            ),
            Domain(
                field="training.learning_rate",
                allowed=Range(low=1e-3, high=1e-1, log=True),
                when={"method": ("ia3", "prompt_tuning")},
            ),
        ),
    )


class ToyRun:
    """Descends to the best score its method can reach; how fast depends on the learning rate."""

    def __init__(self, candidate: Candidate, seed: int, pause: float) -> None:
        self.candidate = candidate
        self.pause = pause
        self.seen = 0
        self.distance = 1.0
        self.noise = random.Random(seed)

    def advance(self, samples: int) -> Report:
        while self.seen < samples:
            self.seen += 1
            self.distance *= 1 - min(0.5, 2 * self.candidate.training.learning_rate)
            time.sleep(self.pause)
        if self.candidate.method == "explodes":
            raise MemoryError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        score = OPTIMUM[self.candidate.method] - self.distance + self.noise.gauss(0, 0.001)
        extra = {"process": float(os.getpid()), "niceness": float(os.nice(0))}
        return Report(
            samples=self.seen,
            step=self.seen,
            loss=self.distance,
            score=score,
            seconds=self.seen * 0.001,
            step_seconds=0.001,
            peak_bytes=1000,
            extra=extra,
        )

    def save(self, folder: Path) -> None:
        state = {"seen": self.seen, "distance": self.distance}
        (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")

    def restore(self, folder: Path) -> None:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        self.seen, self.distance = state["seen"], state["distance"]


class ToyFactory:
    """Makes toy runs, noting each one that was made."""

    def __init__(self, log: Path, pause: float = 0.0, kill_at_rank: int = 0) -> None:
        self.log = log
        self.pause = pause
        self.kill_at_rank = kill_at_rank

    def __call__(self, candidate: Candidate, seed: int) -> ToyRun:
        with self.log.open("a", encoding="utf-8") as stream:
            stream.write(f"{candidate.key} {candidate.method}\n")
        if candidate.rank == self.kill_at_rank:
            os.kill(os.getpid(), signal.SIGKILL)
        return ToyRun(candidate, seed, self.pause)

    @property
    def made(self) -> list[str]:
        return [line.split()[1] for line in self.log.read_text(encoding="utf-8").splitlines()]


class Recorder:
    """An observer that keeps what it was told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []

    def data_read(self, dataset: Dataset) -> None:
        self.events.append(("data_read", len(dataset.train)))

    def study_started(self, study: Study, plan: Plan, expected_trials: int, expected_seconds: float) -> None:
        self.events.append(("study_started", len(study.trials)))

    def trial_started(self, trial: Trial) -> None:
        self.events.append(("started", trial.number))

    def trial_reported(self, trial: Trial, report: Report) -> None:
        self.events.append(("reported", trial.number))

    def trial_paused(self, trial: Trial) -> None:
        self.events.append(("paused", trial.number))

    def trial_finished(self, trial: Trial) -> None:
        self.events.append((trial.state, trial.number))

    def study_finished(self, study: Study) -> None:
        self.events.append(("study_finished", len(study.trials)))


class Listed:
    """A searcher that proposes what it was given, in order."""

    def __init__(self, *candidates: Candidate) -> None:
        self.left = list(candidates)
        self.seen: list[Trial] = []

    def propose(self) -> Candidate | None:
        return self.left.pop(0) if self.left else None

    def observe(self, trial: Trial) -> None:
        self.seen.append(trial)


def lora(rank: int) -> Candidate:
    return Candidate(method="lora", rank=rank)


def ia3(rate: float) -> Candidate:
    return Candidate(method="ia3", training=Training(learning_rate=rate))


def report(samples: int, score: float) -> Report:
    return Report(
        samples=samples, step=samples, loss=1.0, score=score, seconds=1, step_seconds=1, peak_bytes=1
    )


def states(study: Study) -> list[str]:
    return [trial.state for trial in study.trials]


def estimate_of(candidate: Candidate) -> CostEstimate:
    """Every parameter of rank costs a byte."""
    peak = 1000 * (candidate.rank or 1)
    memory = MemoryEstimate(
        parts=MemoryParts(weights=peak),
        allocated_peak_bytes=peak,
        reserved_peak_bytes=peak,
        device_peak_bytes=peak,
        low_bytes=peak,
        high_bytes=peak,
        peak_phase="backward",
    )
    step = TimeEstimate(
        step_seconds=0.001,
        forward_seconds=0.001,
        backward_seconds=0,
        optimizer_seconds=0,
        lower_seconds=0,
        upper_seconds=0.001,
        low_seconds=0,
        high_seconds=0.001,
        evaluation_row_seconds=0,
        bound="compute",
    )
    return CostEstimate(
        memory=memory,
        time=step,
        trainable_params=candidate.rank or 1,
        total_params=100,
        adapter_file_bytes=100,
        provenance="toy",
    )


def admit_all(candidate: Candidate) -> Verdict:
    return Fits(candidate=candidate, estimate=estimate_of(candidate))


def admit_small_ranks(candidate: Candidate) -> Verdict:
    if (candidate.rank or 0) > 4:
        return Rejected(candidate=candidate, reason="needs 8 kB, but the budget is 4 kB")
    return admit_all(candidate)


def toy_plan() -> Plan:
    profile = HardwareProfile(
        name="toy",
        device="cpu",
        device_name="toy",
        total_bytes=10**9,
        usable_bytes=10**9,
        context_bytes=0,
        matmul_flops={"fp32": 1e9},
        bandwidth_bytes_per_second=1e9,
        dispatch_seconds=0,
        provenance=Provenance(kind="assumed", source="test", date="2026-01-01"),
    )
    workload = Workload(task="classification", lengths=Lengths.constant(8))
    return Plan(
        family="encoder",
        model="toy",
        space="toy",
        workload=workload,
        budget=Budget(),
        profile=profile,
        fits=(),
        rejected=(),
    )
