"""A finished study, built by hand, with what a real one shows."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from autopeft.cost.estimate import CostEstimate, MemoryEstimate, MemoryParts, TimeEstimate
from autopeft.hardware.profile import HardwareProfile, Provenance
from autopeft.plan.budget import Budget
from autopeft.plan.plan import Fits, Plan, Rejected
from autopeft.report.decide import decision
from autopeft.report.facts import Compared, DataFacts, StudyFacts, TestScore
from autopeft.report.reasons import reasons
from autopeft.search.study import Role, Study, Trial, TrialState
from autopeft.space.candidate import Candidate, Training
from autopeft.train.result import Report, TrialResult
from autopeft.units import MIB
from autopeft.workload.dataset import ACCURACY, Lengths, Workload

MIDDLE = 1000 * MIB
FactsFactory = Callable[..., StudyFacts]


def estimate(params: int, activations: int = 160 * MIB) -> CostEstimate:
    parts = MemoryParts(
        weights=87 * MIB,
        adapter=4 * params,
        gradients=4 * params,
        optimizer=8 * params,
        activations=activations,
        other=2 * MIB,
    )
    device = parts.total + 700 * MIB
    return CostEstimate(
        memory=MemoryEstimate(
            parts=parts,
            allocated_peak_bytes=parts.total,
            reserved_peak_bytes=parts.total,
            device_peak_bytes=device,
            low_bytes=int(device * 0.93),
            high_bytes=int(device * 1.09),
            peak_phase="backward",
        ),
        time=TimeEstimate(
            step_seconds=0.31,
            forward_seconds=0.11,
            backward_seconds=0.19,
            optimizer_seconds=0.01,
            lower_seconds=0.27,
            upper_seconds=0.41,
            low_seconds=0.24,
            high_seconds=0.4,
            evaluation_row_seconds=0.006,
            bound="compute",
        ),
        trainable_params=params,
        total_params=22_713_216 + params,
        adapter_file_bytes=4 * params,
        run_seconds=58.0,
        provenance="traced",
    )


def trial(
    number: int,
    candidate: Candidate,
    *,
    scores: tuple[float, ...] = (),
    params: int = 147_456,
    state: TrialState = "complete",
    role: Role = "candidate",
    reason: str = "",
) -> Trial:
    predicted = estimate(params)
    reports = tuple(
        Report(
            samples=500 * (index + 1),
            step=32 * (index + 1),
            loss=0.69 - 0.1 * index,
            score=score,
            seconds=14.0 * (index + 1),
            step_seconds=0.29,
            peak_bytes=int(predicted.memory.device_peak_bytes * (0.97 + 0.021 * (number % 7))),
        )
        for index, score in enumerate(scores)
    )
    ended = state if state in ("complete", "stopped", "failed") else None
    result = TrialResult(state=ended, reports=reports, reason=reason) if ended else None
    return Trial(
        number=number,
        role=role,
        candidate=candidate,
        state=state,
        predicted=predicted,
        result=result,
        reason=reason,
    )


def candidate(method: str, rank: int | None, targets: str | None, rate: float = 1e-3) -> Candidate:
    training = Training(learning_rate=min(rate, 1.0), max_length=64)
    return Candidate(method=method, rank=rank, targets=targets, training=training)


def ten_trials() -> tuple[Trial, ...]:
    qv, every = "query+value", "all-linear"
    return (
        trial(0, candidate("lora", 8, qv), scores=(0.74, 0.79, 0.815, 0.828), role="baseline"),
        trial(1, candidate("lora", 16, every, 2e-3), scores=(0.76, 0.80, 0.82, 0.831), params=1_327_104),
        trial(2, candidate("ia3", None, None, 5e-3), scores=(0.69, 0.73), params=18_432, state="stopped"),
        trial(3, candidate("dora", 16, qv, 2e-3), scores=(0.77, 0.815, 0.836, 0.842), params=299_520),
        trial(4, candidate("prompt", None, None, 1e-2), scores=(0.58,), params=7_680, state="stopped"),
        trial(5, candidate("full", None, None, 5e-5), state="rejected", params=22_713_216,
              reason="predicted 4.21 GiB do not fit the 3.73 GiB of the budget"),
        trial(6, candidate("bitfit", None, None, 2e-3), scores=(0.72, 0.77, 0.79, 0.801), params=52_000),
        trial(7, candidate("lora", 64, every, 5e-2), scores=(0.51,), params=5_308_416, state="failed",
              reason="diverged: the training loss became NaN at step 41"),
        trial(8, candidate("lora", 4, qv, 4e-3), scores=(0.76, 0.80, 0.825, 0.835), params=73_728),
        trial(9, candidate("adapter", 32, None, 1e-3), scores=(0.72, 0.78, 0.80), params=304_000,
              state="stopped"),
    )  # fmt: skip


def test_scores() -> tuple[TestScore, ...]:
    return (
        TestScore(contender="winner", label="dora r=16 query+value lr=0.002", test_score=0.842, low=0.818,
                  high=0.863, validation_score=0.842, trainable_params=299_520, train_seconds=56.2),
        TestScore(contender="LoRA default", label="lora r=8 query+value lr=0.001", test_score=0.83, low=0.805,
                  high=0.852, lead=0.012, lead_low=-0.007, lead_high=0.031, validation_score=0.828,
                  trainable_params=147_456, train_seconds=55.0),
        TestScore(contender="linear probe", label="logistic regression on frozen features", test_score=0.761,
                  low=0.734, high=0.786, lead=0.081, lead_low=0.054, lead_high=0.108, validation_score=0.755,
                  trainable_params=770, train_seconds=6.1),
    )  # fmt: skip


def a_plan(budget: Budget, trials: tuple[Trial, ...]) -> Plan:
    profile = HardwareProfile(
        name="this-machine",
        device="cpu",
        device_name="Xeon, 2 cores",
        total_bytes=8 * 2**30,
        usable_bytes=7 * 2**30,
        context_bytes=700 * MIB,
        matmul_flops={"fp32": 1.2e11},
        bandwidth_bytes_per_second=1.5e10,
        dispatch_seconds=4e-6,
        cores=2,
        provenance=Provenance(kind="measured", source="probe", date="2026-01-01"),
    )
    refused = "predicted 4.21 GiB do not fit the 3.73 GiB of the budget"
    return Plan(
        model="all-minilm-l6-v2",
        space="quick",
        workload=Workload(
            task="classification", lengths=Lengths.constant(27), rows=2000, validation_rows=500
        ),
        budget=budget,
        profile=profile,
        fits=tuple(
            Fits(candidate=one.candidate, estimate=one.predicted)
            for one in trials
            if one.state != "rejected" and one.predicted
        ),
        rejected=(
            Rejected(candidate=candidate("full", None, None), reason=refused, way_out="take a smaller batch"),
            Rejected(candidate=candidate("qlora", 8, "all-linear"), reason="nf4 needs a CUDA device"),
            Rejected(candidate=candidate("qlora", 16, "all-linear"), reason="nf4 needs a CUDA device"),
        ),
    )


def build(
    *,
    trials: tuple[Trial, ...] | None = None,
    scores: tuple[TestScore, ...] | None = None,
    name: str = "demo",
    budget: Budget | None = None,
) -> StudyFacts:
    trials = ten_trials() if trials is None else trials
    study = Study(
        name=name, folder=".autopeft/studies/demo", metric=ACCURACY, seed=0, trials=trials, seconds=241.0
    )
    plan = a_plan(budget or Budget(gpu_mem="4GB", time="5min", trials=10, params=0.5), trials)
    data = DataFacts(
        name="movie-reviews",
        task="classification",
        metric=ACCURACY,
        rows={"train": 2000, "validation": 500, "test": 1000},
        labels=("negative", "positive"),
        columns={"text": "text", "label": "rating"},
        source="vaderSentiment 3.3.2 (sdist), movie reviews",
        fingerprint="5f2c9d1e77aa",
        notes=("ratings below 0 became 'negative'", "41 duplicate rows were dropped"),
    )
    if scores is None:
        scores = test_scores() if study.best else ()
    comparisons: tuple[Compared, ...] = ()
    if study.best and study.best.predicted and study.best.result:
        low, expected, high = study.best.predicted.memory.reported("cpu")
        peak = study.best.result.peak_bytes
        comparisons = (
            Compared(quantity="peak memory of the process", unit="bytes", predicted=expected,
                     low=low, high=high, measured=peak),
            Compared(quantity="time of a training step", unit="seconds", predicted=0.31, low=0.24, high=0.4,
                     measured=0.29),
            Compared(quantity="time of the whole training", unit="seconds", predicted=58.0, measured=56.2),
        )  # fmt: skip
    stated = {"study": study, "plan": plan, "data": data, "scores": scores, "comparisons": comparisons}
    return StudyFacts(
        study=study,
        plan=plan,
        data=data,
        decision=decision(**stated),
        reasons=reasons(**stated),
        scores=scores,
        comparisons=comparisons,
        seconds={"profile": 3.2, "plan": 21.0, "search": 241.0, "test": 12.0, "export": 1.4},
        places={"adapter": ".autopeft/studies/demo/bundle", "mlflow": "sqlite:///.autopeft/mlflow.db"},
        next_steps=("autopeft ui          # every trial, in MLflow", "autopeft run --demo --resume"),
        environment={"autopeft": "0.1.0", "torch": "2.13.0", "machine": "Xeon, 2 cores, 8 GiB"},
    )


@pytest.fixture(scope="session")
def make_facts() -> FactsFactory:
    return build


@pytest.fixture(scope="session")
def facts() -> StudyFacts:
    return build()


@pytest.fixture(scope="session")
def many_parts(facts: StudyFacts) -> StudyFacts:
    """A study of one trial, which has something of every part of the memory."""
    best = facts.study.best
    assert best is not None
    assert best.predicted is not None
    memory = best.predicted.memory
    more = dict.fromkeys(("logits", "temporary", "kept", "quantization"), 20 * MIB)
    parts = memory.parts.model_copy(update=more)
    reserved = parts.total + 9 * MIB
    sizes = {"allocated_peak_bytes": parts.total, "reserved_peak_bytes": reserved}
    sizes |= {"device_peak_bytes": reserved + 700 * MIB}
    predicted = best.predicted.model_copy(
        update={"memory": memory.model_copy(update={"parts": parts} | sizes)}
    )
    trials = (best.model_copy(update={"predicted": predicted}),)
    return facts.model_copy(update={"study": facts.study.model_copy(update={"trials": trials})})


@pytest.fixture(scope="session")
def fruitless() -> StudyFacts:
    """A study of which no trial was trained to the end."""
    return build(trials=tuple(one for one in ten_trials() if one.state in ("rejected", "failed")))


@pytest.fixture(scope="session")
def thousand() -> StudyFacts:
    """A study of a thousand trials."""
    trials = []
    for number in range(1000):
        states: tuple[TrialState, ...] = ("complete", "stopped", "stopped", "rejected")
        state = states[number % 4] if number else "complete"
        top = 0.7 + 0.14 * abs(math.sin(number))
        seen = {"complete": 4, "stopped": 2, "rejected": 0}[state]
        trials.append(
            trial(
                number,
                candidate("lora", 1 + number % 64, "all-linear", 1e-4 * (1 + number)),
                scores=tuple(top - 0.1 + 0.025 * step for step in range(seen)),
                params=10_000 * (1 + number % 64),
                state=state,
                role="candidate" if number else "baseline",
                reason="it does not fit" if state == "rejected" else "",
            )
        )
    return build(trials=tuple(trials))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium without a window."""
    api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no Chromium here")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()
