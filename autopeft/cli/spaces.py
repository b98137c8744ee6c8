"""autopeft spaces: which search spaces there are, or all about one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from autopeft.cli.exits import Exit
from autopeft.cli.flags import Json, _spaces, completion
from autopeft.units import format_count

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from autopeft.space.counting import SpaceFacts

Name = Annotated[
    str | None,
    typer.Argument(
        metavar="[NAME|FILE]", help="Tell all about this one.", autocompletion=completion(_spaces)
    ),
]


def spaces(name: Name = None, as_json: Json = False) -> int:
    """List the search spaces, or tell all about one.

    How a file of your own is written: search_spaces/README.md, with an example.
    """
    from autopeft import inventory
    from autopeft.cli import screen

    if name is not None:
        screen.show(inventory.space(name), about, as_json=as_json)
    else:
        screen.show(inventory.spaces(), listed, as_json=as_json)
    return Exit.DONE


def listed(rows: Sequence[SpaceFacts]) -> Group:
    """List search spaces, a line or a few each."""
    from rich.console import Group
    from rich.text import Text

    from autopeft.cli import tables

    made = tables.table("space", "for", "methods", "combinations", "what", right=("methods", "combinations"))
    for each in rows:
        methods = str(len(each.by_method))
        made.add_row(each.name, ", ".join(each.families), methods, _counted(each), each.description)
    made.columns[0].no_wrap = True
    return Group(
        made,
        Text(
            "\n* times one value out of a continuous range, the learning rate's in most\n"
            "`autopeft spaces NAME` tells all about one; a YAML file of your own works the same:\n"
            "search_spaces/README.md has an example."
        ),
    )


def about(space: SpaceFacts) -> Group:
    """Show all that a search space holds."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from autopeft.cli import tables

    grid = Table.grid(padding=(0, 2))
    grid.add_row("for", ", ".join(space.families))
    uncounted = f", each with a value of {', '.join(space.continuous)}" if space.continuous else ""
    grid.add_row("combinations", f"{space.combinations:,}{uncounted}")
    grid.add_row("by method", ", ".join(f"{name} {number:,}" for name, number in space.by_method.items()))
    for field, value in space.fixed.items():
        grid.add_row("fixed", f"{field} = {value}")
    grid.add_row("file", space.source)
    return Group(tables.heading(space.name), Text(space.description), "", grid, "", _domains(space))


def _domains(space: SpaceFacts) -> Table:
    from autopeft.cli import tables

    made = tables.table("field", "values", "first", "when")
    for each in space.domains:
        made.add_row(each.field, each.values, each.first, "; ".join(map(_condition, each.when.items())))
    return made


def _condition(each: tuple[str, tuple[str, ...]]) -> str:
    field, wanted = each
    return ", ".join(wanted) if field == "method" else f"{field} = {', '.join(wanted)}"


def _counted(space: SpaceFacts) -> str:
    return format_count(space.combinations) + (" *" if space.continuous else "  ")
