"""autopeft profile."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from autopeft.cli.exits import Exit
from autopeft.cli.flags import Json, takes_request
from autopeft.files import THIS_MACHINE

if TYPE_CHECKING:
    from autopeft.request import Request

Seconds = Annotated[
    float, typer.Option(metavar="S", min=0.1, max=45.0, help="How long to measure; the rest takes some more.")
]
Name = Annotated[str, typer.Option(metavar="NAME", help="Name to keep the profile under.")]


@takes_request("workspace")
def profile(
    request: Request, name: Name = THIS_MACHINE, seconds: Seconds = 20.0, as_json: Json = False
) -> int:
    """Measure this machine: memory, speed, bandwidth."""
    from autopeft import pipeline
    from autopeft.cli import screen, tables

    with screen.clean_stdout(when=as_json), screen.counting() as progress:
        progress(f"measuring this machine, about {seconds + 20:.0f} s", 0, 1)
        measured = pipeline.profile(request, name=name, seconds=seconds)
    screen.show(measured, tables.hardware, as_json=as_json)
    for warning in measured.warnings:
        sys.stderr.write(f"autopeft: warning: {warning}.\n")
    return Exit.DONE
