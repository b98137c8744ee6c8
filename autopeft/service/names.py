"""Names: what a client may name. Nothing outside the workspace, and nothing from the network unasked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from itertools import islice
from pathlib import Path

from autopeft import inventory
from autopeft.errors import InputError
from autopeft.plan.capacity import Demand
from autopeft.plan.question import Question
from autopeft.service.problems import RefusedError
from autopeft.service.settings import Settings
from autopeft.space.candidate import Candidate

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_MODULE = re.compile(r"\^?\w+(?:[.+-]\w+)*\$?", re.ASCII)
"""Words with a sign between each two: as a regular expression it is quickly matched, or quickly not."""
_LONGEST, _LONGEST_PART = 2000, 255
"""Bytes of a model's name, and of what is between its slashes: file systems take no more."""
_CONFIG, _MOST_OWN = "config.json", 200
_FILE = (".yaml", ".yml", ".json", ".bin", ".pt", ".pth", ".pkl", ".safetensors")


class Names:
    """Checks names, and brings them to the form in which they are safe to look up."""

    def __init__(self, settings: Settings) -> None:
        self._hub = settings.hub
        self._folders = tuple(place.resolve() for place in settings.models)

    def model(self, name: str) -> str:
        """Return the catalogue's name of a model, a directory that may be named, or a hub id where allowed.

        A directory may be named by its path or, where it lies directly below a folder of models, by its own
        name, which then comes before the catalogue's.

        Raises:
            RefusedError: it is a path or hub id that the service was not told to take.
            UnknownNameError: the catalogue has nothing like it.
        """
        raw = name.encode(errors="replace")
        if "\0" in name or len(raw) > _LONGEST or max(map(len, raw.split(b"/"))) > _LONGEST_PART:
            raise InputError(
                f"a model's name must have no NUL and at most {_LONGEST_PART} bytes in each part."
            )
        place = Path(name)
        if any(place.is_absolute() and place.resolve().is_relative_to(each) for each in self._folders):
            return str(place.resolve())
        if (own := self.own(name)) is not None:
            return own
        listed = None if place.is_absolute() else inventory.catalogued(name)
        if listed is not None:
            return listed
        if self._hub and _HUB_ID.fullmatch(name) and ".." not in name and not Path(name).exists():
            return name
        if "/" in name or "\\" in name or name.startswith("."):  # whether there is such a file or not
            raise RefusedError(
                HTTPStatus.FORBIDDEN,
                "forbidden",
                f"the model {name[:200]!r} is in no catalogue, and not below a directory that the service "
                "was started with (--models DIR); a hub id is taken only where it was started with --hub.",
            )
        raise inventory.unknown_model(name, self.own_models)

    @property
    def own_models(self) -> dict[str, str]:
        """Paths of the directories with a model that lie directly below the folders of models, by name."""
        found = {place.parent.name for each in self._folders for place in each.glob(f"*/{_CONFIG}")}
        places = ((name, self.own(name)) for name in sorted(found))
        return dict(islice(((name, place) for name, place in places if place is not None), _MOST_OWN))

    def own(self, name: str) -> str | None:
        """Return the path of a directory that is called so below a folder of models."""
        if not name or name != Path(name).name:
            return None
        places = ((each / name).resolve() for each in self._folders)
        return next((str(place) for place in places if self._may_be_named(place / _CONFIG)), None)

    def _may_be_named(self, place: Path) -> bool:
        return place.is_file() and any(place.is_relative_to(each) for each in self._folders)

    def device(self, name: str | None) -> str | None:
        """Return a device's name, which must be no path."""
        return None if name is None else _no_file("gpu", name)

    def space(self, name: str) -> str:
        """Return a search space's name, which must be no path."""
        return _no_file("space", name)

    def question(self, asked: Question) -> Question:
        """Return a question whose names are safe."""
        self.knobs(asked.knobs)
        self.device(asked.gpu)
        return asked.model_copy(update={"model": self.model(asked.model)})

    def demand(self, made: Demand) -> Demand:
        """Return a demand whose names are safe."""
        for gpu in made.gpus:
            self.device(gpu)
        return made.model_copy(update={"models": tuple(self.model(name) for name in made.models)})

    def candidate(self, given: Candidate) -> Candidate:
        """Return a candidate whose knobs name no file."""
        self.knobs(given.knobs)
        return given

    def knobs(self, knobs: Mapping[str, object]) -> None:
        """Check that no knob names a file: some methods would load it."""
        for name, value in knobs.items():
            # peft matches these as regular expressions, and some take forever.
            matched = _texts(value) if "pattern" in name else [value] if "modules" in name else []
            for text in matched:
                if isinstance(text, str) and not _MODULE.fullmatch(text):
                    raise InputError(
                        f"the knob {name!r} must name modules here by words of letters, digits and _ with a "
                        f"sign of .+- between each two, but got {text[:200]!r}."
                    )
            for text in _texts(value):
                if "/" in text or "\\" in text or ".." in text or text.lower().endswith(_FILE):
                    raise InputError(f"the knob {name!r} must name no file here, but got {text[:200]!r}.")


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for pair in value.items() for part in pair for text in _texts(part)]
    if isinstance(value, list | tuple):
        return [text for part in value for text in _texts(part)]
    return []


def _no_file(what: str, name: str) -> str:
    if "/" in name or "\\" in name or name.lower().endswith(_FILE):
        raise InputError(f"{what} must be a name of a list here, no file, but got {name[:200]!r}.")
    return name
