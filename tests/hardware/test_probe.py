from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
import torch

from autopeft.errors import InputError, UnsupportedError
from autopeft.hardware import footprint
from autopeft.hardware import probe as probe_module
from autopeft.hardware.catalog import load_profile, save_profile
from autopeft.hardware.probe import probe
from autopeft.hardware.profile import HardwareProfile
from autopeft.hardware.speed import Reading, compute_threads
from autopeft.units import GIB, MIB

CONTEXT = 400 * MIB


@pytest.fixture(scope="module")
def profile() -> HardwareProfile:
    return probe(seconds=0.05, threads=1, context_bytes=CONTEXT)


on_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="measures the CPU, where it is the device")


@on_cpu
def test_a_measured_cpu_is_within_what_cpus_can_be(profile: HardwareProfile) -> None:
    assert profile.device == "cpu"
    assert profile.device_name
    assert profile.cores == 1
    assert profile.context_bytes == CONTEXT
    assert 0 < profile.usable_bytes <= profile.total_bytes
    assert set(profile.matmul_flops) == {"float32", "bfloat16"}
    assert all(1e7 < speed < 1e14 for speed in profile.matmul_flops.values())
    assert 1e7 < profile.bandwidth_bytes_per_second < 1e13
    assert 1e-8 < profile.dispatch_seconds < 1e-1


def test_a_measured_profile_says_how_when_and_with_what(profile: HardwareProfile) -> None:
    assert profile.name == "this-machine"
    assert profile.provenance.kind == "measured"
    assert dt.date.fromisoformat(profile.provenance.date)
    assert {"python", "torch", "transformers", "peft"} <= set(profile.versions)


def test_a_measured_profile_survives_its_file(profile: HardwareProfile, tmp_path: Path) -> None:
    path = save_profile(profile, tmp_path / "this-machine.yaml")

    assert load_profile(str(path)) == profile


@on_cpu
def test_probing_puts_the_thread_count_back() -> None:
    before = torch.get_num_threads()

    probe(seconds=1e-6, threads=before + 1, context_bytes=0)

    assert torch.get_num_threads() == before


def test_the_thread_count_is_put_back_after_an_error_too() -> None:
    before = torch.get_num_threads()

    def fail_within() -> None:
        with compute_threads(before + 1):
            assert torch.get_num_threads() == before + 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_within()

    assert torch.get_num_threads() == before


@pytest.mark.parametrize(("spread", "said"), [(0.2, False), (0.4, True)])
def test_repeats_that_disagree_are_said(spread: float, said: bool) -> None:
    readings = {name: Reading(1.0, 0.1) for name in ("float32", "bandwidth")} | {
        "dispatch": Reading(1.0, spread)
    }

    profile = probe_module._profile(
        readings,
        name="x",
        device="cpu",
        device_name="x",
        total=2,
        usable=1,
        context=0,
        cores=1,
        remark="1 s",
    )

    assert ("machine busy: repeats differ by 40%" in profile.provenance.source) is said


@pytest.mark.parametrize(
    "wrong", [{"seconds": 0}, {"seconds": float("nan")}, {"threads": 0}, {"context_bytes": -1}]
)
def test_values_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="must hold"):
        probe(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("program", ["raise ImportError('no peft here')", "print('not a number')"])
def test_a_training_process_that_cannot_start_is_one_line(program: str) -> None:
    with pytest.raises(UnsupportedError, match="training process must start") as caught:
        footprint._run(program)

    assert "\n" not in str(caught.value)


@pytest.mark.slow
@on_cpu
def test_a_training_process_holds_its_libraries() -> None:
    profile = probe(seconds=0.05)

    assert 100 * MIB < profile.context_bytes < 4 * GIB
    assert profile.context_bytes < profile.total_bytes


@pytest.mark.gpu
def test_a_measured_gpu_is_within_what_gpus_can_be() -> None:
    profile = probe(seconds=1.0)

    assert profile.device in ("cuda", "rocm")
    assert 0 < profile.context_bytes < 4 * GIB
    assert GIB < profile.usable_bytes <= profile.total_bytes
    assert profile.matmul_flops["float16"] > profile.matmul_flops["float32"] > 1e11
    assert 1e10 < profile.bandwidth_bytes_per_second < 1e14
