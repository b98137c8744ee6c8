"""autopeft search."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autopeft.cli.exits import Exit
from autopeft.cli.flags import Json, takes_request
from autopeft.cli.studies import resumes_by_word

if TYPE_CHECKING:
    from autopeft.request import Request


@resumes_by_word
@takes_request(without=("gpus", "sharding", "offload", "examples", "grid_factor"))
def search(request: Request, as_json: Json = False) -> int:
    """Plan, then train candidates and find the best.

    Exit status: 0 there is a best trial, 1 nothing fits, or no trial came to its end within the budget.
    """
    from autopeft import pipeline
    from autopeft.cli import screen, tables
    from autopeft.tracking.console import ConsoleObserver

    console = screen.stderr() if as_json else screen.stdout()
    with screen.clean_stdout(when=as_json), screen.counting(console) as progress:
        study = pipeline.search(request, [ConsoleObserver(console)], progress)
    screen.show(study, tables.study, as_json=as_json)
    return Exit.DONE if study.best is not None else Exit.DOES_NOT_FIT
