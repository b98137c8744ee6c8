"""Swap: a directory is filled beside its place and put there at once; a kill leaves the old or the new."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from autopeft.errors import ExportError, StorageError
from autopeft.export.owned import ANOTHER_PLACE, require_owned
from autopeft.files import make_folder

_EXCHANGE = 2  # RENAME_EXCHANGE of <linux/fs.h>
_HERE = -100  # AT_FDCWD of <fcntl.h>: paths are relative to the working directory
_CANNOT = (errno.EINVAL, errno.ENOSYS, errno.EXDEV, errno.EOPNOTSUPP)


@contextlib.contextmanager
def replacing(target: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield an empty directory that takes the place of `target` when the block ends without an error.

    At every moment `target` is the old directory or the new one, whole. What an export that was killed left
    beside it is removed.

    Who may read what it holds the user's umask says, also of files that libraries write for their user
    alone; a directory that is replaced keeps its mode.

    Args:
        force: replace a directory that autopeft wrote, or that is empty.

    Raises:
        ExportError: `target` exists and `force` is not given, or it is nothing that may be replaced.
        StorageError: it cannot be written.
    """
    target = Path(os.path.abspath(target))  # noqa: PTH100 (a link of that name is to be refused, not followed)
    recover(target)
    require_free(target, force=force)
    make_folder(target.parent)
    try:
        _sweep(target)
        staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=_prefix(target)))
    except OSError as error:
        raise StorageError(f"{target} cannot be written: {error.strerror}.") from None
    lock = os.open(staging, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks: nobody sweeps there
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield staging
        if target.exists() and not force:
            raise ExportError(f"{target} came into being meanwhile; name another place or pass --force.")
        require_free(target, force=force)
        _open_as_usual(staging, target)
        _sync(staging)
        _put(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        os.close(lock)


def require_free(target: Path, *, force: bool) -> None:
    """Check that a directory may be written.

    Raises:
        ExportError: it is there and `force` is not given, or it is nothing that may be replaced.
    """
    if not os.path.lexists(target):
        return
    _require_replaceable(target)
    if not force:
        raise ExportError(f"{target} exists already; name another place with --out or pass --force.")
    require_owned(target)


def recover(target: Path) -> None:
    """Put back what a killed export had set aside, on a file system that cannot exchange directories."""
    target = Path(os.path.abspath(target))  # noqa: PTH100 (a link of that name is not followed)
    aside = _aside(target)
    if aside.is_dir() and not target.exists():
        aside.rename(target)


def exchange(one: Path, other: Path) -> bool:
    """Exchange two directories in one step (renameat2 of Linux); False where the system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    if rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _CANNOT:
        return False
    raise OSError(code, os.strerror(code), str(other))


def _require_replaceable(target: Path) -> None:
    """Check that a place is a directory whose name can be given to another.

    Raises:
        ExportError: it is not.
    """
    here = Path.cwd()
    if target.is_symlink():
        what = "is a link"
    elif not target.is_dir():
        what = "is a file"
    elif target.resolve() in (here, *here.parents):
        what = "is the working directory, or holds it"
    else:
        return
    raise ExportError(f"{target} {what}, and is not replaced; {ANOTHER_PLACE}.")


def _put(staging: Path, target: Path) -> None:
    if not target.exists():
        staging.rename(target)
    elif not exchange(staging, target):
        # Between these two a kill leaves no directory, and `recover` puts the old one back.
        aside = _aside(target)
        shutil.rmtree(aside, ignore_errors=True)
        target.rename(aside)
        staging.rename(target)
        shutil.rmtree(aside, ignore_errors=True)


def _sweep(target: Path) -> None:
    """Remove what killed exports left: directories that no living process has locked."""
    for left in target.parent.glob(f"{_prefix(target)}*"):
        if not left.is_dir():
            continue
        handle = os.open(left, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        else:
            shutil.rmtree(left, ignore_errors=True)
        finally:
            os.close(handle)


def _open_as_usual(folder: Path, before: Path) -> None:
    """Give everything the mode that a new file or directory of the user gets."""
    new = folder / ".mode"
    new.touch()
    of_files = stat.S_IMODE(new.stat().st_mode)
    new.unlink()
    new.mkdir()
    of_folders = stat.S_IMODE(new.stat().st_mode)
    new.rmdir()
    for place in folder.rglob("*"):
        if not place.is_symlink():
            place.chmod(of_folders if place.is_dir() else of_files)
    folder.chmod(stat.S_IMODE(before.stat().st_mode) if before.is_dir() else of_folders)


def _sync(folder: Path) -> None:
    """Have the disk hold what was written before its name changes."""
    for place in (*folder.rglob("*"), folder):
        handle = os.open(place, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _prefix(target: Path) -> str:
    return f".{target.name}.new."


def _aside(target: Path) -> Path:
    return target.parent / f".{target.name}.old"
