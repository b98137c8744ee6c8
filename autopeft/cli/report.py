"""autopeft report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autopeft.cli.exits import Exit
from autopeft.cli.flags import Json, takes_request

if TYPE_CHECKING:
    from autopeft.request import Request


@takes_request("study", "workspace")
def report(request: Request, as_json: Json = False) -> int:
    """Write the report page of a study."""
    from autopeft import pipeline
    from autopeft.cli import screen

    with screen.clean_stdout(when=as_json):
        facts = pipeline.report(request)
    screen.show(facts, lambda answer: answer.places.get("report", ""), as_json=as_json)
    return Exit.DONE
