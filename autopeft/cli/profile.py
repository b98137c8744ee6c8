"""autopeft profile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from autopeft.cli.exits import Exit
from autopeft.cli.flags import Json, takes_request

if TYPE_CHECKING:
    from autopeft.request import Request

Name = Annotated[str, typer.Option(metavar="NAME", help="Name to keep the profile under.")]


@takes_request("workspace")
def profile(request: Request, name: Name = "this-machine", as_json: Json = False) -> int:
    """Measure this machine: memory, speed, bandwidth."""
    from autopeft import pipeline
    from autopeft.cli import screen, tables

    with screen.clean_stdout(when=as_json):
        measured = pipeline.profile(request, name=name)
    screen.show(measured, tables.hardware, as_json=as_json)
    return Exit.DONE
