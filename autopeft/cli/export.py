"""autopeft export."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from autopeft.cli.exits import Exit
from autopeft.cli.flags import Json, takes_request

if TYPE_CHECKING:
    from autopeft.request import Request

Out = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="Directory to write. Default: `bundle` in the study's folder."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]


@takes_request("study", "workspace")
def export(request: Request, out: Out = None, force: Force = False, as_json: Json = False) -> int:
    """Write the best adapter of a study, checked in a fresh process."""
    from autopeft import pipeline
    from autopeft.cli import screen, tables

    with screen.clean_stdout(when=as_json):
        bundle = pipeline.export(request, out=out, force=force)
    screen.show(bundle, tables.bundle, as_json=as_json)
    return Exit.DONE
