"""The flags of how a search goes about it."""

from __future__ import annotations

from typing import Annotated, get_args

import typer

from autopeft.cost.estimate import Objective
from autopeft.plan.budget import Preference
from autopeft.request import Remembered, SearcherName

HOW = "How to search"

ChosenSearcher = Annotated[
    SearcherName | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=HOW,
        help=f"How to search: {', '.join(get_args(SearcherName))}. Default: freeze-thaw.",
    ),
]

ChosenPreference = Annotated[
    Preference | None,
    typer.Option(
        metavar="WHAT",
        rich_help_panel=HOW,
        help="Of configurations within noise of the best, take the best (quality), the smallest (small) or "
        "the fastest to train (fast). Default: quality.",
    ),
]

ChosenFront = Annotated[
    Objective | None,
    typer.Option(
        "--front",
        metavar="COST",
        rich_help_panel=HOW,
        help="Search for the front of score against a cost (share or params trained, memory, seconds of a "
        "training, file of the adapter) instead of for the best score alone.",
    ),
]

ChosenExperience = Annotated[
    Remembered | None,
    typer.Option(
        "--experience",
        metavar="WHAT",
        rich_help_panel=HOW,
        help="What to begin with: what earlier studies in this workspace's folder say, and those that come "
        "with autopeft (all), the latter alone (shipped), or nothing (none). Default: all.",
    ),
]

Refit = Annotated[
    bool,
    typer.Option(
        "--refit",
        rich_help_panel=HOW,
        help="Train the winner once more before it is exported, on the validation rows too.",
    ),
]
