"""autopeft recipe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autopeft.cli.columns import COLUMNS
from autopeft.cli.estimate import (
    Checkpointing,
    GradAccum,
    Layers,
    Precision,
    Quantization,
    Rank,
    Targets,
)
from autopeft.cli.exits import Exit
from autopeft.cli.flags import Json, takes_request
from autopeft.cli.studies import StudyWord, named_by
from autopeft.errors import InputError

if TYPE_CHECKING:
    from autopeft.export.recipes.subject import Recipe
    from autopeft.request import Request
    from autopeft.space.candidate import Candidate

FormatName = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="NAME",
        help="trl, axolotl, llama-factory, torchtune, unsloth, or script (also: transformers), which is "
        "plain transformers and peft.",
    ),
]
TrialNumber = Annotated[
    int | None,
    typer.Option("--trial", min=0, metavar="N", show_default=False, help="Trial. Default: the one that won."),
]
_NO_MODEL = "a configuration needs a base model: give --model NAME, DIRECTORY or HUB_ID."
Source = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="FILE",
        show_default=False,
        help="A configuration, or what `plan --json` printed, instead of a study; - is stdin.",
    ),
]
Line = Annotated[int, typer.Option(min=1, metavar="N", help="With --from: which configuration of the file.")]
Method = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        show_default=False,
        help="A method, or qlora, instead of a study; the flags of `estimate` say how.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        show_default=False,
        help="Directory to write, with the rows. Default: the text on stdout.",
    ),
]
Force = Annotated[
    bool,
    typer.Option("--force", help="Replace what autopeft wrote there; rows stay where this brings none."),
]


@named_by(StudyWord, instead={"source": "--from", "method": "--method"})
@takes_request(
    *COLUMNS,
    *("model", "data", "test_data", "task", "seq_len", "batch_size", "epochs", "seed"),
    *("study", "workspace", "storage"),
)
def recipe(
    request: Request,
    wanted: FormatName = "script",
    trial: TrialNumber = None,
    source: Source = None,
    line: Line = 1,
    method: Method = None,
    rank: Rank = None,
    targets: Targets = None,
    layers: Layers = None,
    quantization: Quantization = None,
    grad_accum: GradAccum = None,
    gradient_checkpointing: Checkpointing = None,
    precision: Precision = None,
    out: Out = None,
    force: Force = False,
    as_json: Json = False,
) -> int:
    """Write a study's winner, or any configuration, for the tool that you train with."""
    from autopeft import handover
    from autopeft.cli import screen
    from autopeft.export.recipes.subject import FORMATS

    wanted = "script" if wanted == "transformers" else wanted
    if wanted not in FORMATS:
        raise InputError(f"a recipe's format must be one of {', '.join(FORMATS)}, but got {wanted!r}.")
    said = {
        "rank": rank,
        "targets": targets,
        "layers": layers,
        "quantization": quantization,
        "grad_accum": grad_accum,
        "gradient_checkpointing": gradient_checkpointing,
        "precision": precision,
    }
    candidate = _candidate(request, source, line, method, said)
    if candidate is not None and request.model is None:
        raise InputError(_NO_MODEL)
    if candidate is not None and trial is not None:
        raise InputError("--trial is of a study: leave out --from and --method.")
    with screen.clean_stdout(when=as_json):
        made = handover.recipe(request, wanted, trial=trial, candidate=candidate, out=out, force=force)
    if as_json:
        screen.show(made, str, as_json=True)
    else:
        typer.echo(_shown(made, out))  # as it is: a console would wrap long lines
    return Exit.DONE


def _candidate(
    request: Request, source: str | None, line: int, method: str | None, said: Mapping[str, Any]
) -> Candidate | None:
    """Return the configuration that is asked for without a study; None for a study's."""
    from autopeft import handover, pipeline
    from autopeft.plan.question import Question

    if source is not None and method is not None:
        raise InputError("--from and --method both name a configuration: leave one out.")
    flags = [f"--{name.replace('_', '-')}" for name, value in said.items() if value is not None]
    if method is None and flags:
        raise InputError(f"{', '.join(flags)} needs --method: a study or a file says all of it itself.")
    if source is not None:
        found = handover.candidates(source)
        if line > len(found):
            raise InputError(f"{source} holds {len(found)} configurations, but got --line {line}.")
        return found[line - 1]
    if method is None:
        return None
    if request.model is None:
        raise InputError(_NO_MODEL)
    given = {
        "model": request.model,
        "method": method,
        "task": request.task,
        "epochs": request.epochs,
        "seq_len": request.seq_len,
        "batch_size": request.batch_size,
        # Whoever trains it has a GPU, whatever this machine has.
        "precision": "bf16",
        "optimizer": "adamw",
        **{name: value for name, value in said.items() if value is not None},
    }
    question = Question.build(**{name: value for name, value in given.items() if value is not None})
    return pipeline.candidate_of(question, workspace=request.workspace)


def _shown(made: Recipe, out: Path | None) -> str:
    notes = [f"# {note}" for note in made.notes]
    if out is not None:
        return "\n".join([f"{out}: {', '.join(made.files)}", f"cd {out} && {made.command}", *notes])
    several = len(made.files) > 1
    parts = [f"# {name}\n{text}" if several else text for name, text in made.files.items()]
    return "\n".join(["\n".join(parts).rstrip(), *notes])
