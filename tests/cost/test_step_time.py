"""Tests of autopeft/cost/step_time.py."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autopeft.cost.step_time import estimate_time, run_seconds
from autopeft.cost.tape import Tape
from autopeft.errors import UnsupportedError
from autopeft.hardware.profile import HardwareProfile


def test_the_parts_of_a_step_sum_to_it(tape: Tape, cpu: HardwareProfile):
    time = estimate_time(tape, cpu, grad_accum=2)
    assert time.step_seconds == pytest.approx(
        time.forward_seconds + time.backward_seconds + time.optimizer_seconds
    )
    assert time.forward_seconds == pytest.approx(2e9 / 1e11 + 2e-5)
    assert time.backward_seconds == pytest.approx(5e9 / 1e11 + 2e-5)
    assert time.optimizer_seconds == pytest.approx(1e8 / 1e10 + 1e-5)
    assert time.bound == "compute"


def test_later_micro_batches_cost_what_the_second_costs(tape: Tape, cpu: HardwareProfile):
    two, five = (estimate_time(tape, cpu, grad_accum=count) for count in (2, 5))
    assert five.backward_seconds - two.backward_seconds == pytest.approx(3 * (3e9 / 1e11 + 1e-5))
    assert five.optimizer_seconds == two.optimizer_seconds


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_the_bounds_and_the_band_hold_the_estimate(target: str, tape: Tape, cpu: HardwareProfile):
    time = estimate_time(replace(tape, target=target), cpu, grad_accum=2)  # type: ignore[arg-type]
    assert time.lower_seconds <= time.step_seconds <= time.upper_seconds
    assert time.low_seconds < time.step_seconds < time.high_seconds


def test_a_slow_host_bounds_a_fast_device(tape: Tape, gpu: HardwareProfile):
    fast = gpu.model_copy(update={"matmul_flops": {"float32": 1e15}, "bandwidth_bytes_per_second": 1e13})
    time = estimate_time(replace(tape, target="cuda"), fast, grad_accum=2)
    assert time.bound == "dispatch"
    assert time.step_seconds == pytest.approx(5e-5, rel=0.01)


def test_a_datasheet_is_believed_to_four_fifths(tape: Tape, cpu: HardwareProfile):
    paper = cpu.model_copy(
        update={
            "dispatch_seconds": 0.0,
            "provenance": cpu.provenance.model_copy(update={"kind": "datasheet"}),
        }
    )
    measured = cpu.model_copy(update={"dispatch_seconds": 0.0})
    ratio = estimate_time(tape, paper, 2).step_seconds / estimate_time(tape, measured, 2).step_seconds
    assert ratio == pytest.approx(1 / 0.8)


def test_a_dtype_without_a_speed_takes_the_next_slower_or_is_unsupported(tape: Tape, cpu: HardwareProfile):
    half = replace(tape, dtypes=("bfloat16",))
    assert estimate_time(half, cpu, 2).step_seconds == estimate_time(tape, cpu, 2).step_seconds
    with pytest.raises(UnsupportedError, match="must have the speed of int8"):
        estimate_time(replace(tape, dtypes=("int8",)), cpu, 2)


def test_a_run_is_its_steps_and_an_evaluation_an_epoch(tape: Tape, cpu: HardwareProfile):
    time = estimate_time(tape, cpu, 2)
    whole = run_seconds(time, rows=100, validation_rows=20, epochs=3, rows_per_step=8)
    assert whole == pytest.approx(38 * time.step_seconds + 60 * time.evaluation_row_seconds)
