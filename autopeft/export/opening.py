"""Open a bundle: what it says of itself, once every file is what it was when it was written."""

from __future__ import annotations

import hashlib
from pathlib import Path

from autopeft.errors import BundleError, InputError
from autopeft.export.bundle import Bundle
from autopeft.export.names import MANIFEST
from autopeft.export.swap import recover

_CODE = (".bin", ".pkl", ".pickle", ".pt", ".pth", ".py", ".so")
_BLOCK = 1 << 20


def read_bundle(place: Path) -> Bundle:
    """Read what a directory says of itself; its files are not looked at.

    Raises:
        InputError: there is no bundle.
        ConfigError: what it says of itself cannot be read.
    """
    recover(place)
    if not (place / MANIFEST).is_file():
        raise InputError(f"a bundle is a directory with {MANIFEST} in it, but {place} has none.")
    return Bundle.read(place / MANIFEST).model_copy(update={"path": str(place)})


def open_bundle(place: Path) -> Bundle:
    """Read a bundle and hold each of its files against its checksum.

    Raises:
        InputError: there is no bundle, or what it says of itself cannot be read.
        BundleError: a file is missing, was changed or cut short, or could hold code.
    """
    bundle = read_bundle(place)
    faults = list(faults_of(place, bundle))
    if faults:
        raise BundleError(
            f"{place} is not as it was exported: {'; '.join(faults)}. Copy it again, or export it anew."
        )
    return bundle


def faults_of(place: Path, bundle: Bundle) -> list[str]:
    """Say of each file what is wrong with it."""
    if not bundle.files:
        return [f"{MANIFEST} lists no checksums"]
    faults = [
        fault for name, digest in sorted(bundle.files.items()) if (fault := _fault(place, name, digest))
    ]
    faults += [
        f"{name} is not listed and could hold code"
        for name in names_in(place)
        if Path(name).suffix in _CODE and name not in bundle.files
    ]
    return faults


def checksum(file: Path) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def checksums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a directory but the manifest, by its path inside."""
    return {name: checksum(folder / name) for name in names_in(folder)}


def names_in(folder: Path) -> list[str]:
    """Return the files of a directory but the manifest, by their paths inside."""
    found = sorted(each.relative_to(folder).as_posix() for each in folder.rglob("*") if each.is_file())
    return [name for name in found if name != MANIFEST]


def _fault(place: Path, name: str, digest: str) -> str | None:
    file = place / name
    if file.suffix in _CODE:
        return f"{name} could hold code"
    if not file.is_file():
        return f"{name} is missing"
    try:
        found = checksum(file)
    except OSError as error:
        return f"{name} cannot be read ({error.strerror})"
    if found == digest:
        return None
    return f"{name} is empty" if not file.stat().st_size else f"{name} has another checksum"
