"""Apart: what takes torch, or reads the data of a user, is done by a process of its own, not by the service.

`ask` starts the process and waits. `main` is the process: a question as JSON on stdin, the answer on stdout.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal, TypeVar

from autopeft import handover, pipeline
from autopeft.errors import AutopeftError
from autopeft.export.recipes.subject import Format
from autopeft.hardware.profile import HardwareProfile
from autopeft.journey import keeping
from autopeft.journey.inputs import Grounds, load_grounds
from autopeft.message import Message
from autopeft.plan.question import Question
from autopeft.request import Request
from autopeft.service.problems import RefusedError, of_machine, row_of
from autopeft.space.candidate import Candidate
from autopeft.units import GIB, format_bytes

SECONDS = 120.0
"""What is not answered within so long is given up."""
BYTES = 6 * GIB
"""Memory that an answer may take of its own, libraries not counted; a served 8B model takes 0.4 GiB."""
_COMMAND = [sys.executable, "-m", "autopeft.service.apart"]
_REFUSED = 2
_log = logging.getLogger(__name__)
Verb = Literal["grounds", "serving", "compare", "recipe", "report"]
Made = TypeVar("Made", bound=Message)


class Refusal(Message):
    """Why there is no answer, in the words of a problem."""

    status: int
    kind: str
    detail: str


def ask(verb: Verb, made: type[Made], workspace: Path, **fields: Any) -> Made:
    """Have something answered by a process of its own.

    Args:
        made: what the answer is.   workspace: of the service.
        fields: arguments of the verb; messages are sent with what was set in them.

    Raises:
        RefusedError: there is no answer, with the status that the same error has elsewhere; or it took
            longer than `SECONDS`, or more than `BYTES`, or was killed.
    """
    home = workspace.resolve()
    question = json.dumps({"verb": verb, "workspace": str(home), **_plain(fields)}).encode()
    with subprocess.Popen(
        [*_COMMAND, str(int(BYTES)), str(int(SECONDS))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=home,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "TRANSFORMERS_VERBOSITY": "error",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        },
        start_new_session=True,
    ) as process:
        try:
            told, said = process.communicate(question, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with all that it started
            raise _overdue() from None
    if process.returncode == 0:
        return made.model_validate_json(told)
    if process.returncode == _REFUSED:
        refusal = Refusal.model_validate_json(told)
        headers = {"Retry_After": "30"} if refusal.status == HTTPStatus.SERVICE_UNAVAILABLE else {}
        raise RefusedError(HTTPStatus(refusal.status), refusal.kind, refusal.detail, **headers)
    if process.returncode == -signal.SIGALRM:
        raise _overdue()
    words = said[-2000:].decode(errors="replace")
    if process.returncode < 0:
        _log.error("%s was ended by signal %d: %s", verb, -process.returncode, words)
        raise RefusedError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "busy",
            f"the process that was to answer this was ended by signal {-process.returncode}, as where a "
            "machine runs out of memory: try again later, or with a smaller model or less data.",
            Retry_After="30",
        )
    raise RuntimeError(f"{verb} ended with {process.returncode}: {words}")


def grounds(request: Request, profile: HardwareProfile) -> Grounds:
    """Load what a plan takes of a request; rows of a user are read apart.

    Raises:
        AutopeftError: something is missing, unknown or malformed, or the rows take too much.
    """
    if request.data is None and request.test_data is None:
        return load_grounds(request, profile)
    return ask("grounds", Grounds, Path(request.workspace), request=request, profile=profile)


def _overdue() -> RefusedError:
    return RefusedError(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "busy",
        f"this was not answered within {SECONDS:g} s: try again later, or with a smaller model or less data.",
        Retry_After="30",
    )


def main() -> int:
    """Answer what stdin asks; arguments: bytes and seconds to take at most.

    What libraries print goes to stderr. The process ends in time also where nobody waits any more.
    """
    most_bytes, most_seconds = map(int, sys.argv[-2:])
    resource.setrlimit(resource.RLIMIT_DATA, (most_bytes, most_bytes))  # no code, which CUDA has GiB of
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(most_seconds + 1)
    answer = os.dup(1)
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    asked = json.load(sys.stdin)
    try:
        told: Message = _VERBS[asked.pop("verb")](**asked)
        status = 0
    except (AutopeftError, MemoryError, OSError, ImportError, RuntimeError) as error:
        refused = _refusal(error, most_bytes)
        if refused is None:
            raise
        told, status = refused, _REFUSED
    with open(answer, "wb") as stream:
        stream.write(told.model_dump_json().encode())
    return status


def _refusal(error: Exception, most_bytes: int) -> Refusal | None:
    """Return what an error is told as; None where it is a bug."""
    short = isinstance(error, MemoryError) or "allocate memory" in str(error).lower()
    if short or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        words = (
            f"this takes more than {format_bytes(most_bytes)} of memory, all that an answer may take here."
        )
        return Refusal(status=HTTPStatus.UNPROCESSABLE_ENTITY, kind="unsupported", detail=words)
    refused = of_machine(error) if isinstance(error, OSError) else error
    if not isinstance(refused, AutopeftError):
        return None
    status, kind = row_of(refused)
    return Refusal(status=status, kind=kind, detail=str(refused))


def _grounds(workspace: str, request: dict[str, Any], profile: dict[str, Any]) -> Message:
    asked = Request.build(**request | {"workspace": workspace})
    return load_grounds(asked, HardwareProfile.model_validate(profile))


def _serving(workspace: str, question: dict[str, Any]) -> Message:
    return pipeline.serve(Question.build(**question), workspace=workspace)


def _compare(workspace: str, one: str, other: str) -> Message:
    found = handover.compare_studies(one, other, workspace=workspace)
    sides = {
        name: side.model_copy(update={"data": Path(side.data).name})
        for name, side in (("one", found.one), ("other", found.other))
    }
    return found.model_copy(update=sides)


def _recipe(
    workspace: str,
    request: dict[str, Any],
    wanted: Format,
    trial: int | None = None,
    candidate: dict[str, Any] | None = None,
    question: dict[str, Any] | None = None,
) -> Message:
    asked = Request.build(**request | {"workspace": workspace})
    given = None if candidate is None else Candidate.build(**candidate)
    if question is not None:
        given = pipeline.candidate_of(Question.build(**question), workspace=workspace)
    return handover.recipe(asked, wanted, trial=trial, candidate=given, elsewhere=True)


def _report(workspace: str, study: str) -> Message:
    return keeping.write_served_report(Request(workspace=workspace, study=study))


_VERBS: dict[str, Callable[..., Message]] = {
    "grounds": _grounds,
    "serving": _serving,
    "compare": _compare,
    "recipe": _recipe,
    "report": _report,
}


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        name: each.model_dump(mode="json", exclude_unset=True) if isinstance(each, Message) else each
        for name, each in fields.items()
    }


if __name__ == "__main__":
    sys.exit(main())
