"""The flags of what runs elsewhere: a cluster, a database server, a tracking server."""

from __future__ import annotations

from typing import Annotated

import typer

ELSEWHERE = "Elsewhere than here"

Address = Annotated[
    str | None,
    typer.Option(
        metavar="auto|HOST:PORT",
        rich_help_panel=ELSEWHERE,
        help="Train on the nodes of this Ray cluster, of which this machine is one. Default: this machine.",
    ),
]
Storage = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        rich_help_panel=ELSEWHERE,
        help="Database of the study, such as postgresql+psycopg://USER@HOST/NAME. Default: where it "
        "was begun, or a file.",
    ),
]
Mlflow = Annotated[
    str | None,
    typer.Option(
        "--mlflow",
        metavar="URI",
        rich_help_panel=ELSEWHERE,
        help="MLflow server or database for the runs. Default: a file in the workspace.",
    ),
]
