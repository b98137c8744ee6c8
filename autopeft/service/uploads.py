"""Uploads: data files of users, kept in the workspace, read first by a process that may not take much.

Several service processes may share the folder: a file's folder comes and goes in one step, by its name.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from http import HTTPStatus
from pathlib import Path

from starlette.concurrency import run_in_threadpool

from autopeft.errors import ConfigError, DataError, StorageError, UnknownNameError
from autopeft.files import make_folder, write_atomically
from autopeft.job import Upload
from autopeft.report.facts import DataFacts
from autopeft.service.limits import Places
from autopeft.service.problems import RefusedError
from autopeft.service.replies import too_large
from autopeft.service.settings import Settings
from autopeft.service.tokens import Caller
from autopeft.units import GIB, format_bytes
from autopeft.workload.media import CONFINED

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".conll", ".iob2")
READING_BYTES, READING_SECONDS = 4 * GIB, 120
"""What the process may take that reads a file for the first time: more is a bomb, or too much to train on."""
_ID = re.compile(r"[0-9a-f]{24}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,99}")
_FACTS = ".upload.json"
_LEFT_FREE = GIB
UPLOAD_SECONDS = 1800.0
"""A file has so long to come."""
_DRAFT_SECONDS = 2 * UPLOAD_SECONDS
_AT_ONCE, _AT_ONCE_OF_ALL = 4, 40
"""Files that one user, and all of them, send and have read at once: these are in nobody's sum yet."""


class Uploads:
    """The data files of all users, each in a folder of its own."""

    def __init__(self, settings: Settings) -> None:
        self._root = Path(settings.workspace).resolve() / "uploads"
        self._most, self._kept = settings.upload_bytes, settings.kept_bytes
        self._coming = Places(_AT_ONCE, _AT_ONCE_OF_ALL)
        write_atomically(self._root / CONFINED, "")
        for draft in self._root.glob("*/.draft-*"):  # of uploads that a crash cut off
            with contextlib.suppress(FileNotFoundError):  # another process has removed it
                if time.time() - draft.stat().st_mtime > _DRAFT_SECONDS:
                    shutil.rmtree(draft, ignore_errors=True)

    @contextlib.contextmanager
    def room(self, who: Caller) -> Iterator[None]:
        """Hold one of the places for files that are sent and read at once.

        Raises:
            RefusedError: too many of the user, or of all, are.
        """
        with self._coming.one(who.user) as there_is_room:
            if not there_is_room:
                raise RefusedError(
                    HTTPStatus.TOO_MANY_REQUESTS,
                    "quota",
                    "too many files are being sent at once: wait for one of them.",
                    Retry_After="10",
                )
            yield

    async def take(self, who: Caller, name: str, parts: AsyncIterator[bytes]) -> Path:
        """Write a file as it comes, and return where it is until it was read.

        Raises:
            DataError: its name cannot be that of a data file.
            RefusedError: it is too large, or with the others of its user is.
            StorageError: there is no room.
        """
        if not _NAME.fullmatch(name) or Path(name).suffix.lower() not in SUFFIXES:
            raise DataError(
                f"a data file's name must be letters, digits, spaces and . _ -, and end in one of "
                f"{', '.join(SUFFIXES)}, but got {name[:200]!r}."
            )
        return await self._write(who, name, parts)

    async def _write(self, who: Caller, name: str, parts: AsyncIterator[bytes]) -> Path:
        home = make_folder(self._home(who))
        before = await run_in_threadpool(_size, home)
        if shutil.disk_usage(home).free < _LEFT_FREE:
            raise StorageError(f"there is less than {format_bytes(_LEFT_FREE)} of disk left for uploads.")
        draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=home))
        size = 0
        try:
            with (draft / name).open("wb") as stream:
                async for part in parts:
                    size += len(part)
                    self._check(size, before)
                    stream.write(part)
                stream.flush()
                await run_in_threadpool(os.fsync, stream.fileno())
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        return draft / name

    def _check(self, size: int, before: int) -> None:
        if size > self._most:
            raise too_large(self._most)
        if before + size > self._kept:
            raise self._over()

    def _over(self) -> RefusedError:
        return RefusedError(
            HTTPStatus.TOO_MANY_REQUESTS,
            "quota",
            f"the files of a user may have {format_bytes(self._kept)} in all: delete some.",
        )

    def keep(self, who: Caller, file: Path, fields: dict[str, object]) -> Upload:
        """Read a file that was taken, in a process of its own, and keep it; else delete it.

        Args:
            fields: `task` and `columns`, where they are not to be guessed.

        Raises:
            DataError: it cannot be learnt from.
            RefusedError: with the others of its user it is too large.
        """
        try:
            facts = _read(file, fields).model_copy(update={"source": file.name})
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256")
            digest.update(file.suffix.lower().encode())  # which decides how the bytes are read
            number = digest.hexdigest()[:24]
            size = file.stat().st_size
            upload = Upload.build(id=number, name=file.name, bytes=size, facts=facts, **fields)
            return self._put(who, file.parent, upload)
        finally:
            shutil.rmtree(file.parent, ignore_errors=True)

    def check(self, who: Caller, number: str, fields: dict[str, object]) -> None:
        """Read one of a user's files as a job would, where that is not how it was read when it came.

        Args:
            fields: `task` and `columns`, as far as a job says them.

        Raises:
            DataError: it cannot be learnt from like that.
            UnknownNameError: the user has none of that id.
        """
        file, known = self.path(who, number), self.find(who, number).facts
        columns = fields.get("columns") or {}
        same = isinstance(columns, dict) and columns.items() <= known.columns.items()
        if not same or fields.get("task") not in (None, known.task):
            _read(file, {name: value for name, value in fields.items() if value})

    def _put(self, who: Caller, draft: Path, upload: Upload) -> Upload:
        """Give a draft its place, or where the same bytes are there already, what was read to those.

        Who reads these meanwhile finds them at every moment, whichever process they came by first.
        """
        home = self._home(who) / upload.id
        while True:
            before = _kept_in(home)
            if before is not None:
                facts = upload.facts.model_copy(update={"source": before.name})
                kept = upload.model_copy(update={"name": before.name, "facts": facts})
                write_atomically(draft / _FACTS, kept.model_dump_json())
                with contextlib.suppress(FileNotFoundError):  # deleted since the look
                    (draft / _FACTS).replace(home / _FACTS)
                    return kept
            if _size(self._home(who)) > self._kept:  # with others that came meanwhile, and with copies
                raise self._over()
            write_atomically(draft / _FACTS, upload.model_dump_json())
            try:
                draft.rename(home)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                if _kept_in(home) is None:  # another did not come first: it is damaged
                    self._bury(home)
            else:
                return upload

    def _bury(self, home: Path) -> None:
        """Remove a file's folder: in one step from its place, then from the disk."""
        grave = Path(tempfile.mkdtemp(prefix=".draft-", dir=home.parent))
        try:
            with contextlib.suppress(FileNotFoundError):  # another process has removed it
                home.rename(grave)
        finally:
            shutil.rmtree(grave, ignore_errors=True)

    def list(self, who: Caller) -> tuple[Upload, ...]:
        """Return a user's files, by name."""
        homes = [home for home in self._home(who).glob("*") if _ID.fullmatch(home.name)]
        found = [upload for home in homes if (upload := _kept_in(home)) is not None]
        return tuple(sorted(found, key=lambda each: (each.name, each.id)))

    def find(self, who: Caller, number: str) -> Upload:
        """Return one of a user's files.

        Raises:
            RefusedError: the user has none of that id.
        """
        found = _kept_in(self._home(who) / number) if _ID.fullmatch(number) else None
        if found is None:
            raise RefusedError(HTTPStatus.NOT_FOUND, "not-found", f"you have no data {number[:80]!r}.")
        return found

    def path(self, who: Caller, number: str) -> Path:
        """Return where one of a user's files lies.

        Raises:
            UnknownNameError: the user has none of that id.
        """
        found = _kept_in(self._home(who) / number) if _ID.fullmatch(number) else None
        if found is None:
            known = [each.id for each in self.list(who)]
            raise UnknownNameError(
                "data", number[:80], known, "POST /api/v1/data takes a file and returns its id."
            )
        return self._home(who) / number / found.name

    def delete(self, who: Caller, number: str) -> None:
        """Delete one of a user's files."""
        self.find(who, number)
        self._bury(self._home(who) / number)

    def _home(self, who: Caller) -> Path:
        return self._root / hashlib.sha256(who.user.encode()).hexdigest()[:16]


