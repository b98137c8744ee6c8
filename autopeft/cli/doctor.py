"""autopeft doctor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autopeft.cli.exits import Exit
from autopeft.cli.flags import Json, takes_request

if TYPE_CHECKING:
    from autopeft.request import Request


@takes_request("workspace", "storage", "mlflow")
def doctor(request: Request, as_json: Json = False) -> int:
    """Check that everything autopeft needs is there.

    With --storage and --mlflow also whether these servers answer.

    Exit status: 0 all is well or a warning, 2 something must be mended.
    """
    from pathlib import Path

    from autopeft.cli import screen, tables
    from autopeft.doctor import examine

    with screen.clean_stdout(when=as_json):
        checks = examine(Path(request.workspace), request.storage, request.mlflow)
    screen.show(checks, tables.checks, as_json=as_json)
    return Exit.BAD_REQUEST if any(check.state == "fail" for check in checks) else Exit.DONE
