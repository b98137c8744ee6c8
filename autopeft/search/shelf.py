"""Shelf: brings checkpoints from the nodes of a cluster into the study's folder, over Ray itself.

Nodes that share no disk with the driver train in a folder of their own. After each evaluation, and
before its report counts, the checkpoint goes as one archive through Ray's object store to the
driver's node, where it replaces the one in the study's folder. A trial that goes on elsewhere
fetches it from there.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from autopeft.errors import StorageError
from autopeft.search.desk import checkpoint_folder, last_checkpoint, replace_checkpoint


class Shelf:
    """The driver's end: an actor beside the study's folder."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def put(self, number: int, archive: bytes) -> str:
        """Replace a trial's checkpoint; return what went wrong, empty if nothing did."""
        place = checkpoint_folder(self._folder, number)
        try:
            replace_checkpoint(lambda folder: unpack_folder(archive, folder), place)
        except OSError as error:
            why = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror
            return f"{place} cannot be written: {why}."
        except StorageError as error:
            return str(error)
        return ""

    def get(self, number: int) -> bytes | None:
        """Return a trial's checkpoint; None where it has none yet."""
        saved = last_checkpoint(checkpoint_folder(self._folder, number))
        return None if saved is None else pack_folder(saved)


class Carrier:
    """The worker's end: keeps the checkpoint of the trial at hand in a folder of its own.

    Args:
        shelf: handle of the `Shelf` actor.
    """

    def __init__(self, shelf: Any) -> None:
        self._shelf = shelf
        self._scratch = Path(tempfile.mkdtemp(prefix=f"autopeft-{os.getpid()}-"))

    def fetch(self, number: int) -> Path:
        """Lay a trial's checkpoint ready, and return where the next ones go."""
        shutil.rmtree(self._scratch, ignore_errors=True)
        place = checkpoint_folder(self._scratch, number)
        archive = ray.get(self._shelf.get.remote(number))
        if archive is not None:
            unpack_folder(archive, place)
        return place

    def keep(self, number: int) -> None:
        """Bring the checkpoint to the study's folder; it is on its disk when this returns.

        Raises:
            StorageError: it cannot be written there.
        """
        archive = pack_folder(checkpoint_folder(self._scratch, number))
        if problem := ray.get(self._shelf.put.remote(number, archive)):
            raise StorageError(problem)

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self._scratch, ignore_errors=True)


def start_shelf(folder: Path) -> Any:
    """Start the shelf on the node of the driver."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Shelf).options(num_cpus=0, scheduling_strategy=here).remote(str(folder))


def pack_folder(folder: Path) -> bytes:
    """Return a folder's files as one archive."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.add(folder, arcname=".")
    return stream.getvalue()


def unpack_folder(archive: bytes, folder: Path) -> None:
    """Write the files of an archive into a folder, and nothing outside it."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        opened.extractall(folder, filter="data")
