"""The flags of how a search goes about it."""

from __future__ import annotations

from typing import Annotated, get_args

import typer

from autopeft.request import SearcherName

HOW = "How to search"

ChosenSearcher = Annotated[
    SearcherName | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=HOW,
        help=f"How to search: {', '.join(get_args(SearcherName))}. Default: freeze-thaw.",
    ),
]
