"""A directory as data: files in class folders, with or without folders of splits above them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from autopeft.errors import DataError
from autopeft.workload.media import KINDS, role_of
from autopeft.workload.tables import Table

SPLITS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
"""Names of splits, of folders and in columns."""


def read_folder(folder: Path) -> Table:
    """Read files in class folders as a table of paths and classes: FOLDER/class/file.

    FOLDER/train/class/file, FOLDER/test/class/file and FOLDER/validation/class/file give the splits, too. A
    class folder may have folders of its own; files whose names start with a dot are left out.

    Raises:
        DataError: there are no class folders, one is empty, or images are mixed with sounds.
    """
    inner = _folders(folder)
    splits = [each for each in inner if each.name.lower() in SPLITS and _folders(each)]
    found: list[tuple[Path | None, Path]]
    if "train" in {SPLITS[each.name.lower()] for each in splits}:
        found = [(split, each) for split in splits for each in _folders(split)]
        columns: tuple[str, ...] = ("label", "split")
    else:
        found, columns = [(None, each) for each in inner], ("label",)
    rows: list[dict[str, str]] = []
    roles: Counter[str] = Counter()
    others = 0
    for split, place in found:
        files = [file for file in sorted(place.rglob("*")) if _counts(file, place)]
        named = [(file, role_of(file.name)) for file in files]
        others += sum(role is None for _, role in named)
        cells = {"label": place.name, **({"split": split.name} if split else {})}
        taken = [(file, role) for file, role in named if role is not None]
        if not taken and any(role_of(file.name) for other in inner for file in other.rglob("*")):
            raise DataError(
                f"{place.relative_to(folder.parent)} must hold at least one image or sound like the other "
                f"class folders, but holds {len(files)} other files: fill it, or remove it."
            )
        for file, role in taken:
            roles[str(role)] += 1
            rows.append({str(role): str(file.relative_to(folder)), **cells})
    if not rows:
        raise DataError(_no_data(folder))
    if len(roles) > 1:
        counted = " and ".join(f"{count} {KINDS[role].medium}s" for role, count in roles.items())
        raise DataError(f"{folder} must hold either images or sounds, but holds {counted}: keep one kind.")
    role = next(iter(roles))
    return Table(
        file=folder,
        columns=(role, *columns),
        rows=list(rows),
        places=[row[role] for row in rows],
        notes=(f"{others} files left out that are neither image nor sound",) if others else (),
    )


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}.") from None


def _counts(file: Path, place: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(place).parts)
    return not hidden and file.is_file()


def _no_data(folder: Path) -> str:
    law = (
        f"the directory {folder} must hold a folder of images or sounds for each class, such as "
        f"{folder.name or folder}/cat/1.png, "
        "the Arrow files of a saved dataset or Parquet files"
    )
    loose = sum(role_of(each.name) is not None for each in folder.iterdir())
    if loose:
        return f"{law}, but its {loose} files are in no class folder: sort them into folders named by class."
    tables = sorted(each.name for each in folder.glob("*.*") if each.suffix in (".csv", ".jsonl", ".json"))
    hint = f": name one file, such as {folder / tables[0]}" if tables else ""
    return f"{law}, but holds none{hint}."
