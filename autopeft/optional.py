"""Optional packages: import one, or say how to get it."""

from __future__ import annotations

import importlib
from types import ModuleType

from autopeft.errors import MissingExtraError


def require(package: str, *, extra: str, purpose: str) -> ModuleType:
    """Import an optional package.

    Raises:
        MissingExtraError: it is not installed; the message names the extra that brings it.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package.partition(".")[0]:
            raise
        raise MissingExtraError(package, extra, purpose) from None
