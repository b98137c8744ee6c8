"""Desk: where a process trains one trial, a piece at a time, with its checkpoints on disk."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from autopeft.errors import StorageError
from autopeft.files import make_folder
from autopeft.search.searcher import RunFactory, TrialRun
from autopeft.search.shortage import OUT_OF_MEMORY
from autopeft.space.candidate import Candidate
from autopeft.train.result import Report

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_MEMORY_SIGNS = (
    *("out of memory", "outofmemory", "allocate memory", "not enough memory", "memoryerror", "bad_alloc"),
)


@dataclass(frozen=True)
class Failure:
    """Why a trial cannot go on; the study can."""

    reason: str


@dataclass(frozen=True)
class CutOff:
    """A trial's process was ended for the time budget; its last checkpoint is whole."""


class Desk:
    """Trains one trial at a time in this process; never raises for what is the trial's own fault.

    Args:
        factory: makes the runs.
        seed: of every trial's first run, so that they differ by their candidates alone.
    """

    def __init__(self, factory: RunFactory, seed: int) -> None:
        self._factory = factory
        self._seed = seed
        self._run: TrialRun | None = None

    def take(self, candidate: Candidate, checkpoint: Path, repetition: int = 0) -> None:
        """Clear the desk and put this trial on it; the first `advance` sets it up."""
        self._run = None
        self._repetition = repetition
        self._candidate = candidate
        self._checkpoint = checkpoint

    def advance(self, samples: int) -> Report | Failure:
        """Train until `samples` rows in all have been seen, evaluate, and keep the checkpoint.

        Raises:
            StorageError: the checkpoint cannot be written: no trial can go on.
        """
        try:
            if self._run is None:
                self._run = self._factory(self._candidate, self._seed + self._repetition)
                if (saved := last_checkpoint(self._checkpoint)) is not None:
                    self._run.restore(saved)
            report = self._run.advance(samples)
            replace_checkpoint(self._run.save, self._checkpoint)
        except StorageError:
            raise
        except Exception as error:  # noqa: BLE001 (whatever a trial dies of is its result)
            self._run = None
            if isinstance(error, OSError) and error.errno in _DISK_FULL:
                raise StorageError(
                    f"{self._checkpoint} cannot be written: the disk is full; free some space and go on with "
                    "--resume."
                ) from None
            return Failure(reason_of(error))
        return report


def checkpoint_folder(folder: Path, number: int) -> Path:
    """Return where a trial keeps its last checkpoint, the adapter included."""
    return folder / "trials" / f"{number:04d}" / "checkpoint"


def forget(folder: Path, numbers: Iterable[int]) -> None:
    """Delete the checkpoints of trials that will not go on."""
    for number in numbers:
        drop_checkpoint(checkpoint_folder(folder, number))


def drop_checkpoint(folder: Path) -> None:
    """Delete a trial's checkpoint, with what a save that failed has left beside it."""
    for place in (folder, *_beside(folder)):
        shutil.rmtree(place, ignore_errors=True)


def reason_of(error: BaseException) -> str:
    """Say on one line why a trial failed; running out of memory is called so."""
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    short_of_memory = isinstance(error, MemoryError) or any(sign in text.lower() for sign in _MEMORY_SIGNS)
    return f"{OUT_OF_MEMORY} ({text})" if short_of_memory else text


def replace_checkpoint(save: Callable[[Path], None], folder: Path) -> None:
    """Replace the checkpoint so that a crash at any moment leaves the old one or the new one."""
    new, old = _beside(folder)
    shutil.rmtree(new, ignore_errors=True)
    save(make_folder(new))
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def last_checkpoint(folder: Path) -> Path | None:
    """Return where a trial's last whole checkpoint lies; None where there is none."""
    _, old = _beside(folder)
    return next((place for place in (folder, old) if place.is_dir()), None)


def _beside(folder: Path) -> tuple[Path, Path]:
    """Return where a checkpoint is while it is written, and where the one before is meanwhile."""
    return folder.with_name("checkpoint.new"), folder.with_name("checkpoint.old")
