"""What this process may use of the machine: memory and cores, container limits included."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


def memory_limits(cgroups: Path = _CGROUPS, membership: Path = _MEMBERSHIP) -> tuple[int, int]:
    """Return the bytes this process could ever have and the bytes it could still take now.

    The machine's memory, cut by the tightest control group (versions 1 and 2) above the process.
    File cache of a group counts as free, as the kernel drops it before it kills.
    """
    machine = psutil.virtual_memory()
    total, free = int(machine.total), int(machine.available)
    for folder in _groups(cgroups, membership, "memory"):
        limit = _number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes")
        used = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes")
        # Version 1 writes "no limit" as a number near 2**63.
        if limit is None or limit >= machine.total:
            continue
        total = min(total, limit)
        free = min(free, max(limit - ((used or 0) - _cached(folder)), 0))
    return total, free


def core_limit(cgroups: Path = _CGROUPS, membership: Path = _MEMBERSHIP) -> int:
    """Return how many cores this process may keep busy: affinity cut by control group quotas."""
    # Only Linux knows an affinity.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = core_quota(cgroups, membership)
    return cores if limit is None else min(cores, max(math.ceil(limit.cores), 1))


class CoreQuota(NamedTuple):
    """The tightest quota of cores above this process, and the control group that it is shared in."""

    cores: float
    folder: Path

    @property
    def used_seconds(self) -> float | None:
        """What all processes of the group have computed so far; None where it does not say (version 1)."""
        used = _statistics(self.folder / "cpu.stat").get("usage_usec")
        return None if used is None else used / 1e6


def core_quota(cgroups: Path = _CGROUPS, membership: Path = _MEMBERSHIP) -> CoreQuota | None:
    """Return the tightest quota of cores that control groups set; None where none does."""
    found = ((_quota(folder), folder) for folder in _groups(cgroups, membership, "cpu"))
    return min((CoreQuota(cores, folder) for cores, folder in found if cores is not None), default=None)


def _groups(cgroups: Path, membership: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of the control groups above this process that steer `controller`."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = cgroups / controller if controllers else cgroups
        group = Path(place.lstrip("/"))
        # In a container the path may be the host's, of which only the root is mounted.
        yield from (root / part for part in (group, *group.parents) if (root / part).is_dir())


def _quota(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except (OSError, ValueError):
        quota_us, period_us = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        return quota_us / period_us if quota_us and period_us and quota_us > 0 else None
    return float(quota) / float(period) if quota != "max" else None


def _cached(folder: Path) -> int:
    stat = _statistics(folder / "memory.stat")
    return stat.get("total_inactive_file", stat.get("inactive_file", 0))


def _statistics(file: Path) -> dict[str, int]:
    """Read lines of a name and a number; nothing where there are none."""
    try:
        rows = (line.split() for line in file.read_text().splitlines())
        return {row[0]: int(row[1]) for row in rows if len(row) == 2}
    except (OSError, ValueError):
        return {}


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None
