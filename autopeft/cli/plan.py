"""autopeft plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from autopeft.cli.exits import Exit
from autopeft.cli.flags import WHAT, Json, takes_request

if TYPE_CHECKING:
    from autopeft.request import Request


AllModels = Annotated[
    bool,
    typer.Option(
        "--all-models",
        metavar="",
        rich_help_panel=WHAT,
        help="Without a model: hold the whole catalogue against the budget, not the usual models.",
    ),
]


@takes_request(
    without=(
        "study",
        "resume",
        "grid_factor",
        "searcher",
        "prefer",
        "front",
        "experience",
        "address",
        "storage",
        "mlflow",
    )
)
def plan(request: Request, all_models: AllModels = False, as_json: Json = False) -> int:
    """Show what fits a budget, and why the rest does not.

    Without a model, usual models of the catalogue are held against the budget. That takes seconds, but with a
    --seq-len above 512 a minute and more the first time, as batches of some models have to be traced.
    Of one model also on several devices (--gpus 2 --sharding fsdp), and with --examples at what cost;
    `autopeft capacity` holds devices and their numbers side by side.
    Exit status: 0 something fits, 1 nothing does.
    """
    from autopeft import pipeline
    from autopeft.cli import screen, verdicts
    from autopeft.errors import InputError

    if request.model is None and request.demo is None:
        with screen.clean_stdout(when=as_json), screen.counting() as progress:
            rows = pipeline.overview(request, progress, all_models=all_models)
        screen.show(
            rows, lambda answer: verdicts.overview(answer, request.budget, request.gpu), as_json=as_json
        )
        return Exit.DONE if any(row.fits for row in rows) else Exit.DOES_NOT_FIT
    if all_models:
        raise InputError("--all-models is for a plan without a model; leave out one of them.")
    with screen.clean_stdout(when=as_json), screen.counting() as progress:
        made = pipeline.plan(request, progress)
    screen.show(made, verdicts.plan, as_json=as_json)
    return Exit.DONE if made.fits else Exit.DOES_NOT_FIT
