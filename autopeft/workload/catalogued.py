"""The catalogue files: a model by any of its names, parsed only when it is asked for."""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from autopeft.workload import naming
from autopeft.workload.base_model import BaseModel
from autopeft.workload.families import family_of

_CATALOGUE = Path(__file__).parent / "catalogue"
# The head of an entry is read without YAML: parsing all files takes longer than a command may.
_HEAD = re.compile(r"- name: (?P<name>.+)\n  hub: (?P<hub>.+)\n  aliases: \[(?P<aliases>.*)\]\n")


class _Entry(NamedTuple):
    """One architecture of the catalogue: the names it answers to, and its YAML."""

    names: tuple[str, ...]
    text: str
    file: str


class _Named(NamedTuple):
    """An entry, and one of its names as the catalogue writes it."""

    entry: _Entry
    name: str


@functools.cache
def list_models() -> tuple[BaseModel, ...]:
    """Return the catalogue: well-known architectures, by name."""
    return tuple(sorted((_load(entry) for entry in _entries()), key=lambda model: model.name.lower()))


def list_names() -> list[str]:
    """Return the names of the catalogue."""
    return [entry.names[0] for entry in _entries()]


def find_exactly(name: str) -> BaseModel | None:
    """Find a model by a name that the catalogue holds, in any case."""
    named = _by_name().get(name.strip().lower())
    if named is None:
        return None
    return _with_weights(_load(named.entry), named.name)


def find_alike(name: str) -> BaseModel | None:
    """Find the one model whose name is spelled otherwise, or of which the name says a variant.

    A variant (instructed, chat, quantised) shares the architecture but not the weights: these are
    known only where `name` is a hub id. Where several architectures would do, it is none.
    """
    spelling = naming.spell(name)
    place = None if naming.is_stored_otherwise(spelling) or "/" not in name else name.strip()
    spelled = _by_spelling().get(spelling, [])
    if len({named.entry for named in spelled}) == 1:
        model = _load(spelled[0].entry)
        return _with_weights(model, spelled[0].name) if place is None else _guessed(model, name, place)
    akin = _by_architecture().get(naming.architecture(spelling), frozenset())
    if len(akin) == 1:
        return _guessed(_load(next(iter(akin))), name, place)
    return None


def _with_weights(model: BaseModel, name: str) -> BaseModel:
    """Return the model with the weights that this name of it means."""
    if model.path is None or "/" not in name:
        return model
    return model.model_copy(update={"path": name})


def _guessed(model: BaseModel, name: str, place: str | None) -> BaseModel:
    guess = f"{name.strip()!r} is taken to have this architecture because of its name"
    note = f"{guess}. {model.note}" if model.note else guess
    return model.model_copy(update={"path": None if model.path is None else place, "note": note})


@functools.cache
def _entries() -> tuple[_Entry, ...]:
    entries = []
    for file in sorted(_CATALOGUE.glob("*.yaml")):
        for text in file.read_text(encoding="utf-8").split("\n\n")[1:]:
            head = _HEAD.match(text)
            if head is None:
                raise ValueError(
                    f"an entry of {file.name} must start with name, hub and aliases: {text[:80]!r}"
                )
            aliases = [alias.strip() for alias in head["aliases"].split(",") if alias.strip()]
            entries.append(_Entry((head["name"], head["hub"], *aliases), text, file.name))
    return tuple(entries)


@functools.cache
def _load(entry: _Entry) -> BaseModel:
    import yaml

    # The C parser is ten times faster; every wheel of PyYAML has it, some builds from source have not.
    [fields] = yaml.load(entry.text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
    return BaseModel(
        name=fields["name"],
        family=family_of(fields["config"], entry.file),
        config=fields["config"],
        path=fields["hub"] if fields.get("weights", True) else None,
        parameters=fields["parameters"],
        source=fields["source"],
        note=fields.get("note"),
    )


@functools.cache
def _by_name() -> dict[str, _Named]:
    return {name.lower(): _Named(entry, name) for entry in _entries() for name in entry.names}


@functools.cache
def _by_spelling() -> dict[str, list[_Named]]:
    found: dict[str, list[_Named]] = defaultdict(list)
    for entry in _entries():
        for name in entry.names:
            found[naming.spell(name)].append(_Named(entry, name))
    return dict(found)


@functools.cache
def _by_architecture() -> dict[str, frozenset[_Entry]]:
    found: dict[str, set[_Entry]] = defaultdict(set)
    for spelling, spelled in _by_spelling().items():
        found[naming.architecture(spelling)].update(named.entry for named in spelled)
    return {shared: frozenset(akin) for shared, akin in found.items()}
