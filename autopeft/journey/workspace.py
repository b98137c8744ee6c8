"""Workspace: where a study keeps its files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from autopeft.errors import InputError, UnknownNameError
from autopeft.search.latest import MARK, searched_at
from autopeft.search.store import LOCK, StudyStore

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class StudyFolder:
    """The files of one study."""

    path: Path

    @property
    def store(self) -> Path:
        """SQLite database of the trials."""
        return self.path / "study.db"

    @property
    def storage(self) -> Path:
        """Address of the database that holds the study instead, without a password."""
        return self.path / "storage.url"

    @property
    def entries(self) -> frozenset[Path]:
        """What lies in the folder; nothing where there is none."""
        return frozenset(self.path.iterdir()) if self.path.is_dir() else frozenset()

    @property
    def has_store(self) -> bool:
        """Whether there is a database, or the address of one; the study need not be in it yet."""
        return self.store.exists() or self.storage.exists()

    @property
    def data(self) -> Path:
        """What is known of the dataset, without its rows."""
        return self.path / "data.json"

    @property
    def stages(self) -> Path:
        """Wall time of each stage so far."""
        return self.path / "stages.json"

    @property
    def session(self) -> Path:
        """How long the last session took that came to its end."""
        return self.path / "session.json"

    @property
    def scores(self) -> Path:
        """Test scores of every trial that was ever scored on the test rows."""
        return self.path / "scores.json"

    @property
    def facts(self) -> Path:
        """Everything the report shows."""
        return self.path / "facts.json"

    @property
    def bundle(self) -> Path:
        """The exported adapter, unless it was put elsewhere."""
        return self.exported(None, "adapter")

    @property
    def report(self) -> Path:
        """The report page."""
        return self.path / "report.html"

    @property
    def served_report(self) -> Path:
        """The report page for others, which names no places of this disk."""
        return self.path / "report-served.html"

    def exported(self, trial: int | None, form: str) -> Path:
        """Where a form of a trial is exported to; None is the winner."""
        name = "bundle" if trial is None else f"bundle-{trial:04d}"
        return self.path / (name if form == "adapter" else f"{name}-{form}")

    def checkpoint(self, trial: int) -> Path:
        """Where a trial keeps what it takes to go on."""
        return self.path / "trials" / f"{trial:04d}" / "checkpoint"

    def refit(self, trial: int) -> Path:
        """Where a trial's configuration, trained once more on all rows but the test's, is kept."""
        return self.path / "trials" / f"{trial:04d}" / "refit" / "checkpoint"

    @property
    def memory(self) -> Path:
        """What the search began with."""
        return self.path / "memory.json"

    @property
    def no_refit(self) -> Path:
        """Why the refit that was asked for did not come about."""
        return self.path / "no-refit.txt"


def open_store(folder: StudyFolder, storage: str | None = None) -> StudyStore:
    """Open the store of a study: that of the database given, or where the study was begun.

    Raises:
        StorageError: the database cannot be used.
    """
    place = storage
    if place is None and folder.storage.exists():
        place = folder.storage.read_text(encoding="utf-8").strip()
    if place is None:
        return StudyStore(folder.store)
    if "://" not in place:
        raise InputError(f"a study's database must be a URL (postgresql+psycopg://...), but got {place!r}.")
    return StudyStore(place, name=folder.path.name, folder=folder.path)


def is_begun(folder: StudyFolder, storage: str | None = None) -> bool:
    """Say whether a study was begun in a folder; one that was cut off before it was written was not.

    Raises:
        StorageError: the database cannot be used.
    """
    if not folder.has_store:
        return False
    store = open_store(folder, storage)
    try:
        return store.exists()
    finally:
        store.close()


def study_folder(workspace: str, name: str) -> StudyFolder:
    """Return the folder of a study, which need not exist.

    Raises:
        InputError: the name cannot be that of a folder.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"a study's name must be letters, digits, dots, dashes and underscores, but got {name!r}."
        )
    return StudyFolder(Path(workspace) / "studies" / name)


@contextmanager
def nothing_left(folder: StudyFolder, before: frozenset[Path]) -> Iterator[None]:
    """Take away what a study has written where what is done inside fails before it is begun.

    Args:
        before: what lay in the folder before it was claimed, which stays; the folder stays for it, too.
    """
    try:
        yield
    except BaseException:
        ours = {folder.stages, folder.memory, folder.data, folder.path / MARK, folder.path / LOCK}
        if not folder.has_store:
            with suppress(OSError):
                for file in ours - before:
                    file.unlink(missing_ok=True)
                folder.path.rmdir()
        raise


def existing_study(workspace: str, name: str | None) -> StudyFolder:
    """Return the folder of a study that was begun; without a name, of the one that was searched last.

    Raises:
        UnknownNameError: there is none.
    """
    begun = (path for path in Path(workspace).glob("studies/*") if StudyFolder(path).has_store)
    names = [path.name for path in sorted(begun, key=searched_at, reverse=True)]
    if name is None and names:
        return study_folder(workspace, names[0])
    if name is None or name not in names:
        raise UnknownNameError("study", name or "(latest)", names, hint=f"Looked in {workspace}/studies.")
    return study_folder(workspace, name)
