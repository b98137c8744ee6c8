"""Where things are on disk, and writing them so that a crash leaves the old or the new, never half."""

from __future__ import annotations

import html
import json
import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from autopeft.errors import StorageError

WORKSPACE = Path(".autopeft")
THIS_MACHINE = "this-machine"
"""Name of the profile that `autopeft profile` measures."""
_BEFORE = r"(?:(?<![\w./~+-])|(?<=//)|(?<=\\[bfnrt])|(?<=\\u[0-9a-f]{4}))"
"""No path goes on here: a URL's scheme ends, or a sign that JSON escapes."""
_AFTER = r"(?:/(?=[^\s\"'<])|(?![\w-]|\.\w))"
"""The folder's name ends here, and what lies in the folder may follow."""


def shipped(folder: str) -> Path:
    """Return a data folder that ships with autopeft (`profiles`, `search_spaces`)."""
    packed = Path(__file__).parent / "_shipped" / folder
    return packed if packed.is_dir() else Path(__file__).parents[1] / folder


def cache_folder(*parts: str) -> Path:
    """Return (and make) a folder for what can always be made again; `AUTOPEFT_CACHE` moves it."""
    root = os.environ.get("AUTOPEFT_CACHE") or Path.home() / ".cache" / "autopeft"
    return make_folder(Path(root).joinpath(*parts))


def make_folder(path: Path) -> Path:
    """Make a folder and its parents.

    Raises:
        StorageError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"the folder {path} cannot be made: {error.strerror}.") from None
    return path


def write_atomically(path: Path, content: str | bytes, *, modified: int | None = None) -> Path:
    """Write a whole file or leave the old one untouched.

    Args:
        modified: time of its last change to give it, in nanoseconds since 1970; None is now.

    Raises:
        StorageError: the disk is full or the place cannot be written.
    """
    make_folder(path.parent)
    data = content.encode() if isinstance(content, str) else content
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)
        if modified is not None:
            os.utime(temporary, ns=(modified, modified))
        Path(temporary).replace(path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise StorageError(
            f"{path} cannot be written: {error.strerror}. Free some space or name another place."
        ) from None
    return path


def without_places(text: str, workspace: Path) -> str:
    """Return a text, JSON or page with what lies in a workspace named from there on.

    A path that only ends, or only begins, as that of the workspace does is left as it is.
    """
    root = str(Path(workspace).resolve())
    if root == os.sep:
        return text
    for shown in _spellings(root):
        if shown in text:
            text = re.sub(
                f"{_BEFORE}{re.escape(shown)}{_AFTER}",
                lambda found: "" if found[0].endswith("/") else "the workspace",
                text,
            )
    return text


def _spellings(path: str) -> Iterable[str]:
    """Return a path as plain text, JSON (also in a page's script), HTML and URLs spell it."""
    escaped = json.dumps(path)[1:-1]
    in_script = escaped
    for sign in "<>&":
        in_script = in_script.replace(sign, f"\\u{ord(sign):04x}")
    in_page = html.escape(path).replace("&#x27;", "&#39;").replace("&quot;", "&#34;")
    plain = json.dumps(path, ensure_ascii=False)[1:-1]
    return dict.fromkeys((path, plain, escaped, in_script, html.escape(path), in_page, quote(path)))
