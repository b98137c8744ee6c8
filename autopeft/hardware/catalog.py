"""profiles/*.yaml in and out: devices by name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydantic

from autopeft.errors import ConfigError, UnknownNameError
from autopeft.files import WORKSPACE, shipped, write_atomically
from autopeft.hardware.profile import HardwareProfile
from autopeft.message import explain

_SUFFIXES = (".yaml", ".yml")
_BRANDS = re.compile(r"^(nvidia-|amd-|intel-|apple-)?(tesla-|geforce-|instinct-|quadro-)?")


def profile_folders(workspace: Path = WORKSPACE) -> tuple[Path, ...]:
    """Return where profiles are looked for; a user's own wins over a shipped one of the same name."""
    return workspace / "profiles", shipped("profiles")


def load_profile(name_or_path: str, folders: Sequence[Path] | None = None) -> HardwareProfile:
    """Read one device by its name ("l40s", "RTX 4090") or from a YAML file.

    Args:
        name_or_path: a name is a file of that name in one of `folders`; what ends in .yaml is a path.
        folders: the first that has the name wins; None means `profile_folders()`.

    Raises:
        UnknownNameError: no folder has a profile of that name.
        ConfigError: the file cannot be read or is no profile.
    """
    if name_or_path.endswith(_SUFFIXES):
        return _read(Path(name_or_path))
    files = _files(profile_folders() if folders is None else folders)
    name = _as_file_name(name_or_path)
    file = files.get(name) or files.get(_BRANDS.sub("", name))
    if file is None:
        raise UnknownNameError("device", name_or_path, files, "A path to a profile (.yaml) works too.")
    return _read(file)


def list_profiles(folders: Sequence[Path] | None = None) -> tuple[HardwareProfile, ...]:
    """Read every device of the folders, by name.

    Raises:
        ConfigError: one of the files cannot be read or is no profile.
    """
    files = _files(profile_folders() if folders is None else folders)
    return tuple(_read(file) for _, file in sorted(files.items()))


def save_profile(profile: HardwareProfile, path: Path) -> Path:
    """Write a profile as YAML, whole or not at all.

    Raises:
        StorageError: the place cannot be written.
    """
    import yaml

    content = profile.model_dump(mode="json")
    return write_atomically(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110))


def with_published(measured: HardwareProfile) -> HardwareProfile:
    """Add what nobody measures but a datasheet says, where just one shipped profile is of the same device."""
    known = [each for each in list_profiles((shipped("profiles"),)) if _same_device(each, measured)]
    if len(known) != 1:
        return measured
    (paper,) = known
    added = {
        name: getattr(paper, name)
        for name in ("power_watts", "link_bytes_per_second")
        if getattr(measured, name) is None and getattr(paper, name) is not None
    }
    if not added:
        return measured
    source = f"{measured.provenance.source}; {' and '.join(added)} as published of {paper.name}"
    provenance = measured.provenance.model_copy(update={"source": source})
    return measured.model_copy(update=added | {"provenance": provenance})


def _same_device(one: HardwareProfile, other: HardwareProfile) -> bool:
    return (one.device, one.device_name) == (other.device, other.device_name)


def _files(folders: Sequence[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for folder in folders:
        for file in sorted(folder.glob("*.yaml")):
            found.setdefault(_as_file_name(file.stem), file)
    return found


def _as_file_name(name: str) -> str:
    return re.sub(r"[\s_]+", "-", name.strip().lower())


def _read(file: Path) -> HardwareProfile:
    try:
        return HardwareProfile.model_validate(_mapping(file))
    except pydantic.ValidationError as error:
        raise ConfigError(f"{file}: {explain(error, 'HardwareProfile')}.") from None


def _mapping(file: Path) -> dict[Any, Any]:
    import yaml

    # The C loader is as safe and ten times faster, but not in every build of PyYAML.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file} cannot be read: it is not UTF-8 text.") from None
    except RecursionError:
        raise ConfigError(f"{file} is no profile: its lists and mappings are nested too deep.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise ConfigError(f"{file} is no valid YAML{where}: {problem}.") from None
    except ValueError as error:
        # A date with a 13th month, a number of too many digits.
        raise ConfigError(f"{file} is no valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{file} must hold the fields of one device, but holds {type(content).__name__}.")
    return content
