"""autopeft recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autopeft.cli.exits import Exit
from autopeft.cli.flags import Json, takes_request
from autopeft.errors import InputError

if TYPE_CHECKING:
    from autopeft.export.recipes.subject import Recipe
    from autopeft.request import Request

FormatName = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="NAME",
        help="trl, axolotl, llama-factory, torchtune, unsloth or script (plain transformers and peft).",
    ),
]
TrialNumber = Annotated[
    int | None,
    typer.Option("--trial", min=0, metavar="N", show_default=False, help="Trial. Default: the one that won."),
]
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
    typer.Option(metavar="NAME", show_default=False, help="A method with its defaults, instead of a study."),
]
Rank = Annotated[
    int | None, typer.Option(min=1, metavar="N", show_default=False, help="With --method: its rank.")
]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        show_default=False,
        help="Directory to write, with the rows. Default: the text on stdout.",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]


@takes_request(
    "model", "data", "test_data", "task", "seq_len", "batch_size", "epochs", "seed", "study", "workspace"
)
def recipe(
    request: Request,
    wanted: FormatName = "script",
    trial: TrialNumber = None,
    source: Source = None,
    line: Line = 1,
    method: Method = None,
    rank: Rank = None,
    out: Out = None,
    force: Force = False,
    as_json: Json = False,
) -> int:
    """Write a study's winner, or any configuration, for the tool that you train with."""
    from autopeft import handover
    from autopeft.cli import screen
    from autopeft.export.recipes.subject import FORMATS

    if wanted not in FORMATS:
        raise InputError(f"a recipe's format must be one of {', '.join(FORMATS)}, but got {wanted!r}.")
    candidate = _candidate(request, source, line, method, rank)
    if candidate is not None and request.model is None:
        raise InputError("a configuration needs a base model: give --model NAME, DIRECTORY or HUB_ID.")
    if candidate is not None and trial is not None:
        raise InputError("--trial is of a study: leave out --from and --method.")
    with screen.clean_stdout(when=as_json):
        made = handover.recipe(request, wanted, trial=trial, candidate=candidate, out=out, force=force)
    if as_json:
        screen.show(made, str, as_json=True)
    else:
        typer.echo(_shown(made, out))  # as it is: a console would wrap long lines
    return Exit.DONE


def _candidate(request: Request, source: str | None, line: int, method: str | None, rank: int | None) -> Any:
    """Return the configuration that is asked for without a study; None for a study's."""
    from autopeft import handover
    from autopeft.space.candidate import Candidate

    if source is not None and method is not None:
        raise InputError("--from and --method both name a configuration: leave one out.")
    if source is None and method is None:
        return None
    if source is not None:
        found = handover.candidates(source)
        if line > len(found):
            raise InputError(f"{source} holds {len(found)} configurations, but got --line {line}.")
        return found[line - 1]
    given = {"max_length": request.seq_len, "batch_size": request.batch_size, "epochs": request.epochs}
    training = {name: value for name, value in given.items() if value is not None}
    return Candidate.build(method=method, rank=rank, training=training)


def _shown(made: Recipe, out: Path | None) -> str:
    notes = [f"# {note}" for note in made.notes]
    if out is not None:
        return "\n".join([f"{out}: {', '.join(made.files)}", f"cd {out} && {made.command}", *notes])
    several = len(made.files) > 1
    parts = [f"# {name}\n{text}" if several else text for name, text in made.files.items()]
    return "\n".join(["\n".join(parts).rstrip(), *notes])
