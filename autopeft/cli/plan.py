"""autopeft plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autopeft.cli.exits import Exit
from autopeft.cli.flags import Json, takes_request

if TYPE_CHECKING:
    from autopeft.request import Request


@takes_request(without=("study", "resume"))
def plan(request: Request, as_json: Json = False) -> int:
    """Show what fits a budget, and why the rest does not.

    Without a model, all known models are held against the budget.
    Exit status: 0 something fits, 1 nothing does.
    """
    from autopeft import pipeline
    from autopeft.cli import screen, verdicts
    from autopeft.plan.plan import Fits

    if request.model is None and request.demo is None:
        with screen.clean_stdout(when=as_json), screen.counting() as progress:
            rows = pipeline.overview(request, progress)
        screen.show(rows, lambda answer: verdicts.overview(answer, request.budget), as_json=as_json)
        return Exit.DONE if any(isinstance(row.verdict, Fits) for row in rows) else Exit.DOES_NOT_FIT
    with screen.clean_stdout(when=as_json), screen.counting() as progress:
        made = pipeline.plan(request, progress)
    screen.show(made, verdicts.plan, as_json=as_json)
    return Exit.DONE if made.fits else Exit.DOES_NOT_FIT
