"""Which column plays which part, and what task that makes: guessed from names, overridden by the user."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from autopeft.errors import DataError
from autopeft.workload.tasks import TASKS, Task

MEDIA_ROLES = ("image", "audio")
"""Columns that name files: never guessed here, as their cells say more than their names."""
ROLES = (
    *("text", *MEDIA_ROLES, "label", "number", "words", "tags"),
    *("prompt", "context", "completion", "chosen", "rejected", "messages", "split"),
)
_TEXT = (
    "text sentence review content tweet comment document article body headline title utterance message"
    " sequence transcription transcript"
)
_NAMES: dict[str, tuple[str, ...]] = {
    "text": tuple(_TEXT.split()),
    "label": ("label", "labels", "target", "class", "sentiment", "category", "intent", "topic", "y"),
    "number": ("number", "score", "rating", "value", "target", "label", "labels", "stars", "y"),
    "words": ("words", "tokens"),
    "tags": ("tags", "ner_tags", "pos_tags", "labels", "ner", "pos"),
    "prompt": ("prompt", "instruction", "question", "query", "input"),
    "context": ("input", "context"),
    "completion": ("completion", "response", "output", "answer", "target"),
    "chosen": ("chosen",),
    "rejected": ("rejected",),
    "messages": ("messages", "conversations", "conversation", "chat"),
    "split": ("split",),
}
"""Names by which a column is known, the likeliest first; case does not matter."""

GUESSED: tuple[Task, ...] = ("dpo", "token-classification", "classification", "regression", "sft")
"""Tasks that columns may speak for, those whose columns are named most tellingly first."""

_NUMBERING = ("", "id", "idx", "index", "unnamed: 0")


def assign(
    available: Sequence[str], given: Mapping[str, str], task: Task | None, source: str
) -> tuple[Task, dict[str, str]]:
    """Decide on the task and on the column of each of its roles.

    Args:
        available: columns of the file.
        given: column by role, as the user said.
        task: the task, where the user said it.
        source: the file, for messages.

    Raises:
        DataError: a given role or column does not exist, or no column looks like one that is needed.
    """
    _check_given(available, given, source)
    for candidate in (task,) if task else _likely_tasks(available, given):
        roles = _roles(available, given, candidate)
        if roles is not None:
            return candidate, roles
    wanted = (task,) if task else GUESSED
    sets = ", or ".join(f"{' and '.join(roles)} ({each})" for each in wanted for roles in TASKS[each].needs)
    example = TASKS[task or "classification"].needs[-1][0]
    raise DataError(
        f"{source} must have columns for {' or '.join(wanted)}: {sets}; but has "
        f"{', '.join(map(repr, available))}: say which is which, such as --{example}-column {available[0]}."
    )


def has_text(available: Sequence[str]) -> bool:
    """Say whether a column is called like one of texts."""
    return _known("text", available, {}) is not None


def _check_given(available: Iterable[str], given: Mapping[str, str], source: str) -> None:
    for role, column in given.items():
        if role not in ROLES:
            raise DataError(f"a column must play one of {', '.join(ROLES)}, but got {role!r}.")
        if column not in available:
            known = ", ".join(map(repr, available))
            raise DataError(f"{source} has no column {column[:100]!r}; it has {known}.")


def _likely_tasks(available: Sequence[str], given: Mapping[str, str]) -> tuple[Task, ...]:
    """Order the tasks by what the user's own columns speak for; where none do, the rarest names win."""
    if "audio" in given and "label" not in given and _known("label", available, given) is None:
        return ("sft", "classification") if _known("text", available, given) else ("classification", "sft")
    said = set(given) - {"context", "split"}
    able = (task for task in GUESSED if said <= {role for roles in TASKS[task].needs for role in roles})
    return tuple(able)


def _roles(available: Sequence[str], given: Mapping[str, str], task: Task) -> dict[str, str] | None:
    for needed in TASKS[task].needs:
        if any(role in MEDIA_ROLES and role not in given for role in needed):
            continue
        roles = {role: column for role, column in given.items() if role in (*needed, "context", "split")}
        free = [column for column in available if column not in given.values()]
        for role in (*needed, "split"):
            if role not in roles:
                _add(roles, role, _known(role, free, roles))
        if len(needed) == 2 and needed[0] in ("text", *MEDIA_ROLES):
            _add_the_only_other(needed, available, roles)
        elif "prompt" in roles and "context" not in roles:
            _add(roles, "context", _known("context", free, roles))
        if all(role in roles for role in needed):
            return {role: roles[role] for role in ROLES if role in roles}
    return None


def _add_the_only_other(needed: Sequence[str], available: Sequence[str], roles: dict[str, str]) -> None:
    """Where one of two roles is known and one column is left, that is the other."""
    left = [column for column in available if column not in roles.values()]
    left = [column for column in left if column.strip().lower() not in _NUMBERING]
    missing = [role for role in needed if role not in roles]
    if len(missing) == 1 and len(left) == 1:
        roles[missing[0]] = left[0]


def _known(role: str, free: Iterable[str], taken: Mapping[str, str]) -> str | None:
    by_name = {column.strip().lower(): column for column in free if column not in taken.values()}
    return next((by_name[name] for name in _NAMES[role] if name in by_name), None)


def _add(roles: dict[str, str], role: str, column: str | None) -> None:
    if column is not None:
        roles[role] = column
