"""Doctor: whether everything autopeft needs is there, and how to mend what is not."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from autopeft.errors import StorageError
from autopeft.files import cache_folder
from autopeft.message import Message
from autopeft.units import GIB, format_bytes

_SECONDS = 5
"""A server that does not answer for so long is not there."""

State = Literal["ok", "warn", "fail"]
LEAST_PYTHON = (3, 11)
LEAST_DISK, LEAST_MEMORY = 3 * GIB, 3 * GIB
"""A demo study with its cache takes under 2 GiB of disk, its two training processes about 2 GiB."""


class Check(Message):
    """One thing looked at.

    Attributes:
        found: what is there.   mend: what to do about it, where it is not well.
    """

    name: str
    state: State
    found: str
    mend: str = ""


def examine(workspace: Path, storage: str | None = None, mlflow: str | None = None) -> tuple[Check, ...]:
    """Look at interpreter, packages, devices, memory and disk; change nothing.

    Args:
        storage: URL of the database of studies, and mlflow: address of the tracking server; if there are any,
            whether they answer.
    """
    return (
        _python(),
        *(_package(name, least) for name, least in _lower_bounds().items()),
        _optional("bitsandbytes", "quant", "4-bit and 8-bit base weights"),
        _optional("gguf", "demo", "`autopeft run --demo sft`"),
        _device(),
        _memory(),
        _place("workspace", lambda: workspace),
        _place("cache", cache_folder),
        *([_database(storage)] if storage else []),
        *([_server(mlflow)] if mlflow else []),
    )


def _python() -> Check:
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] >= LEAST_PYTHON:
        return Check(name="python", state="ok", found=found)
    return Check(name="python", state="fail", found=found, mend="install Python 3.11 or newer")


def _lower_bounds() -> dict[str, str]:
    """Read from the installed metadata which versions autopeft was made for."""
    from packaging.requirements import Requirement

    watched = ("torch", "transformers", "peft", "ray", "optuna", "mlflow")
    bounds = dict.fromkeys(watched, "0")
    try:
        lines = metadata.requires("autopeft") or []
    except metadata.PackageNotFoundError:
        lines = []
    for line in lines:
        requirement = Requirement(line)
        if requirement.name in bounds and requirement.marker is None:
            bounds[requirement.name] = next((one.version for one in requirement.specifier), "0")
    return bounds


def _package(name: str, least: str) -> Check:
    from packaging.version import Version

    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Check(name=name, state="fail", found="not installed", mend=f"pip install '{name}>={least}'")
    if Version(found) >= Version(least):
        return Check(name=name, state="ok", found=found)
    return Check(
        name=name, state="fail", found=f"{found}, older than {least}", mend=f"pip install '{name}>={least}'"
    )


def _optional(package: str, extra: str, purpose: str) -> Check:
    try:
        return Check(name=package, state="ok", found=metadata.version(package))
    except metadata.PackageNotFoundError:
        mend = f"pip install 'autopeft[{extra}]'"
        return Check(name=package, state="warn", found=f"not installed: no {purpose}", mend=mend)


def _device() -> Check:
    try:
        import torch
    except ImportError as error:
        return Check(name="device", state="fail", found=f"torch: {error}", mend="pip install torch")
    if torch.cuda.is_available():
        each = torch.cuda.get_device_properties(0)
        return Check(name="device", state="ok", found=f"{each.name}, {format_bytes(each.total_memory)}")
    if shutil.which("nvidia-smi"):
        return Check(
            name="device",
            state="warn",
            found=f"an NVIDIA driver, but torch {torch.__version__} sees no CUDA device",
            mend="install a CUDA build of torch that the driver supports (nvidia-smi shows its version)",
        )
    return Check(name="device", state="ok", found=f"CPU, {os.cpu_count()} cores")


def _memory() -> Check:
    import psutil

    free = int(psutil.virtual_memory().available)
    found = f"{format_bytes(free)} free"
    if free >= LEAST_MEMORY:
        return Check(name="memory", state="ok", found=found)
    return Check(name="memory", state="warn", found=found, mend="close programs, or train with --mem 2GB")


def _place(name: str, locate: Callable[[], Path]) -> Check:
    """Look whether a folder, or the nearest one above it that exists, can be written and has room."""
    try:
        folder = locate().absolute()
        there = next(path for path in (folder, *folder.parents) if path.exists())
        with tempfile.TemporaryFile(dir=there):
            free = shutil.disk_usage(there).free
    except StorageError as error:
        return Check(name=name, state="fail", found=str(error), mend="name another place: AUTOPEFT_CACHE=DIR")
    except OSError as error:
        found = f"{there} cannot be written: {error.strerror}"
        return Check(name=name, state="fail", found=found, mend="name another place or change its rights")
    found = f"{folder}, {format_bytes(free)} free"
    if free >= LEAST_DISK:
        return Check(name=name, state="ok", found=found)
    return Check(
        name=name, state="warn", found=found, mend=f"make room: {format_bytes(LEAST_DISK)} is enough"
    )


def _database(address: str) -> Check:
    """Look whether a database answers."""
    import sqlalchemy as sql
    from sqlalchemy.exc import SQLAlchemyError

    try:
        url = sql.engine.make_url(address)
        shown = url.render_as_string(hide_password=True)
        waiting = {"connect_timeout": _SECONDS} if url.get_backend_name() != "sqlite" else {}
        engine = sql.create_engine(url, connect_args=waiting)
        with engine.connect() as connection:
            connection.execute(sql.text("SELECT 1"))
        engine.dispose()
    except ModuleNotFoundError as error:
        return Check(
            name="storage",
            state="fail",
            found=f"{shown} needs {error.name}, which is not installed",
            mend=f"pip install {error.name}",
        )
    except SQLAlchemyError as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        return Check(
            name="storage",
            state="fail",
            found=f"no answer: {reason}",
            mend="start the database, or see to its address, user and password",
        )
    return Check(name="storage", state="ok", found=shown)


def _server(address: str) -> Check:
    """Look whether something listens where the tracking server should be; a file needs nobody to listen."""
    place = urlsplit(address)
    if place.scheme not in ("http", "https"):
        return Check(name="tracking server", state="ok", found=address)
    found = f"{place.hostname}:{place.port or (443 if place.scheme == 'https' else 80)}"
    host, _, port = found.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_SECONDS).close()
    except OSError as error:
        mend = "start the server; until then runs are kept, and autopeft sync sends them later"
        return Check(
            name="tracking server", state="fail", found=f"{found}: {error.strerror or error}", mend=mend
        )
    return Check(name="tracking server", state="ok", found=f"{found} listens")
