"""autopeft export."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from autopeft.cli.exits import Exit
from autopeft.cli.flags import Json, takes_request
from autopeft.cli.studies import StudyWord, named_by
from autopeft.errors import InputError

if TYPE_CHECKING:
    from autopeft.request import Request

Out = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="Directory to write. Default: `bundle` in the study's folder."),
]
TrialNumber = Annotated[
    int | None,
    typer.Option("--trial", min=0, metavar="N", help="Trial to export. Default: the one that won."),
]
Refit = Annotated[
    bool | None,
    typer.Option(
        "--refit/--no-refit",
        show_default=False,
        help="Train its configuration once more before, on the validation rows too. Default: "
        "of the winner as `run` exported it.",
    ),
]
License = Annotated[
    str,
    typer.Option(
        "--license",
        metavar="ID",
        help="The adapter's license as the Hub names it. Default: other, as the base's.",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace what autopeft wrote there.")]


Merged = Annotated[
    bool, typer.Option("--merged", help="Fold the update into the weights: a whole model, without peft.")
]
Dtype = Annotated[
    Literal["bf16", "fp32"] | None,
    typer.Option(
        metavar="DTYPE", show_default=False, help="With --merged: bf16 or fp32. Default: as it was trained."
    ),
]
ToLora = Annotated[
    bool, typer.Option("--to-lora", help="Convert another method to LoRA, for servers that know no other.")
]
LoraRank = Annotated[
    int | None,
    typer.Option(
        "--lora-rank", min=1, metavar="N", show_default=False, help="With --to-lora: rank. Default: 16."
    ),
]
Gguf = Annotated[
    bool, typer.Option("--gguf", help="Add a file for llama.cpp and Ollama, by llama.cpp's converter.")
]
Push = Annotated[
    str | None,
    typer.Option(metavar="HUB_ID", show_default=False, help="Upload it to this model repository of the Hub."),
]
Register = Annotated[
    str | None,
    typer.Option(metavar="NAME", show_default=False, help="Log it to MLflow, as a version of this model."),
]
BaseModel = Annotated[
    str | None,
    typer.Option(
        "--base-model", metavar="HUB_ID", show_default=False, help="With --push: the base model's hub id."
    ),
]


@named_by(StudyWord)
@takes_request("study", "workspace", "storage")
def export(
    request: Request,
    out: Out = None,
    force: Force = False,
    trial: TrialNumber = None,
    refit: Refit = None,
    merged: Merged = False,
    dtype: Dtype = None,
    to_lora: ToLora = False,
    lora_rank: LoraRank = None,
    gguf: Gguf = False,
    register: Register = None,
    push: Push = None,
    base_model: BaseModel = None,
    license_id: License = "other",
    as_json: Json = False,
) -> int:
    """Write the best adapter of a study, or that of a trial, checked in a fresh process."""
    from autopeft import handover
    from autopeft.cli import screen, tables
    from autopeft.export.bundle import Export

    if merged and to_lora:
        raise InputError("--merged and --to-lora are two forms: ask for one, and then for the other.")
    if dtype is not None and not merged:
        raise InputError("--dtype goes with --merged.")
    if lora_rank is not None and not to_lora:
        raise InputError("--lora-rank goes with --to-lora.")
    asked = Export.build(
        out=out,
        force=force,
        trial=trial,
        refit=refit,
        form="merged" if merged else "lora" if to_lora else "adapter",
        dtype=dtype,
        lora_rank=lora_rank,
        gguf=gguf,
        model_name=register,
        push=push,
        base_model=base_model,
        license=license_id,
    )
    with screen.clean_stdout(when=as_json):
        bundle = handover.export(request, asked)
    screen.show(bundle, tables.bundle, as_json=as_json)
    return Exit.DONE
