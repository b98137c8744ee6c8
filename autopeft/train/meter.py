"""Meter: peak memory and step times of the training that runs in this process."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
import time
from pathlib import Path
from typing import Self

import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


class Meter:
    """Measures from its creation on.

    Peak memory is `torch.cuda.max_memory_reserved` on a GPU and the peak resident size of the
    process on a CPU.
    """

    def __init__(self, device: torch.device) -> None:
        """Start measuring on `device`."""
        self.device = device
        self.seconds = 0.0
        self.steps = 0
        self.stepping_seconds = 0.0
        self._started: float | None = None
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        else:
            _forget_resident_peak()

    def __enter__(self) -> Self:
        """Start the clock."""
        self._started = time.perf_counter()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop the clock and add what it shows to `seconds`."""
        if self._started is not None:
            self.seconds += time.perf_counter() - self._started
            self._started = None

    def step_took(self, seconds: float) -> None:
        """Note the time of one optimizer step."""
        self.steps += 1
        self.stepping_seconds += seconds

    @property
    def step_seconds(self) -> float:
        """Mean time of an optimizer step; 0 before the first."""
        return self.stepping_seconds / self.steps if self.steps else 0.0

    @property
    def peak_bytes(self) -> int:
        """Peak memory so far."""
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_reserved(self.device))
        return _resident_peak()


def _resident_peak() -> int:
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _forget_resident_peak() -> None:
    """Give freed memory back and restart the kernel's peak, where the system can (Linux)."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        _CLEAR.write_text("5")
    except OSError:
        return
