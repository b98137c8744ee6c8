"""Apart: answers that take torch come from a process of their own, so that the service never loads it.

`ask` starts the process and waits. `main` is the process: a question as JSON on stdin, the answer on stdout.
"""

from __future__ import annotations

import json
import os
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
from autopeft.message import Message
from autopeft.plan.question import Question
from autopeft.request import Request
from autopeft.service.problems import RefusedError, row_of
from autopeft.space.candidate import Candidate

SECONDS = 120.0
"""What is not answered within so long is given up."""
_REFUSED = 2
Verb = Literal["serving", "compare", "recipe"]
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
            longer than `SECONDS`.
    """
    home = workspace.resolve()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "autopeft.service.apart"],
            input=json.dumps({"verb": verb, "workspace": str(home), **_plain(fields)}).encode(),
            capture_output=True,
            timeout=SECONDS,
            check=False,
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
        )
    except subprocess.TimeoutExpired:
        raise RefusedError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "busy",
            f"this was not answered within {SECONDS:g} s: try again later, or ask for a smaller model.",
            Retry_After="30",
        ) from None
    if done.returncode == 0:
        return made.model_validate_json(done.stdout)
    if done.returncode == _REFUSED:
        refusal = Refusal.model_validate_json(done.stdout)
        raise RefusedError(HTTPStatus(refusal.status), refusal.kind, refusal.detail)
    raise RuntimeError(f"{verb} ended with {done.returncode}: {done.stderr[-2000:].decode(errors='replace')}")


def main() -> int:
    """Answer what stdin asks; what libraries print goes to stderr."""
    answer = os.dup(1)
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    asked = json.load(sys.stdin)
    try:
        told: Message = _VERBS[asked.pop("verb")](**asked)
        status = 0
    except AutopeftError as error:
        code, kind = row_of(error)
        told, status = Refusal(status=code, kind=kind, detail=str(error)), _REFUSED
    with open(answer, "wb") as stream:
        stream.write(told.model_dump_json().encode())
    return status


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


_VERBS: dict[str, Callable[..., Message]] = {"serving": _serving, "compare": _compare, "recipe": _recipe}


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        name: each.model_dump(mode="json", exclude_unset=True) if isinstance(each, Message) else each
        for name, each in fields.items()
    }


if __name__ == "__main__":
    sys.exit(main())
