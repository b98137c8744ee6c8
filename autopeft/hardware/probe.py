"""This machine -> HardwareProfile, by measuring it."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from autopeft.errors import InputError
from autopeft.hardware.footprint import cpu_context_bytes, cuda_context_bytes
from autopeft.hardware.limits import core_limit, memory_limits
from autopeft.hardware.profile import DeviceKind, HardwareProfile, Provenance

if TYPE_CHECKING:
    import torch

    from autopeft.hardware.speed import Reading

_BUSY_SPREAD = 0.25
_PACKAGES = ("torch", "transformers", "peft")


def probe(
    *,
    name: str = "this-machine",
    seconds: float = 4.0,
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
        InputError: `seconds`, `threads` or `context_bytes` is out of range.
        UnsupportedError: a training process cannot start here.
    """
    if not seconds > 0 or (threads is not None and threads < 1) or (context_bytes or 0) < 0:
        raise InputError(
            "`seconds > 0`, `threads >= 1` and `context_bytes >= 0` must hold, "
            f"but got ({seconds=}, {threads=}, {context_bytes=})."
        )
    import torch

    if torch.cuda.is_available():
        return _probe_cuda(name, seconds, context_bytes)
    return _probe_cpu(name, seconds, threads, context_bytes)


def _probe_cpu(name: str, seconds: float, threads: int | None, context_bytes: int | None) -> HardwareProfile:
    import torch

    from autopeft.hardware.speed import compute_threads

    total, free = memory_limits()
    # Steady work of others slows every repeat alike: only the load tells.
    load = os.getloadavg()[0]
    if context_bytes is None:
        # Before the speeds, not beside them: its imports would take a core from what is measured.
        context_bytes = cpu_context_bytes()
    cores = threads or min(torch.get_num_threads(), core_limit())
    with compute_threads(cores):
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
        remark=f"{seconds:g} s, threads={cores}, load {load:.1f} before; usable memory is what was free",
    )


def _probe_cuda(name: str, seconds: float, context_bytes: int | None) -> HardwareProfile:
    import torch

    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    free, total = torch.cuda.mem_get_info()
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
        usable=min(free + torch.cuda.memory_reserved() + context_bytes, total),
        context=context_bytes,
        cores=0,
        remark=f"{seconds:g} s; usable memory is what was free",
    )


def _measure(device: torch.device, dtypes: tuple[str, ...], seconds: float, free: int) -> dict[str, Reading]:
    """Measure everything in `seconds`, each quantity for an equal share."""
    import torch

    from autopeft.hardware import speed

    share = seconds / (len(dtypes) + 2)
    readings = {name: speed.matmul_flops(device, getattr(torch, name), share) for name in dtypes}
    readings["bandwidth"] = speed.bandwidth(device, share, free // 4)
    readings["dispatch"] = speed.dispatch_seconds(device, share)
    return readings


def _profile(
    readings: dict[str, Reading],
    *,
    name: str,
    device: DeviceKind,
    device_name: str,
    total: int,
    usable: int,
    context: int,
    cores: int,
    remark: str,
) -> HardwareProfile:
    spread = max(reading.spread for reading in readings.values())
    busy = f"; machine busy: repeats differ by {spread:.0%}" if spread > _BUSY_SPREAD else ""
    return HardwareProfile(
        name=name,
        device=device,
        device_name=device_name,
        total_bytes=total,
        usable_bytes=usable,
        context_bytes=context,
        matmul_flops={key: r.value for key, r in readings.items() if key not in ("bandwidth", "dispatch")},
        bandwidth_bytes_per_second=readings["bandwidth"].value,
        dispatch_seconds=readings["dispatch"].value,
        cores=cores,
        provenance=Provenance(
            kind="measured",
            source=f"autopeft probe, {remark}{busy}",
            date=dt.datetime.now(dt.UTC).date().isoformat(),
        ),
        versions=_versions(),
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
    # A fixed question to the driver's own tool.
    answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)  # noqa: S603
    return answer.stdout.splitlines()[0].strip() if answer.returncode == 0 and answer.stdout else None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, "") or platform.processor() or platform.machine() or "CPU"
