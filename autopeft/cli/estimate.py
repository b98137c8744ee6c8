"""autopeft estimate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from autopeft.cli.exits import Exit
from autopeft.cli.flags import Json, _methods, _models, completion, takes_request
from autopeft.errors import InputError, UnsupportedError

if TYPE_CHECKING:
    from autopeft.request import Request
    from autopeft.space.candidate import Candidate

_PANEL = "The configuration"
ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        autocompletion=completion(_models),
        help="Base model: a name from `autopeft models`, a directory, or a hub id.",
    ),
]
Method = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        autocompletion=completion(_methods),
        rich_help_panel=_PANEL,
        help="PEFT method (`autopeft methods`).",
    ),
]
Rank = Annotated[int | None, typer.Option(metavar="N", rich_help_panel=_PANEL, help="Rank of the update.")]
Targets = Annotated[
    str | None,
    typer.Option(
        metavar="ROLE|NAMES",
        rich_help_panel=_PANEL,
        help="Adapted matrices: query+value, attention, mlp, all-linear, or names with commas.",
    ),
]
Layers = Annotated[
    str,
    typer.Option(
        metavar="LAYERS",
        rich_help_panel=_PANEL,
        help="Adapted layers: all, first-half, last-half, last-quarter, 4-20 or 0,5,7.",
    ),
]
Quantization = Annotated[
    str, typer.Option(metavar="NAME", rich_help_panel=_PANEL, help="Quantisation of the frozen weights.")
]
Knobs = Annotated[
    list[str] | None,
    typer.Option(
        "--knob",
        metavar="NAME=VALUE",
        rich_help_panel=_PANEL,
        help="One of the method's own knobs; repeatable.",
    ),
]
GradAccum = Annotated[
    int, typer.Option(metavar="N", rich_help_panel=_PANEL, help="Micro-batches of one optimizer step.")
]
Checkpointing = Annotated[
    bool, typer.Option("--gradient-checkpointing", rich_help_panel=_PANEL, help="Recompute activations.")
]
Precision = Annotated[
    Literal["fp32", "bf16"] | None, typer.Option(rich_help_panel=_PANEL, help="Dtype of the frozen weights.")
]


@takes_request("data", "task", "gpu_mem", "gpu", "seq_len", "batch_size", "epochs", "train_rows", "workspace")
def estimate(
    request: Request,
    model: ModelName,
    method: Method = "lora",
    rank: Rank = None,
    targets: Targets = None,
    layers: Layers = "all",
    quantization: Quantization = "none",
    knob: Knobs = None,
    grad_accum: GradAccum = 1,
    gradient_checkpointing: Checkpointing = False,
    precision: Precision = None,
    as_json: Json = False,
) -> int:
    """Predict memory and time of one configuration.

    Exit status: 0 it fits, 1 it does not, 2 it cannot be told.
    """
    from autopeft import pipeline
    from autopeft.cli import screen, verdicts
    from autopeft.plan.plan import Fits, Rejected

    asked = request.model_copy(update={"model": model})
    training = {
        "batch_size": request.batch_size,
        "grad_accum": grad_accum,
        "epochs": request.epochs,
        "max_length": request.seq_len,
        "precision": precision,
        "gradient_checkpointing": gradient_checkpointing,
    }
    candidate = _candidate(method, rank, targets, layers, quantization, knob or [], training)
    with screen.clean_stdout(when=as_json):
        verdict = pipeline.estimate(asked, candidate)
    if isinstance(verdict, Rejected) and verdict.estimate is None and not as_json:
        raise UnsupportedError(" ".join(filter(None, (verdict.reason, verdict.way_out))))
    limit = None if as_json else _limit(asked)
    screen.show(verdict, lambda answer: verdicts.verdict(answer, model, limit), as_json=as_json)
    if isinstance(verdict, Fits):
        return Exit.DONE
    return Exit.DOES_NOT_FIT if verdict.estimate else Exit.BAD_REQUEST


def _limit(request: Request) -> int:
    """Return the memory that the verdict was held against."""
    from pathlib import Path

    from autopeft import pipeline
    from autopeft.hardware.catalog import load_profile, profile_folders

    given = request.budget.gpu_mem
    if request.gpu is not None:
        usable = load_profile(request.gpu, profile_folders(Path(request.workspace))).usable_bytes
    elif given is not None:
        return given
    else:
        usable = pipeline.known_profile(request).usable_bytes
    return min(given or usable, usable)


def _candidate(
    method: str,
    rank: int | None,
    targets: str | None,
    layers: str,
    quantization: str,
    knobs: list[str],
    training: dict[str, Any],
) -> Candidate:
    from autopeft.space.candidate import Candidate

    return Candidate.build(
        method=method,
        rank=rank,
        targets=tuple(targets.split(",")) if targets and "," in targets else targets,
        layers=_layers(layers),
        quantization=quantization,
        knobs=dict(_knob(text) for text in knobs),
        training={name: value for name, value in training.items() if value is not None},
    )


def _layers(text: str) -> str | tuple[int, ...]:
    numbers = text.split(",")
    return tuple(map(int, numbers)) if all(part.strip().isdecimal() for part in numbers) else text


def _knob(text: str) -> tuple[str, Any]:
    """Read NAME=VALUE, where the value is a number, true, false or a word."""
    import yaml

    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise InputError(f"a knob is given as NAME=VALUE, but got {text!r}.")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError:
        return name, value
