"""Where Ray runs: started on this machine for a search, or a cluster that runs already."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import autopeft
from autopeft.errors import AutopeftError, InputError
from autopeft.search.desk import reason_of

OBJECT_STORE_BYTES = 200 * 2**20
INSPECTION_SECONDS = 120.0
STARTS = 6
"""Ray gives its own processes 30 s to start, which a machine busy with other work may not keep."""
_OWN = ("raylet", "gcs_server")
_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # By default workers are so nice that other work starves trainings, which were predicted without that.
    "RAY_worker_niceness": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_SYNCER": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_WARN_THRESHOLD_S": "3600",
}


@contextlib.contextmanager
def ray_here(concurrent: int, gpus: float) -> Iterator[Callable[[], bool]]:
    """Start Ray on this machine, with room for so many trials and shares of a GPU each.

    Yields:
        A function that says whether Ray's own processes, the object store among them, are alive.

    Raises:
        AutopeftError: it cannot start.
    """
    with _environment(_QUIET | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}):
        _connect(
            f"Ray cannot start on {socket.gethostname()}",
            address="local",
            num_cpus=concurrent,
            num_gpus=math.ceil(gpus * concurrent) if gpus else 0,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
        )
        own = [one for one in psutil.Process().children() if one.name() in _OWN and _lives(one)]
        try:
            yield lambda: all(_lives(one) for one in own)
        finally:
            ray.shutdown()


@contextlib.contextmanager
def ray_at(address: str) -> Iterator[Callable[[], bool]]:
    """Join the cluster at an address: `auto` (the one this machine belongs to) or `HOST:PORT`.

    Raises:
        InputError: the address cannot be that of a cluster, or this machine is no node of it.
        AutopeftError: nobody answers there.
    """
    place = _checked(address)
    with _environment(_QUIET):
        _connect(
            f"no Ray cluster can be joined at {address!r} (`ray start --address=HOST:PORT` makes this "
            "machine a node of one)",
            address=place,
        )
        try:
            yield lambda: True  # a cluster is looked after by whoever runs it
        finally:
            ray.shutdown()


def count_slots(threads: int, gpus: float, most: int) -> int:
    """Return how many trials the nodes of the cluster can train at once.

    Args:
        threads: CPUs for each.   gpus: share of a GPU for each.
        most: that a machine like this one can train at once, its memory considered.

    Raises:
        InputError: no node can train one.
    """
    slots = 0
    for resources in (node["Resources"] for node in _nodes()):
        room = [most, int(resources.get("CPU", 0) // threads)]
        room += [int(resources.get("GPU", 0) / gpus)] if gpus else []
        slots += max(0, min(room))
    if not slots:
        has = "; ".join(sorted({_said(node["Resources"]) for node in _nodes()}))
        asked = _said({"CPU": threads, "GPU": gpus})
        raise InputError(f"a node of the cluster must have {asked} for a trial, but they have: {has}.")
    return slots


def count_nodes(address: str) -> int:
    """Return how many nodes the cluster at an address has now."""
    with ray_at(address):
        return len(_nodes())


def inspect_nodes(needed: Sequence[Path]) -> None:
    """Check that every node has this autopeft and the files that a training reads.

    Raises:
        InputError: one lacks something; the message says which and what.
    """
    paths = [str(path.resolve()) for path in needed]
    asked = {}
    for node in _nodes():
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        task = ray.remote(_look).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
        asked[f"{node['NodeManagerHostname']} ({node['NodeID'][:6]})"] = task.remote(paths)
    for name, answer in asked.items():
        try:
            version, missing = ray.get(answer, timeout=INSPECTION_SECONDS)
        except (ray.exceptions.RayError, TimeoutError, ImportError) as error:
            raise InputError(
                f"every node must have autopeft {autopeft.__version__} and its libraries installed, but node "
                f"{name} says: {reason_of(error)}"
            ) from None
        if version != autopeft.__version__:
            raise InputError(
                f"every node must have autopeft {autopeft.__version__}, but node {name} has {version}."
            )
        if missing:
            raise InputError(
                f"every node must have {missing[0]} (put it on a disk that all share, or copy it to the same "
                f"place), but node {name} has not."
            )


def _look(paths: list[str]) -> tuple[str, list[str]]:
    """Say what a node has, on that node."""
    return autopeft.__version__, [path for path in paths if not Path(path).exists()]


def _nodes() -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in nodes if node["Alive"]]


def _said(resources: Mapping[str, float]) -> str:
    return f"{resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs"


def _checked(address: str) -> str:
    if address.startswith("ray://"):
        raise InputError(
            f"a search must be started on a machine of its cluster, but {address!r} is the address for "
            "programs outside it; run autopeft on a node, with --address auto or HOST:PORT."
        )
    host, _, port = address.rpartition(":")
    if address != "auto" and not (host and port.isdecimal()):
        raise InputError(f"a cluster's address must be auto or HOST:PORT, but got {address!r}.")
    if address != "auto":
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except (OSError, OverflowError) as error:
            raise InputError(
                f"no Ray cluster answers at {address} ({error}); start one with `ray start --head`, or leave "
                "--address out."
            ) from None
    return address


def _connect(failed: str, **how: Any) -> None:
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    before = set(psutil.Process().children(recursive=True))
    for left in reversed(range(STARTS)):
        try:
            ray.init(log_to_driver=False, logging_level=logging.CRITICAL, **how)
        except Exception as error:  # noqa: BLE001 (Ray raises a bare one where its processes are late)
            ray.shutdown()
            _end(set(psutil.Process().children(recursive=True)) - before)
            if not left or isinstance(error, ConnectionError):
                raise AutopeftError(f"{failed}: {reason_of(error)}.") from None
        else:
            return


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _end(processes: Iterable[psutil.Process]) -> None:
    """Kill what a start that failed left running."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables, which worker processes inherit, for a while."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
