"""autopeft sync."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from autopeft.cli.exits import Exit
from autopeft.cli.flags import Json, takes_request

if TYPE_CHECKING:
    from autopeft.request import Request

Name = Annotated[
    str | None,
    typer.Argument(metavar="STUDY", show_default=False, help="Name of the study. Default: the latest."),
]


@takes_request("workspace", "storage", "mlflow")
def sync(request: Request, name: Name = None, as_json: Json = False) -> int:
    """Write to MLflow what it lacks of a study, after its server was away."""
    from autopeft import pipeline
    from autopeft.cli import screen

    with screen.clean_stdout(when=as_json):
        synced = pipeline.sync(request.model_copy(update={"study": name}))
    screen.show(synced, str, as_json=as_json)
    return Exit.DONE
