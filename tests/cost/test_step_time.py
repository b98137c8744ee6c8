"""Tests of autopeft/cost/step_time.py and the efficiencies it uses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from autopeft.cost.efficiency import (
    GENERIC,
    Sort,
    pace_of,
    sort_of,
    speeds,
    unpacking_seconds,
)
from autopeft.cost.step_time import _pace, estimate_time, shortened, step_work, weight_bytes
from autopeft.cost.tape import Kind, Tape
from autopeft.errors import UnsupportedError
from autopeft.hardware.profile import HardwareProfile, HostSpeed, OperatorSpeed


def test_the_parts_of_a_step_sum_to_it(tape: Tape, cpu: HardwareProfile) -> None:
    tape = replace(tape, operator_kind=np.full_like(tape.operator_kind, Kind.MATMUL))
    time = estimate_time(tape, cpu, grad_accum=2)

    parts = time.forward_seconds + time.backward_seconds + time.optimizer_seconds
    assert time.step_seconds == pytest.approx(parts)
    assert time.micro_step_seconds == pytest.approx((time.forward_seconds + time.backward_seconds) / 2)
    assert time.bound == "compute"


def test_later_micro_batches_cost_what_the_second_costs(tape: Tape, cpu: HardwareProfile) -> None:
    two, five, nine = (estimate_time(tape, cpu, grad_accum=count) for count in (2, 5, 9))

    each = (five.backward_seconds - two.backward_seconds) / 3
    assert nine.backward_seconds - five.backward_seconds == pytest.approx(4 * each)
    assert nine.optimizer_seconds == pytest.approx(two.optimizer_seconds)


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_the_bounds_and_the_band_hold_the_estimate(target: str, tape: Tape, cpu: HardwareProfile) -> None:
    time = estimate_time(replace(tape, target=target), cpu, grad_accum=2)  # type: ignore[arg-type]

    assert time.lower_seconds <= time.step_seconds <= time.upper_seconds
    assert time.low_seconds < time.step_seconds < time.high_seconds


def test_a_slow_host_bounds_a_fast_device(tape: Tape, gpu: HardwareProfile) -> None:
    host = HostSpeed(forward=1.0, backward=1.0, optimizer=1.0)
    time = estimate_time(replace(tape, target="cuda"), gpu.model_copy(update={"host": host}), grad_accum=2)

    assert time.bound == "dispatch"
    assert time.step_seconds == pytest.approx(len(tape.operators), rel=0.1)


def test_the_queue_is_what_a_simulation_operator_by_operator_says(tape: Tape, gpu: HardwareProfile) -> None:
    tape = replace(tape, target="cuda")
    work = step_work(tape, gpu, 2)
    started, ended = 0.0, 0.0
    for host, device in zip(work.host, work.device, strict=True):
        started += host
        ended = max(started, ended) + device

    assert estimate_time(tape, gpu, 2).step_seconds == pytest.approx(ended)


def test_recomputed_operators_go_through_python_again(tape: Tape, gpu: HardwareProfile) -> None:
    host = HostSpeed(forward=3e-5, backward=1e-5, optimizer=1e-5)
    profile = gpu.model_copy(update={"host": host})

    plain, again = (step_work(tape, profile, 2, recomputes=value) for value in (False, True))

    assert again.host.sum() > plain.host.sum()


def test_weights_that_every_pass_unpacks_take_time_in_forward_and_backward(
    tape: Tape, gpu: HardwareProfile
) -> None:
    plain, packed = (step_work(tape, gpu, 1, unpacked=weights) for weights in (0.0, 1e9))

    passes = (packed.device.sum() - plain.device.sum()) * gpu.bandwidth_bytes_per_second
    assert passes == pytest.approx(2 * 20e9)


def test_a_measured_bandwidth_is_taken_as_it_is_and_a_published_one_in_part(
    tape: Tape, cpu: HardwareProfile
) -> None:
    paper = cpu.model_copy(update={"provenance": cpu.provenance.model_copy(update={"kind": "datasheet"})})

    measured, published = (estimate_time(tape, each, 2).token_seconds for each in (cpu, paper))

    reading = weight_bytes(tape) / cpu.bandwidth_bytes_per_second
    assert published - measured == pytest.approx(reading / GENERIC.bandwidth - reading)
    assert unpacking_seconds(cpu, 1e9) == pytest.approx(20e9 / cpu.bandwidth_bytes_per_second)
    assert unpacking_seconds(paper, 1e9) * GENERIC.bandwidth == pytest.approx(unpacking_seconds(cpu, 1e9))


def test_a_measured_table_wins_over_the_single_numbers(cpu: HardwareProfile) -> None:
    own, sort = OperatorSpeed(bytes_per_second=1.0), OperatorSpeed(bytes_per_second=2.0)
    profile = cpu.model_copy(update={"operators": {"aten::gelu": own, "function": sort}})

    assert speeds(profile, Sort.FUNCTION, "float32", "aten::gelu") == own
    assert speeds(profile, Sort.FUNCTION, "float32", "aten::exp") == sort
    assert speeds(profile, Sort.POINTWISE, "float32").bytes_per_second == cpu.bandwidth_bytes_per_second


def test_a_datasheet_is_believed_in_part(cpu: HardwareProfile) -> None:
    paper = cpu.model_copy(update={"provenance": cpu.provenance.model_copy(update={"kind": "datasheet"})})

    speed = speeds(paper, Sort.MATMUL, "float32")

    assert speed.flops_per_second == pytest.approx(GENERIC.matmul * 1e11)
    assert speed.bytes_per_second == pytest.approx(GENERIC.bandwidth * 1e10)


def test_a_dtype_without_a_speed_takes_the_next_slower_or_is_unsupported(
    tape: Tape, cpu: HardwareProfile
) -> None:
    half = replace(tape, dtypes=("bfloat16",), operator_kind=np.full_like(tape.operator_kind, Kind.MATMUL))
    assert estimate_time(half, cpu, 2).step_seconds > 0
    with pytest.raises(UnsupportedError, match="must have the speed of int8"):
        estimate_time(replace(half, dtypes=("int8",)), cpu, 2)


def test_bytes_beyond_the_cache_move_at_the_speed_of_memory(cpu: HardwareProfile) -> None:
    speed = OperatorSpeed(bytes_per_second=1.0, cache_bytes=10.0, cached_bytes_per_second=10.0)
    profile = cpu.model_copy(update={"operators": {"pointwise": speed}})
    pace = pace_of(profile, [("aten::add", int(Kind.PLAIN), "float32")], np.array([0, 0]), on_gpu=False)

    seconds, computes = pace.take(np.zeros(2), np.array([5.0, 20.0]))

    assert seconds.tolist() == [0.5, 11.0]
    assert not computes.any()


def test_tapes_of_one_expansion_share_a_pace_and_other_devices_have_their_own(
    tape: Tape, cpu: HardwareProfile
) -> None:
    tape = replace(tape, operator_kind=np.full_like(tape.operator_kind, Kind.MATMUL))
    larger = replace(tape, operator_flops=10 * tape.operator_flops)
    speeds_of_others = {dtype: speed / 2 for dtype, speed in cpu.matmul_flops.items()}
    slower = cpu.model_copy(update={"matmul_flops": speeds_of_others})
    hits = _pace.cache_info().hits

    plain, more, slow = (
        estimate_time(*each, 2).step_seconds for each in ((tape, cpu), (larger, cpu), (larger, slower))
    )

    assert plain < more < slow
    assert _pace.cache_info().hits > hits
    assert estimate_time(tape, cpu, 2).step_seconds == plain


@pytest.mark.parametrize(
    ("name", "kind", "sort"),
    [
        ("aten::mm", Kind.MATMUL, Sort.MATMUL),
        ("aten::_scaled_dot_product_flash_attention", Kind.ATTENTION, Sort.ATTENTION),
        ("aten::_scaled_dot_product_flash_attention_backward", Kind.ATTENTION, Sort.ATTENTION_BACKWARD),
        ("aten::linalg_vector_norm", Kind.LINALG, Sort.REDUCTION),
        ("aten::_linalg_check_errors", Kind.LINALG, Sort.POINTWISE),
        ("aten::_linalg_solve_ex", Kind.LINALG, Sort.DECOMPOSITION),
        ("bitsandbytes::dequantize_4bit", Kind.PLAIN, Sort.DEQUANTISE),
        ("aten::gelu", Kind.PLAIN, Sort.FUNCTION),
        ("aten::add", Kind.PLAIN, Sort.POINTWISE),
    ],
)
def test_operators_are_sorted_by_what_they_run_like(name: str, kind: Kind, sort: Sort) -> None:
    assert sort_of(name, int(kind)) is sort


def test_a_factorisation_on_a_gpu_takes_its_columns_one_by_one(cpu: HardwareProfile) -> None:
    kinds = [(f"aten::_linalg_{name}", int(Kind.LINALG), "float32") for name in ("solve_ex", "svd")]
    moved, nothing = 12 * np.array([64.0, 256.0, 1.0]) ** 2, np.zeros(3)

    there = pace_of(cpu, kinds, np.array([0, 0, 1]), on_gpu=True).take(nothing, moved)[0]
    here = pace_of(cpu, kinds, np.array([0, 0, 1]), on_gpu=False).take(nothing, moved)[0]
    small, large, sweeping = there - here

    assert large == pytest.approx(4 * small)
    assert sweeping > GENERIC.column_seconds


def test_shorter_rows_work_less_and_move_the_same_weights(tape: Tape) -> None:
    half = shortened(replace(tape, operator_kind=np.full_like(tape.operator_kind, Kind.MATMUL)), 0.5)

    assert (half.operator_flops == tape.operator_flops / 2).all()
    assert (half.operator_bytes == tape.operator_bytes).all()
