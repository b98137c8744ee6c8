"""autopeft calibrate."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autopeft.cli.exits import Exit
from autopeft.cli.flags import Json, takes_request
from autopeft.files import THIS_MACHINE

if TYPE_CHECKING:
    from autopeft.request import Request

Device = Annotated[str, typer.Option(metavar="NAME", help="Profile that the runs were made on.")]
Runs = Annotated[
    Path | None,
    typer.Option(
        metavar="CSV", help="Runs with predicted_step_seconds and measured_step_seconds, instead of a study."
    ),
]
Mlflow = Annotated[
    str | None,
    typer.Option(metavar="URI", help="MLflow store to read the device's runs of --experiment from."),
]
Experiment = Annotated[str, typer.Option(metavar="NAME", help="MLflow experiment.")]


@takes_request("study", "workspace", "storage")
def calibrate(
    request: Request,
    device: Device = THIS_MACHINE,
    runs: Runs = None,
    mlflow: Mlflow = None,
    experiment: Experiment = "autopeft",
    as_json: Json = False,
) -> int:
    """Correct predicted times by measured runs."""
    from autopeft import pipeline
    from autopeft.cli import screen, tables

    with screen.clean_stdout(when=as_json):
        made = pipeline.calibrate(request, device=device, runs=runs, mlflow=mlflow, experiment=experiment)
    screen.show(made, tables.calibration, as_json=as_json)
    if made.warning:
        sys.stderr.write(f"autopeft: warning: {made.warning}.\n")
    return Exit.DONE
