"""autopeft verify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autopeft.cli.exits import Exit
from autopeft.cli.flags import Json

if TYPE_CHECKING:
    from rich.console import Group

    from autopeft.export.bundle import Verified

Place = Annotated[Path, typer.Argument(metavar="BUNDLE", show_default=False, help="Directory of a bundle.")]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="DATA", show_default=False, help="Where the study's data lie now. Default: where they lay."
    ),
]
TestData = Annotated[
    str | None, typer.Option(metavar="DATA", show_default=False, help="Where its test rows lie now.")
]
Model = Annotated[
    str | None, typer.Option(metavar="MODEL", show_default=False, help="Where its base model lies now.")
]
_EXITS = {"same": Exit.DONE, "differs": Exit.DOES_NOT_FIT, "unknown": Exit.BAD_REQUEST}


def verify(
    bundle: Place, data: Data = None, test_data: TestData = None, model: Model = None, as_json: Json = False
) -> int:
    """Check a bundle's files, and score it again in a clean process.

    Exit status: 0 it is what was exported, 1 it differs, 2 that cannot be told.
    """
    from autopeft import handover
    from autopeft.cli import screen

    with screen.clean_stdout(when=as_json):
        found = handover.verify(bundle, data=data, test_data=test_data, model=model)
    screen.show(found, _shown, as_json=as_json)
    return _EXITS[found.state]


def _shown(found: Verified) -> Group:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from autopeft.cli.tables import heading

    grid = Table.grid(padding=(0, 2))
    grid.add_row("bundle", f"{found.place}: {found.label}")
    grid.add_row("files", f"{found.files} with checksums")
    if found.logits is not None:
        grid.add_row(
            "logits", f"within {found.logits:.1e} of the recorded ones, in a process without autopeft"
        )
    now = "not scored" if found.score is None else f"{found.score:.4f} now"
    grid.add_row(f"test {found.metric}", f"{found.recorded:.4f} recorded, {now}")
    words = {
        "same": Text("It is what was exported.", style="bold green"),
        "differs": Text(f"It differs: {found.reason}", style="bold red"),
        "unknown": Text(f"It cannot be told: {found.reason}", style="bold yellow"),
    }
    return Group(heading("Verification"), grid, words[found.state])
