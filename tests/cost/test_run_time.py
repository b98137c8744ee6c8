"""Tests of autopeft/cost/run_time.py."""

from __future__ import annotations

import pytest

from autopeft.cost.run_time import mean_over_lengths, representative_lengths, run_time
from autopeft.cost.step_time import estimate_time
from autopeft.cost.tape import Tape
from autopeft.hardware.profile import HardwareProfile
from autopeft.workload.dataset import Lengths, Workload

WORKLOAD = Workload(
    task="sft", lengths=Lengths(percentiles=tuple(range(10, 111)), mean=60.0), rows=100, validation_rows=20
)


def test_a_run_is_its_loading_steps_batches_and_evaluations(tape: Tape, cpu: HardwareProfile) -> None:
    time = estimate_time(tape, cpu, 2)

    run = run_time(
        time, WORKLOAD, cpu, epochs=3, batch_size=4, grad_accum=2, weight_bytes=2 * 10**9, evaluations=3
    )

    assert run.steps == 38
    assert run.training_seconds == pytest.approx(38 * time.step_seconds)
    assert run.evaluation_seconds == pytest.approx(60 * time.evaluation_row_seconds)
    assert run.load_seconds == pytest.approx(2.0)
    assert run.total > run.training_seconds + run.evaluation_seconds
    assert 0 < run.padding_share < 0.2


def test_an_evaluation_is_of_single_rows_forward_once_whatever_a_training_step_does(
    tape: Tape, cpu: HardwareProfile
) -> None:
    time, twice = (estimate_time(tape, cpu, 2, forwards=passes) for passes in (1, 2))
    assert twice.evaluation_row_seconds == pytest.approx(time.evaluation_row_seconds / 2)
    assert twice.step_seconds == time.step_seconds

    sizes = {"epochs": 1, "batch_size": 4, "grad_accum": 2, "weight_bytes": 0, "evaluations": 1}
    whole, packed = (run_time(time, WORKLOAD, cpu, evaluated_share=share, **sizes) for share in (1.0, 0.25))
    assert packed.evaluation_seconds == pytest.approx(whole.evaluation_seconds / 4)
    assert packed.training_seconds == whole.training_seconds


def test_few_lengths_stand_for_all_batches() -> None:
    lengths = representative_lengths(WORKLOAD, 4)

    assert lengths == sorted(lengths)
    assert 3 <= len(lengths) <= 6
    assert sum(lengths) / len(lengths) == pytest.approx(62, abs=4)


def test_steps_of_several_lengths_take_their_mean(tape: Tape, cpu: HardwareProfile) -> None:
    time = estimate_time(tape, cpu, 2)

    mean = mean_over_lengths(
        lambda length: time.model_copy(update={"step_seconds": float(length)}), [1, 2, 6]
    )

    assert mean.step_seconds == 3.0


def test_a_run_is_evaluated_each_epoch_or_where_a_search_looks_at_it_and_at_its_end() -> None:
    assert WORKLOAD.evaluations(2.5) == 3

    searched = WORKLOAD.model_copy(update={"evaluated_after": (25, 50, 100)})
    assert searched.evaluations(2) == 4
    assert searched.evaluations(1) == 3
    assert searched.evaluations(0.2) == 1
