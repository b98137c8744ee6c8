"""Placeless: what a service says names no place on its disk."""

from __future__ import annotations

import re

from autopeft.files import without_places
from autopeft.service.settings import Settings

_UPLOADED = re.compile(r"\buploads/[0-9a-f]{16}/[0-9a-f]{24}/")
"""The folder of an upload, as `uploads` calls it, below the workspace."""


def placeless(text: str, settings: Settings) -> str:
    """Return a text with what lies below the workspace, or among the service's models, named from there on.

    An upload keeps its file's name alone.
    """
    for place in (settings.workspace, *settings.models):
        text = without_places(text, place)
    return _UPLOADED.sub("", text)
