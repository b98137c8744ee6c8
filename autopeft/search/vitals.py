"""Vitals: what the machine of a trial is doing, under the names that MLflow shows as system metrics."""

from __future__ import annotations

import sys

import psutil

_MEGABYTE = 10**6


class Vitals:
    """Measures from one call of `take` to the next, in the process that trains."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self.take()

    def take(self) -> dict[str, float]:
        """Return the shares of CPU since the call before, and the memory in use now."""
        memory = psutil.virtual_memory()
        found = {
            "system/cpu_utilization_percentage": psutil.cpu_percent(),
            "system/process_cpu_utilization_percentage": self._process.cpu_percent(),
            "system/process_memory_usage_megabytes": self._process.memory_info().rss / _MEGABYTE,
            "system/system_memory_usage_megabytes": memory.used / _MEGABYTE,
            "system/system_memory_usage_percentage": memory.percent,
        }
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            free, total = torch.cuda.mem_get_info()
            found["system/gpu_0_memory_usage_megabytes"] = (total - free) / _MEGABYTE
            found["system/gpu_0_memory_usage_percentage"] = 100 * (1 - free / total)
        return found
