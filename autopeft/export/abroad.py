"""Abroad: a bundle as others have it, with nothing in it that only this disk knows."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from autopeft.export.bundle import Bundle
from autopeft.export.card import model_card
from autopeft.export.names import ADAPTER_CONFIG, BASE_FIELD, CARD, MANIFEST
from autopeft.workload.catalogued import find_exactly


def abroad(place: Path, bundle: Bundle, name: str, base: str | None = None) -> dict[str, str]:
    """Return the files of a bundle that others have with another text, by name.

    Args:
        name: what it is called there.
        base: the base's hub id, where somebody said it.

    Raises:
        OSError: a file cannot be read.
    """
    shown = bundle.elsewhere(name)
    local = bundle.base if bundle.base != shown.base and bundle.format != "model" else ""
    found = base or (_hub_id(shown.model) if local else None)
    if found:
        shown = shown.model_copy(update={"base": found})
    texts = {}
    if (local or base) and (place / ADAPTER_CONFIG).is_file():
        fields = json.loads((place / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        texts[ADAPTER_CONFIG] = json.dumps(fields | {BASE_FIELD: found or Path(local).name}, indent=2)
    if any(getattr(shown, each) != getattr(bundle, each) for each in ("base", "model", "data")):
        texts[CARD] = model_card(shown, _note(Path(local).name, found) if local and not base else "")
    sums = {each: hashlib.sha256(text.encode()).hexdigest() for each, text in texts.items()}
    whole = shown.model_copy(update={"files": bundle.files | sums})
    return {**texts, MANIFEST: whole.model_dump_json(indent=1)}


def _hub_id(name: str) -> str | None:
    """Return the hub id of a base by the name of its directory, where the catalogue has one of that name."""
    known = find_exactly(name)
    return known.path if known is not None else None


def _note(called: str, found: str | None) -> str:
    """Say where the base is that was a directory."""
    made = f"The base model was a directory named {called} where this was made"
    verified = "`autopeft verify --model DIR` takes this as it is, but no more once that file was changed."
    if found:
        return (
            f"{made}; `{ADAPTER_CONFIG}` names {found}, which is taken to be the same: `autopeft verify` "
            "tells by the logits in `reference.json`. If yours is a directory, write its path there instead; "
            f"{verified}"
        )
    return (
        f"{made}: name yours in `{ADAPTER_CONFIG}`, as `{BASE_FIELD}`, or load this where a directory of "
        f"that name lies; {verified}"
    )
