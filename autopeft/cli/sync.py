"""autopeft sync."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autopeft.cli.exits import Exit
from autopeft.cli.flags import Json, takes_request
from autopeft.cli.studies import StudyWord, named_by

if TYPE_CHECKING:
    from autopeft.request import Request


@named_by(StudyWord)
@takes_request("study", "workspace", "storage", "mlflow")
def sync(request: Request, as_json: Json = False) -> int:
    """Write to MLflow what it lacks of a study, after its server was away."""
    from autopeft import pipeline
    from autopeft.cli import screen

    with screen.clean_stdout(when=as_json):
        synced = pipeline.sync(request)
    screen.show(synced, str, as_json=as_json)
    return Exit.DONE
