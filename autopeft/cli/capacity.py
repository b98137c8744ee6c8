"""autopeft capacity."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autopeft.cli.exits import Exit
from autopeft.cli.flags import ROWS, Json, _devices, _models, completion, takes_request
from autopeft.cli.sharing import DEVICES
from autopeft.errors import InputError
from autopeft.units import parse_count

if TYPE_CHECKING:
    from autopeft.plan.capacity import Capacity, Demand
    from autopeft.request import Request

_WHAT, _FLEET, _SHOW = "What to train", "A fleet", "What to say"

ModelNames = Annotated[
    str,
    typer.Argument(
        metavar="MODELS",
        autocompletion=completion(_models),
        show_default=False,
        help="Base models, with commas between them.",
    ),
]
Methods = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        rich_help_panel=_WHAT,
        help="Methods, with + the quantisation of the base: lora,dora+nf4. Default: lora,qlora,full.",
    ),
]
Rank = Annotated[
    int | None, typer.Option(metavar="N", rich_help_panel=_WHAT, help="Rank. Default: the method's.")
]
Checkpointing = Annotated[
    bool,
    typer.Option(
        "--gradient-checkpointing", metavar="", rich_help_panel=_WHAT, help="Recompute activations."
    ),
]
GradAccum = Annotated[
    int | None,
    typer.Option(metavar="N", rich_help_panel=ROWS, help="Micro-batches of one optimizer step. Default: 1."),
]
Loop = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=_WHAT,
        help="Training loop: autopeft, trainer, trl, litgpt ... Default: autopeft.",
    ),
]
Tokens = Annotated[
    str | None,
    typer.Option(metavar="N", rich_help_panel=_WHAT, help="Instead of --examples: tokens, such as 50M."),
]
GpuNames = Annotated[
    str | None,
    typer.Option(
        "--gpu",
        metavar="NAMES",
        autocompletion=completion(_devices),
        rich_help_panel=DEVICES,
        help="Devices (`autopeft gpus`), with commas. Default: ten usual ones.",
    ),
]
Counts = Annotated[
    str | None,
    typer.Option(
        "--gpus", metavar="N,N", rich_help_panel=DEVICES, help="Devices that share a training, such as 1,4."
    ),
]
RunsPerWeek = Annotated[
    float | None,
    typer.Option(metavar="N", rich_help_panel=_FLEET, help="Say how many devices so many trainings need."),
]
Utilisation = Annotated[
    float | None,
    typer.Option(metavar="SHARE", rich_help_panel=_FLEET, help="Share of a week they work. Default: 0.8."),
]
Html = Annotated[
    Path | None,
    typer.Option(metavar="FILE", rich_help_panel=_SHOW, help="Write a page with plots."),
]
Csv = Annotated[
    bool, typer.Option("--csv", metavar="", rich_help_panel=_SHOW, help="Print comma-separated values.")
]

_SHARED = (
    *("seq_len", "batch_size", "examples", "epochs", "sharding", "offload"),
    *("price", "provider", "grid_factor", "workspace"),
)


@takes_request(*_SHARED)
def capacity(
    request: Request,
    models: ModelNames,
    methods: Methods = None,
    rank: Rank = None,
    gradient_checkpointing: Checkpointing = False,
    loop: Loop = None,
    grad_accum: GradAccum = None,
    tokens: Tokens = None,
    gpu: GpuNames = None,
    gpus: Counts = None,
    runs_per_week: RunsPerWeek = None,
    utilisation: Utilisation = None,
    html: Html = None,
    csv: Csv = False,
    as_json: Json = False,
) -> int:
    """Say which GPUs, how many, how long, how much: models x devices x methods.

    Rows are told by --examples (or --tokens) and --seq-len, not by data.
    Exit status: 0 something fits, 1 nothing does, 2 none of it can be told.
    """
    from autopeft import pipeline
    from autopeft.cli import matrix, screen

    if csv and as_json:
        raise InputError("--csv and --json both say what to print; leave out one of them.")
    demand = _demand(
        request,
        models=models,
        methods=methods,
        rank=rank,
        gradient_checkpointing=gradient_checkpointing,
        loop=loop,
        grad_accum=grad_accum,
        tokens=tokens,
        gpu=gpu,
        gpus=gpus,
        runs_per_week=runs_per_week,
        utilisation=utilisation,
    )
    with screen.clean_stdout(when=as_json or csv), screen.counting() as progress:
        made = pipeline.capacity(demand, progress, workspace=request.workspace)
        page = None if html is None else pipeline.capacity_page(made, html)
    if csv:
        typer.echo(matrix.csv(made), nl=False)
    else:
        screen.show(made, lambda answer: matrix.capacity(answer, page), as_json=as_json)
    return _exit(made)


def _exit(made: Capacity) -> Exit:
    if all(cell.fits is None for cell in made.cells):
        return Exit.BAD_REQUEST
    return Exit.DONE if any(cell.fits for cell in made.cells) else Exit.DOES_NOT_FIT


def _demand(
    request: Request,
    *,
    models: str,
    methods: str | None,
    tokens: str | None,
    gpu: str | None,
    gpus: str | None,
    **rest: object,
) -> Demand:
    from autopeft.plan.capacity import Demand

    return Demand.of(
        models=_parts(models, "MODELS"),
        methods=_parts(methods, "--methods") if methods else None,
        gpus=_parts(gpu, "--gpu") if gpu else None,
        counts=tuple(parse_count(part) for part in _parts(gpus, "--gpus")) if gpus else None,
        tokens=None if tokens is None else parse_count(tokens),
        batch_size=request.batch_size,
        epochs=request.epochs,
        examples=request.examples,
        sharding=request.sharding,
        offload=request.offload,
        seq_len=request.seq_len,
        price=request.price,
        provider=request.provider,
        grid_factor=request.grid_factor,
        **rest,
    )


def _parts(text: str, what: str) -> tuple[str, ...]:
    """Read names with commas between them, each once."""
    parts = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not parts:
        raise InputError(f"{what} must name at least one, but got {text!r}.")
    return parts
