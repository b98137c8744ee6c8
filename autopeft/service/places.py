"""Places: what a service sends says nothing of where its workspace lies."""

from __future__ import annotations

import json
import os
from pathlib import Path


def without_places(text: str, workspace: Path) -> str:
    """Return a text, or JSON, with what lies in the workspace named from there on."""
    root = str(Path(workspace).resolve())
    for shown in dict.fromkeys(
        (root, *(json.dumps(root, ensure_ascii=each)[1:-1] for each in (False, True)))
    ):
        text = text.replace(shown + os.sep, "").replace(shown, "the workspace")
    return text