def _kept_in(home: Path) -> Upload | None:
    """Return what is kept in a folder; None where there is no such, any more."""
    try:
        return Upload.read(home / _FACTS)
    except ConfigError:
        return None


def _size(folder: Path) -> int:
    """Return the bytes of all files in a folder; what is deleted meanwhile counts for nothing."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += Path(place, name).stat().st_size
    return total


def _read(file: Path, fields: dict[str, object]) -> DataFacts:
    """Have a file read by a process whose memory and time are limited."""
    limits = [str(READING_BYTES), str(READING_SECONDS)]
    command = [sys.executable, "-m", "autopeft.service.reading", *limits, str(file)]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(fields).encode(),
            capture_output=True,
            timeout=READING_SECONDS,
            check=False,
            cwd=file.parent,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        raise DataError(
            f"{file.name} takes more than {READING_SECONDS} s to read, so it was refused."
        ) from None
    except FileNotFoundError:
        raise DataError(f"{file.name} has been deleted.") from None
    if done.returncode == 0:
        return DataFacts.model_validate_json(done.stdout)
    if done.returncode == 2:
        words = done.stderr.decode(errors="replace").replace(str(file), file.name).strip()
        raise DataError(words.splitlines()[-1] if words else f"{file.name} cannot be read.")
    raise DataError(
        f"{file.name} cannot be read within {format_bytes(READING_BYTES)} of memory: it is damaged, "
        "or unpacks to far more than it holds."
    )
