"""The error tree: every error a user can meet, and nothing else.

    AutopeftError
    ├── InputError           what was asked cannot be read or is not allowed
    │   ├── UnknownNameError     a model, method, device, space or study nobody knows
    │   ├── ConfigError          a file of ours (autopeft.yaml, a search space, a profile) is malformed
    │   ├── DataError            a data file is missing, malformed or unusable
    │   └── UnscoredError        a study's winner was not scored on the test rows yet
    ├── UnsupportedError     a valid request that autopeft cannot answer
    ├── MissingExtraError    an optional package is not installed
    ├── StorageError         a file or database cannot be written or read (disk full, permissions)
    │   └── ClaimedError         another process searches or exports the study
    ├── DoesNotFitError      nothing asked for fits the budget
    ├── TrialError           one trial failed (divergence, out of memory); the study goes on
    ├── ExportError          an adapter cannot be exported, or does not reproduce itself
    │   └── BundleError          a bundle is not as it was exported
    └── ServiceError         a service refuses a request, or cannot be reached

A message states the law, the values and the way out, on one line:
"`rank >= 1` must hold, but got rank=0."
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST_NAME = 200


class AutopeftError(Exception):
    """Base of every error that autopeft raises on purpose."""


class InputError(AutopeftError):
    """What was asked cannot be read or is not allowed."""


class UnknownNameError(InputError):
    """A name that is in no catalogue; the message lists the nearest known ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        names = sorted(known)
        name = name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..."
        plain = {known.casefold(): known for known in names}
        begun = [known for lower, known in plain.items() if lower.startswith(name.casefold())]
        close = difflib.get_close_matches(name.casefold(), plain, n=9, cutoff=0.5)
        close.sort(key=lambda each: sorted(each) != sorted(name.casefold()))  # swapped letters are likeliest
        near = list(dict.fromkeys([*begun[:3], *(plain[each] for each in close)]))[:3] if name else []
        meant = f"did you mean {' or '.join(near)}?" if near else f"known: {_shorten(names)}."
        super().__init__(f"unknown {kind} {name!r}: {meant}{' ' + hint if hint else ''}")


class ConfigError(InputError):
    """A configuration file of autopeft is malformed."""


class DataError(InputError):
    """A data file is missing, malformed or cannot be learnt from."""


class UnscoredError(InputError):
    """The winner of a study was not scored on the test rows yet, and nothing is to be scored now."""


class UnsupportedError(AutopeftError):
    """A valid request that autopeft cannot answer; the message says why."""


class MissingExtraError(AutopeftError):
    """An optional package is needed and not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed: "
            f"pip install 'autopeft[{extra}]'"
        )


class StorageError(AutopeftError):
    """A file or database cannot be written or read."""


class ClaimedError(StorageError):
    """Another process searches or exports the study."""


class DoesNotFitError(AutopeftError):
    """Nothing that was asked for fits the budget."""


class TrialError(AutopeftError):
    """One trial failed; a study takes it as a result."""


class ExportError(AutopeftError):
    """An adapter cannot be exported, or its copy does not reproduce it."""


class BundleError(ExportError):
    """A bundle is not as it was exported: files are missing, changed or cut short."""


class ServiceError(AutopeftError):
    """A service refuses a request (no token, a quota, too many at once), or cannot be reached."""


def _shorten(names: list[str], most: int = 12) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, ... ({len(names)} in all)"
