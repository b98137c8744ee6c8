"""Exit codes: one table for every command."""

from __future__ import annotations

import errno
from enum import IntEnum

from autopeft.errors import AutopeftError, DoesNotFitError


class Exit(IntEnum):
    """What a command's exit status means."""

    DONE = 0
    DOES_NOT_FIT = 1
    BAD_REQUEST = 2
    INTERRUPTED = 130


# The first row that an error belongs to decides; what is in no row is a bug and shows its traceback.
CODES: tuple[tuple[type[Exception], Exit], ...] = (
    (DoesNotFitError, Exit.DOES_NOT_FIT),
    (AutopeftError, Exit.BAD_REQUEST),
)

# Trouble of the machine rather than a bug, wherever it comes up.
MACHINE_TROUBLE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG),
    errno.ENAMETOOLONG,
}


def exit_code(error: BaseException) -> Exit | None:
    """Return the exit code of an error that is no bug, None for one that is."""
    for kind, code in CODES:
        if isinstance(error, kind):
            return code
    if isinstance(error, OSError) and error.errno in MACHINE_TROUBLE:
        return Exit.BAD_REQUEST
    return None
