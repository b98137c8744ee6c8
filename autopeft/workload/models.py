"""A name becomes a BaseModel: from the catalogue, a local config.json or the hub; never by running code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from autopeft.errors import InputError, UnknownNameError
from autopeft.workload import hub
from autopeft.workload.base_model import BaseModel
from autopeft.workload.catalogued import find_alike, find_exactly, list_models, list_names
from autopeft.workload.families import family_of

__all__ = ["find_model", "list_models"]

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_PATHS = ("/", "./", "../", "~")
_LONGEST_SHOWN = 200

_LARGEST = {
    "num_hidden_layers": 10_000,
    "n_layer": 10_000,
    "n_layers": 10_000,
    "num_layers": 10_000,
    "encoder_layers": 10_000,
    "num_attention_heads": 100_000,
    "hidden_size": 1_000_000,
    "n_embd": 1_000_000,
    "d_model": 1_000_000,
    "intermediate_size": 10_000_000,
    "vocab_size": 100_000_000,
    "max_position_embeddings": 2**31,
}
"""Sizes beyond these are lies: building such a model would only hang."""


def find_model(name: str) -> BaseModel:
    """Find a model by catalogue name, local directory or config.json, or hub id, in this order.

    A name in none of these may be a catalogue name spelled otherwise, or a hub id of a variant or mirror of
    a catalogued architecture ("llama 2 7b", "Qwen/Qwen2.5-7B-Instruct"); only then is the hub asked.

    Raises:
        UnknownNameError: nothing of that name; the message lists the nearest ones of the catalogue.
        InputError: what is there is no usable configuration, there is nothing at a path, or the hub cannot
            be reached.
    """
    listed = find_exactly(name)
    if listed is not None:
        return listed
    place = Path(name)
    if name.strip() and _exists(place):
        return _local(place)
    is_hub_id = _HUB_ID.fullmatch(name) and not name.startswith(".") and not name.endswith(".json")
    if is_hub_id or "/" not in name:
        alike = find_alike(name)
        if alike is not None:
            return alike
    if is_hub_id:
        return _from_hub(name)
    if name.startswith(_PATHS) or name.endswith("/"):
        unexpanded = " (with ~ written out)" if name.startswith("~") else ""
        raise InputError(
            f"there is no directory {name[:_LONGEST_SHOWN]!r}: name a directory with config.json{unexpanded}"
            ", one of `autopeft models`, or a hub id (org/name)."
        )
    raise UnknownNameError(
        "model",
        name,
        list_names(),
        "Or name a directory with config.json, or a hub id (org/name).",
    )


def _exists(place: Path) -> bool:
    try:
        return place.exists()
    except OSError:  # a name too long for a file is no file
        return False


def _local(place: Path) -> BaseModel:
    file = place / "config.json" if place.is_dir() else place
    if not file.is_file():
        raise InputError(
            f"{place} has no config.json: name a directory of a transformers model, or a config.json."
        )
    folder = file.resolve().parent
    config = _read_config(file)
    return BaseModel(
        name=folder.name,
        family=family_of(config, str(file)),
        config=config,
        path=str(folder) if any(folder.glob("*.safetensors")) else None,
        source=str(file),
    )


def _from_hub(name: str) -> BaseModel:
    config = _read_config(hub.fetch(name, "config.json"))
    source = f"https://huggingface.co/{name}/blob/main/config.json"
    return BaseModel(name=name, family=family_of(config, source), config=config, path=name, source=source)


def _read_config(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_bytes())
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise InputError(f"{file} is no UTF-8 text: it must be a config.json.") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{file} is no valid JSON at line {error.lineno}: {error.msg}.") from None
    except (ValueError, RecursionError):
        raise InputError(f"{file} is no config.json: nested too deeply, or a number too long.") from None
    if not isinstance(config, dict):
        raise InputError(f"{file} must hold a JSON object, but holds a {type(config).__name__}.")
    for key, largest in _LARGEST.items():
        size = config.get(key)
        if size is not None and not (type(size) is int and 1 <= size <= largest):
            raise InputError(f"`1 <= {key} <= {largest}` must hold in {file}, but got {size!r}.")
    return config
