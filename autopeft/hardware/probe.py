"""This machine -> HardwareProfile, by measuring it."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from autopeft.errors import InputError
from autopeft.files import THIS_MACHINE
from autopeft.hardware.catalog import with_published
from autopeft.hardware.footprint import cpu_context_bytes, cuda_context_bytes
from autopeft.hardware.limits import core_limit, memory_limits
from autopeft.hardware.others import others_beside
from autopeft.hardware.profile import (
    DISTURBED,
    UNSTEADY,
    DeviceKind,
    HardwareProfile,
    HostSpeed,
    OperatorSpeed,
    Provenance,
    name_fault,
)

if TYPE_CHECKING:
    import torch

    from autopeft.hardware.timing import Reading

_LITTLE_FREE = 0.25
_NO_DTYPES = ("bandwidth", "dispatch", "read", "write", "copy", "host-to-device")
_PACKAGES = ("torch", "transformers", "peft")


def probe(
    *,
    name: str = THIS_MACHINE,
    seconds: float = 8.0,
    threads: int | None = None,
    context_bytes: int | None = None,
) -> HardwareProfile:
    """Measure this machine: its CUDA (or ROCm) device where there is one, else its CPU.

    Settings of the device are left alone; torch's thread count is put back.

    Args:
        name: how the profile is called.
        seconds: how long speeds are measured; a slow machine takes a little longer.
        threads: CPU threads to compute with; None takes what torch would, within the container's quota.
        context_bytes: what a training process holds before its first tensor, where it is known already;
            None measures it in a fresh process, which takes several seconds more.

    Raises:
        InputError: the name is none, or `seconds`, `threads` or `context_bytes` is out of range.
        UnsupportedError: a training process cannot start here.
    """
    if not seconds > 0 or (threads is not None and threads < 1) or (context_bytes or 0) < 0:
        raise InputError(
            "`seconds > 0`, `threads >= 1` and `context_bytes >= 0` must hold, "
            f"but got ({seconds=}, {threads=}, {context_bytes=})."
        )
    fault = name_fault(name)
    if fault:
        raise InputError(f"{fault}.")
    import torch

    if torch.cuda.is_available():
        return with_published(_probe_cuda(name, seconds, context_bytes))
    return _probe_cpu(name, seconds, threads, context_bytes)


def _probe_cpu(name: str, seconds: float, threads: int | None, context_bytes: int | None) -> HardwareProfile:
    import torch

    from autopeft.hardware.speed import compute_threads

    total, free = memory_limits()
    if context_bytes is None:
        # Before the speeds, not beside them: its imports would take a core from what is measured. What the
        # measuring itself imports is imported meanwhile.
        with ThreadPoolExecutor(1) as thread:
            weighed = thread.submit(cpu_context_bytes)
            from peft import LoraConfig  # noqa: F401
            from transformers import LlamaForCausalLM  # noqa: F401

            context_bytes = weighed.result()
    cores = threads or min(torch.get_num_threads(), core_limit())
    # Steady work of others slows every repeat alike: their share of the cores tells.
    with compute_threads(cores), others_beside(cores) as others:
        readings = _measure(torch.device("cpu"), ("float32", "bfloat16"), seconds, free)
    return _profile(
        readings,
        name=name,
        device="cpu",
        device_name=_cpu_name(),
        total=total,
        usable=free,
        context=context_bytes,
        cores=cores,
        remark=f"{seconds:g} s, threads={cores}; usable memory is what was free",
        disturbance=round(others.share, 3),
    )


def _probe_cuda(name: str, seconds: float, context_bytes: int | None) -> HardwareProfile:
    import torch

    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    free, total = torch.cuda.mem_get_info()
    # What torch holds of the device at that moment is free for a training too.
    usable = free + torch.cuda.memory_reserved()
    if context_bytes is None:
        context_bytes = cuda_context_bytes()
    dtypes = ["float32", "float16"]
    # Volta and Turing only imitate bfloat16, so there it is left out, as on their datasheets.
    if torch.cuda.is_bf16_supported(including_emulation=False):
        dtypes.append("bfloat16")
    readings = _measure(torch.device("cuda"), tuple(dtypes), seconds, free)
    return _profile(
        readings,
        name=name,
        device="rocm" if torch.version.hip else "cuda",
        device_name=properties.name,
        total=total,
        # This process has a context of its own, which goes when it ends.
        usable=min(usable + context_bytes, total),
        context=context_bytes,
        cores=0,
        remark=f"{seconds:g} s; usable memory is what was free",
        devices=torch.cuda.device_count(),
    )


@dataclass(frozen=True)
class Measured:
    """Everything that was measured: single quantities, and the tables of operators."""

    readings: dict[str, Reading]
    operators: dict[str, OperatorSpeed]
    spreads: dict[str, float]
    host: HostSpeed | None = None


def _measure(device: torch.device, dtypes: tuple[str, ...], seconds: float, free: int) -> Measured:
    """Measure everything in `seconds`, a share for each part."""
    import torch

    from autopeft.hardware import speed
    from autopeft.hardware.host import host_speed

    share = seconds / 16
    readings = {name: speed.matmul_flops(device, getattr(torch, name), share, free // 4) for name in dtypes}
    readings["bandwidth"] = speed.bandwidth(device, share, free // 4)
    readings["dispatch"] = speed.dispatch_seconds(device, share)
    readings |= speed.directions(device, share, free // 4)
    if device.type == "cuda":
        readings["host-to-device"] = speed.host_copy(device, share, free // 4)
    host, spread = host_speed(device, 2 * share)
    operators, spreads = _operators(device, dtypes, 8 * share, free // 4)
    spreads |= {name: reading.spread for name, reading in readings.items()} | {"host": spread}
    return Measured(readings, operators, spreads, host)


def _operators(
    device: torch.device, dtypes: tuple[str, ...], seconds: float, most_bytes: int
) -> tuple[dict[str, OperatorSpeed], dict[str, float]]:
    """Measure the tables of operators; return them and how far their repeats differ."""
    import torch

    from autopeft.hardware import operators as table
    from autopeft.hardware.timing import time_all

    moved = table.pointwise_table(device, seconds * 0.4, most_bytes // 4)
    # What the smallest operator takes is the host's work, which is counted apart.
    floor = min(each.readings[0].value for each in moved.values())
    found = {name: table.moving_speed(each, floor) for name, each in moved.items()}
    spreads = {name: each.spread for name, each in moved.items()}
    share = seconds * 0.6 / len(dtypes)
    for name in dtypes:
        dtype = getattr(torch, name)
        products = table.matmul_table(device, dtype, share * 0.7, most_bytes)
        ahead, back = table.attention_tables(device, dtype, share * 0.3, most_bytes)
        for sort, each in (("matmul", products), ("attention", ahead), ("attention-backward", back)):
            found[f"{sort}.{name}"] = table.computing_speed(each, floor)
            spreads[f"{sort}.{name}"] = each.spread
    unpacking = table.dequantising(device)
    if unpacking is not None:
        (reading,) = time_all([unpacking.call], share / 10, device)
        rate = unpacking.moved / max(reading.value - floor, reading.value / 10)
        found["dequantise"] = OperatorSpeed(bytes_per_second=rate)
        spreads["dequantise"] = reading.spread
    return found, spreads


def _profile(
    measured: Measured,
    *,
    name: str,
    device: DeviceKind,
    device_name: str,
    total: int,
    usable: int,
    context: int,
    cores: int,
    remark: str,
    devices: int = 1,
    disturbance: float = 0.0,
) -> HardwareProfile:
    readings = measured.readings
    copied = readings.get("host-to-device")
    made = HardwareProfile(
        name=name,
        device=device,
        device_name=device_name,
        total_bytes=total,
        usable_bytes=usable,
        context_bytes=context,
        matmul_flops={key: r.value for key, r in readings.items() if key not in _NO_DTYPES},
        bandwidth_bytes_per_second=readings["bandwidth"].value,
        dispatch_seconds=readings["dispatch"].value,
        cores=cores,
        host_to_device_bytes_per_second=copied.value if copied else None,
        host=measured.host,
        operators=measured.operators,
        bandwidths={key: readings[key].value for key in ("read", "write", "copy") if key in readings},
        spreads={key: round(value, 3) for key, value in measured.spreads.items()},
        disturbance=disturbance,
        provenance=Provenance(
            kind="measured",
            source=f"autopeft probe, {remark}",
            date=dt.datetime.now(dt.UTC).date().isoformat(),
        ),
        versions=_versions(),
    )
    return made.model_copy(update={"warnings": _warnings(made) + _unmeasured(device_name, devices)})


def _warnings(made: HardwareProfile) -> tuple[str, ...]:
    """Say what makes the numbers doubtful."""
    found = []
    if made.disturbance > DISTURBED:
        found.append(f"other work took {made.disturbance:.0%} of the cores")
    if made.unsteadiness > UNSTEADY:
        found.append(f"the repeats of most quantities differ by more than {made.unsteadiness:.0%}")
    if found:
        meanwhile = " and ".join(found)
        found = [
            f"while it was measured, {meanwhile}: the bands of predicted times are wider for it; profile it "
            "again when it is idle"
        ]
    share = made.usable_bytes / made.total_bytes
    if share < _LITTLE_FREE:
        found.append(
            f"only {share:.0%} of the memory was free: plans will use no more than that; "
            "profile again when others have left, or pass --gpu-mem"
        )
    return tuple(found)


def _unmeasured(device_name: str, devices: int) -> tuple[str, ...]:
    """Say that a machine has more devices than the one that was measured."""
    if devices < 2:
        return ()
    return (
        f"this machine has {devices} devices, of which only the current one, {device_name}, was measured: "
        "choose another by CUDA_VISIBLE_DEVICES",
    )


def _versions() -> dict[str, str]:
    import torch

    found = {"python": platform.python_version()}
    found |= {package: importlib.metadata.version(package) for package in _PACKAGES}
    runtime = {"cuda": torch.version.cuda, "rocm": torch.version.hip, "driver": _driver()}
    return found | {key: value for key, value in runtime.items() if value}


def _driver() -> str | None:
    """Return the version of the NVIDIA driver, None where there is none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    query = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        # A fixed question to the driver's own tool.
        answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)  # noqa: S603
    except (subprocess.TimeoutExpired, OSError):
        return None
    return answer.stdout.splitlines()[0].strip() if answer.returncode == 0 and answer.stdout else None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, "") or platform.processor() or platform.machine() or "CPU"
