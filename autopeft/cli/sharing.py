"""The flags of several devices, and of what they cost."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

MONEY, DEVICES = "Money and energy", "Several devices"

Price = Annotated[
    float | None,
    typer.Option(
        metavar="USD",
        rich_help_panel=MONEY,
        help="Dollars an hour of one device, 0 for your own. Default: the lowest list price.",
    ),
]
Provider = Annotated[
    str | None,
    typer.Option(metavar="NAME", rich_help_panel=MONEY, help="Take the list price of aws, gcp, lambda ..."),
]
GridFactor = Annotated[
    float | None,
    typer.Option(metavar="KG", rich_help_panel=MONEY, help="kg of CO2 a kWh of your grid, such as 0.4."),
]
Gpus = Annotated[
    int | None,
    typer.Option(metavar="N", rich_help_panel=DEVICES, help="Devices of one machine that share a training."),
]
ShardingName = Annotated[
    Literal["none", "ddp", "zero1", "zero2", "zero3", "fsdp"] | None,
    typer.Option(rich_help_panel=DEVICES, help="How they share it. Default: ddp."),
]
Offload = Annotated[
    bool,
    typer.Option(
        "--offload", metavar="", rich_help_panel=DEVICES, help="Keep what is sharded in the host's memory."
    ),
]
