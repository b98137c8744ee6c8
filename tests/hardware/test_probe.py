from __future__ import annotations

import datetime as dt
import itertools
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from autopeft.cost.step_time import band
from autopeft.errors import InputError, UnsupportedError
from autopeft.hardware import footprint, operators, others, speed
from autopeft.hardware import probe as probe_module
from autopeft.hardware.catalog import load_profile, save_profile, with_published
from autopeft.hardware.limits import CoreQuota
from autopeft.hardware.others import others_beside
from autopeft.hardware.probe import probe
from autopeft.hardware.profile import DISTURBED, HardwareProfile
from autopeft.hardware.speed import compute_threads
from autopeft.hardware.timing import Reading, fitting, layer_bytes
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


@on_cpu
def test_a_measured_profile_has_tables_of_operators_and_of_the_host(profile: HardwareProfile) -> None:
    assert {"matmul.float32", "attention.float32", "pointwise", "function", "gather"} <= set(
        profile.operators
    )
    assert profile.host is not None
    assert 1e-7 < profile.host.forward < 1e-1
    assert set(profile.bandwidths) == {"read", "write", "copy"}


def test_a_device_with_little_free_memory_is_warned_of() -> None:
    (warning,) = made_of({}, usable=1).warnings

    assert "only 10% of the memory was free" in warning


def test_further_devices_are_said_to_be_unmeasured() -> None:
    assert not probe_module._unmeasured("NVIDIA L4", 1)
    (warning,) = probe_module._unmeasured("NVIDIA L4", 4)
    assert "4 devices, of which only the current one, NVIDIA L4" in warning


def test_a_driver_that_does_not_answer_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(query: list[str], **options: object) -> None:
        raise subprocess.TimeoutExpired(query, 30)

    monkeypatch.setattr(shutil, "which", lambda _: "nvidia-smi")
    monkeypatch.setattr(subprocess, "run", hang)

    assert probe_module._driver() is None


def test_what_is_measured_fits_into_little_free_memory() -> None:
    shapes = ((8, 8, 8), (2, 2, 2), (4, 4, 4))

    assert fitting(shapes, layer_bytes, 1e9) == shapes
    assert fitting(shapes, layer_bytes, 300) == ((2, 2, 2), (4, 4, 4))
    assert fitting(shapes, layer_bytes, 0) == ((2, 2, 2),)


def test_with_no_memory_left_the_smallest_of_each_is_measured() -> None:
    cpu, fp32 = torch.device("cpu"), torch.float32

    moved = operators.pointwise_table(cpu, 1e-6, 0)
    products = operators.matmul_table(cpu, fp32, 1e-6, 0)

    assert {len(each.calls) for each in moved.values()} == {1}
    assert len(products.calls) == 2
    assert speed.matmul_flops(cpu, fp32, 1e-6, 0).value > 0


@pytest.mark.parametrize(("device_name", "watts"), [("NVIDIA L4", 72.0), ("nobody's", None)])
def test_a_measured_device_takes_its_power_and_link_from_its_datasheet(
    profile: HardwareProfile, device_name: str, watts: float | None
) -> None:
    measured = profile.model_copy(update={"device": "cuda", "device_name": device_name})

    completed = with_published(measured)

    assert completed.power_watts == watts
    assert (completed.link_bytes_per_second is None) is (watts is None)
    assert completed.matmul_flops == measured.matmul_flops
    assert ("as published of l4" in completed.provenance.source) is (watts is not None)


def test_a_measured_number_stays_and_two_devices_of_a_name_give_nothing(profile: HardwareProfile) -> None:
    measured = profile.model_copy(
        update={
            "device": "cuda",
            "device_name": "NVIDIA L4",
            "power_watts": 1.0,
            "link_bytes_per_second": 2.0,
        }
    )
    twice = profile.model_copy(
        update={"device": "mps", "device_name": load_profile("m2-max-32gb").device_name}
    )

    assert with_published(measured) == measured
    assert with_published(twice) == twice


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


