"""A small study as the search tells it: the events, and what it is in the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from autopeft.cost.estimate import CostEstimate, MemoryEstimate, MemoryParts, TimeEstimate
from autopeft.hardware.profile import HardwareProfile, Provenance
from autopeft.plan.budget import Budget
from autopeft.plan.plan import Fits, Plan, Rejected
from autopeft.search.observer import Observer
from autopeft.search.study import Role, Study, Trial, TrialState
from autopeft.space.candidate import Candidate, Training
from autopeft.train.result import Report, TrialResult
from autopeft.workload.dataset import ACCURACY, Lengths, Workload

Play = Callable[..., Study]


def estimate() -> CostEstimate:
    return CostEstimate(
        memory=MemoryEstimate(
            parts=MemoryParts(weights=900, adapter=100),
            allocated_peak_bytes=1000,
            reserved_peak_bytes=1000,
            device_peak_bytes=1500,
            low_bytes=1400,
            high_bytes=1700,
            peak_phase="backward",
        ),
        time=TimeEstimate(
            step_seconds=0.3,
            forward_seconds=0.1,
            backward_seconds=0.19,
            optimizer_seconds=0.01,
            lower_seconds=0.2,
            upper_seconds=0.4,
            low_seconds=0.25,
            high_seconds=0.36,
            evaluation_row_seconds=0.01,
            bound="compute",
        ),
        trainable_params=147_456,
        total_params=22_860_672,
        adapter_file_bytes=589_824,
        run_seconds=60.0,
        provenance="traced",
    )


def a_report(samples: int, score: float) -> Report:
    return Report(
        samples=samples,
        step=samples // 16,
        loss=None if score < 0.6 else 0.5,
        score=score,
        seconds=samples / 40,
        step_seconds=0.29,
        peak_bytes=1490 + samples,
        extra={"f1 score": score - 0.01},
    )


def a_trial(number: int, state: TrialState, scores: tuple[float, ...] = (), reason: str = "") -> Trial:
    role: Role = "candidate" if number else "baseline"
    reports = tuple(a_report(500 * (at + 1), score) for at, score in enumerate(scores))
    done = state if state in ("complete", "stopped", "failed") else None
    return Trial(
        number=number,
        role=role,
        candidate=Candidate(
            method="lora",
            rank=2**number,
            targets=("query", "value [bold]x"),
            knobs={"alpha": 16, "use dora?": True},
            training=Training(epochs=2),
        ),
        state=state,
        predicted=estimate() if state != "rejected" else None,
        result=TrialResult(state=done, reports=reports, reason=reason) if done else None,
        reason=reason,
    )


def four_trials() -> tuple[Trial, ...]:
    return (
        a_trial(0, "complete", (0.5, 0.7, 0.80)),
        a_trial(1, "rejected", reason="it does not fit: 5 GB > 4 GB"),
        a_trial(2, "failed", (float("nan"),), reason="diverged"),
        a_trial(3, "complete", (0.6, 0.75, 0.85)),
    )


def a_study(folder: Path, trials: tuple[Trial, ...], name: str, own_id: str = "") -> Study:
    return Study(
        name=name,
        id=own_id,
        folder=str(folder),
        metric=ACCURACY,
        seed=0,
        trials=trials,
        seconds=3.0 * len(trials),
    )


@pytest.fixture
def plan() -> Plan:
    refused = Candidate(method="full")
    return Plan(
        model="minilm",
        space="quick",
        workload=Workload(task="classification", lengths=Lengths.constant(20), rows=750),
        budget=Budget(gpu_mem="4GB", time="5min", trials=4),
        profile=HardwareProfile(
            name="here",
            device="cpu",
            device_name="a CPU",
            total_bytes=8 * 2**30,
            usable_bytes=7 * 2**30,
            context_bytes=500,
            matmul_flops={"fp32": 1e11},
            bandwidth_bytes_per_second=1e10,
            dispatch_seconds=1e-6,
            cores=2,
            provenance=Provenance(kind="measured", source="probe", date="2026-01-01"),
        ),
        fits=(Fits(candidate=a_trial(0, "complete").candidate, estimate=estimate()),),
        rejected=(Rejected(candidate=refused, reason="too large", way_out="take lora"),),
    )


@pytest.fixture
def trials() -> tuple[Trial, ...]:
    """The trials that `play` tells of."""
    return four_trials()


@pytest.fixture
def play(plan: Plan, tmp_path: Path) -> Play:
    """Tell observers a search as the loop does: `known` trials are from earlier, `stop` cuts it off.

    Trial 3 is set aside after its first evaluation, and goes on.
    """

    def told(
        observer: Observer,
        *,
        name: str = "demo",
        known: int = 0,
        stop: int | None = None,
        own_id: str = "",
    ) -> Study:
        trials = four_trials()
        before = a_study(tmp_path / name, trials[:known], name, own_id)
        observer.study_started(before, plan, 3, 60.0)
        for trial in trials[known:stop]:
            if trial.result:
                running = trial.model_copy(update={"state": "running", "result": None, "reason": ""})
                observer.trial_started(running)
                for at, report in enumerate(trial.result.reports):
                    observer.trial_reported(running, report)
                    if (trial.number, at) == (3, 0):
                        observer.trial_paused(running)
                        observer.trial_started(running)
            observer.trial_finished(trial)
        if stop is None:
            observer.study_finished(a_study(tmp_path / name, trials, name, own_id))
        return a_study(tmp_path / name, trials[:stop], name, own_id)

    return told
