"""autopeft compare."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from autopeft.cli.exits import Exit
from autopeft.cli.flags import Json, takes_request

if TYPE_CHECKING:
    from rich.console import Group

    from autopeft.report.comparison import Comparison, Side
    from autopeft.request import Request

One = Annotated[
    str, typer.Argument(metavar="A", show_default=False, help="A study's name, or a bundle's directory.")
]
Other = Annotated[str, typer.Argument(metavar="B", show_default=False, help="Another.")]


@takes_request("workspace", "storage")
def compare(request: Request, one: One, other: Other, as_json: Json = False) -> int:
    """Hold two studies or bundles side by side, with a paired test on shared rows."""
    from autopeft import handover
    from autopeft.cli import screen

    with screen.clean_stdout(when=as_json):
        found = handover.compare(one, other, workspace=request.workspace, storage=request.storage)
    screen.show(found, _shown, as_json=as_json)
    return Exit.DONE


def _shown(found: Comparison) -> Group:
    from rich.console import Group
    from rich.text import Text

    from autopeft.cli.tables import heading, table
    from autopeft.units import format_bytes, format_count, format_seconds

    def show(value: float | None, how: Callable[[float], str]) -> str:
        return "-" if value is None else how(value)

    def column(side: Side) -> tuple[str, ...]:
        return (
            side.place,
            side.label,
            side.model,
            side.data,
            f"{side.score:.4f} ({side.low:.4f} to {side.high:.4f})",
            f"{side.rows:,}",
            show(side.trainable_params, format_count),
            show(side.adapter_bytes, format_bytes),
            show(side.peak_bytes, format_bytes),
            show(side.train_seconds, format_seconds),
        )

    names = ("", "configuration", "model", "data", f"test {found.metric.name}", "test rows", "trained",
             "adapter", "peak memory", "training")  # fmt: skip
    made = table("", "A", "B")
    for name, left, right in zip(names, column(found.one), column(found.other), strict=True):
        made.add_row(name, left, right)
    changed = table("differs in", "A", "B")
    for name, (left, right) in found.differing.items():
        changed.add_row(name, left, right)
    lines = [Text(found.verdict, style="bold"), Text(f"Tested on {found.test}.")]
    if found.p_value is not None:
        apart = f"Only A has {found.only_one} rows right, only B {found.only_other}"
        lines.append(Text(f"{apart}; p = {found.p_value:.3g} of no difference."))
    changes = [changed] if found.differing else []
    return Group(heading("Compared"), made, *changes, *lines)