def made_of(spreads: dict[str, float], disturbance: float = 0.0, usable: int = 1) -> HardwareProfile:
    readings = {name: Reading(1.0, spreads.get(name, 0.0)) for name in ("float32", "bandwidth", "dispatch")}
    return probe_module._profile(
        probe_module.Measured(readings, {}, spreads),
        name="x",
        device="cpu",
        device_name="x",
        total=10,
        usable=usable,
        context=0,
        cores=1,
        remark="1 s",
        disturbance=disturbance,
    )


@pytest.mark.parametrize(
    ("spreads", "disturbance", "said"),
    [
        ({"float32": 0.9, "bandwidth": 0.1, "dispatch": 0.1}, 0.05, None),
        (
            {"float32": 0.9, "bandwidth": 0.4, "dispatch": 0.1},
            0.05,
            "repeats of most quantities differ by more than 40%",
        ),
        ({"float32": 0.1, "bandwidth": 0.1, "dispatch": 0.1}, 0.5, "other work took 50% of the cores"),
    ],
)
def test_work_beside_the_measuring_is_said_and_widens_the_band(
    spreads: dict[str, float], disturbance: float, said: str | None
) -> None:
    profile = made_of(spreads, disturbance, usable=9)

    low, high = band(profile)

    assert bool(profile.warnings) is bool(profile.doubt) is (said is not None)
    if said:
        assert said in profile.warnings[0]
        assert low == pytest.approx(0.75 * (1 - profile.doubt) ** 2)
        assert high == pytest.approx(1.25 / (1 - profile.doubt) ** 2)
    else:
        assert (low, high) == (0.75, 1.25)


def test_what_others_take_of_the_cores_is_weighed() -> None:
    """Processes that compute on every core leave a part of each; without them nobody takes as much."""
    cores = psutil.cpu_count() or 1
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
    try:
        with others_beside(cores) as others:
            end = time.monotonic() + 3
            while time.monotonic() < end:
                pass
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert others.share > DISTURBED


@pytest.mark.parametrize(
    "wrong", [{"seconds": 0}, {"seconds": float("nan")}, {"threads": 0}, {"context_bytes": -1}]
)
def test_values_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="must hold"):
        probe(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "..", "../../esc", "a/b", "x\n"])
def test_a_name_that_leaves_the_folder_is_refused_before_measuring(name: str) -> None:
    with pytest.raises(InputError, match="a profile's name must be"):
        probe(name=name)


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


@pytest.mark.parametrize(("logical", "physical", "share"), [(16, 8, 0.5), (16, 16, 0.0), (8, 8, 0.5)])
def test_the_second_thread_of_a_core_that_computes_is_no_room_for_others(
    logical: int, physical: int, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight threads compute, and others take four more."""
    times = itertools.count(step=4)
    monkeypatch.setattr(
        others.psutil, "cpu_count", lambda *, logical=True, count=logical: count if logical else physical
    )
    monkeypatch.setattr(others, "_of_machine", lambda: float(next(times)))
    monkeypatch.setattr(others.time, "process_time", lambda: 0.0)
    clock = itertools.count()
    monkeypatch.setattr(others.time, "perf_counter", lambda: float(next(clock)))
    with others_beside(8) as found:
        pass
    assert found.share == share


def test_under_a_quota_others_are_those_that_share_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads compute for a second; their group has worked half a second more than they did."""
    monkeypatch.setattr(others.psutil, "cpu_count", lambda **_: 64)
    clock, own = itertools.count(), itertools.count(step=2)
    monkeypatch.setattr(others.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(others.time, "process_time", lambda: float(next(own)))
    (tmp_path / "cpu.stat").write_text("usage_usec 10000000\nnr_throttled 3\n")
    with others_beside(2, CoreQuota(2.0, tmp_path)) as found:
        (tmp_path / "cpu.stat").write_text("usage_usec 12500000\nnr_throttled 9\n")
    assert found.share == 0.25
