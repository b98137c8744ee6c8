"""autopeft estimate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autopeft.cli.columns import COLUMNS
from autopeft.cli.exits import Exit
from autopeft.cli.flags import Json, _methods, _models, completion, takes_request
from autopeft.errors import InputError

if TYPE_CHECKING:
    from autopeft.plan.answer import Answer
    from autopeft.request import Request

_PANEL, _STACK, _MANY = "The configuration", "The stack that trains it", "What to say"
_QUIET_SECONDS = 2.0
_BAR = 24


def _option(*names: str, metavar: str, panel: str = _PANEL, text: str) -> Any:
    return typer.Option(*names, metavar=metavar, rich_help_panel=panel, show_default=False, help=text)


ModelName = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODEL]",
        autocompletion=completion(_models),
        show_default=False,
        help="Base model: a name from `autopeft models`, a directory or config.json, or a hub id.",
    ),
]
From = Annotated[
    str | None,
    _option(
        "--from",
        metavar="FILE",
        panel=_MANY,
        text="Answer many: one JSON object a line in, one out; - is stdin. Flags fill what a row leaves out.",
    ),
]
Explain = Annotated[
    bool,
    typer.Option("--explain", rich_help_panel=_MANY, help="Show what each switch would save or cost."),
]
MaxBatch = Annotated[
    bool,
    typer.Option("--max-batch/--no-max-batch", rich_help_panel=_MANY, help="Look for the largest batch too."),
]
Serve = Annotated[
    bool,
    typer.Option(
        "--serve",
        rich_help_panel=_MANY,
        help="What a server would hold: keys and values of --batch-size sequences, adapters, merged or not.",
    ),
]
Method = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        autocompletion=completion(_methods),
        rich_help_panel=_PANEL,
        show_default=False,
        help="PEFT method (`autopeft methods`), or qlora: lora on nf4-dq. Default: lora.",
    ),
]
Rank = Annotated[int | None, _option(metavar="N", text="Rank of the update. Default: the method's.")]
Targets = Annotated[
    str | None,
    _option(
        metavar="WHERE",
        text="Adapted matrices: query+value, attention, mlp, all-linear, or names with commas.",
    ),
]
Layers = Annotated[
    str | None,
    _option(metavar="LAYERS", text="Adapted layers: all, first-half, last-quarter, 4-20, 4- or 0,5,7."),
]
Quantization = Annotated[
    str | None,
    _option(metavar="NAME", text="Of the frozen weights: none, nf4, nf4-dq, int8 ..."),
]
Knobs = Annotated[
    list[str] | None,
    _option("--knob", metavar="KEY=VAL", text="One of the method's own knobs; repeatable."),
]
GradAccum = Annotated[int | None, _option(metavar="N", text="Micro-batches of one optimizer step.")]
Checkpointing = Annotated[
    bool | None,
    typer.Option(
        "--gradient-checkpointing",
        rich_help_panel=_PANEL,
        show_default=False,
        help="Recompute activations.",
    ),
]
Optimizer = Annotated[
    str | None, _option(metavar="NAME", text="Optimizer: adamw, adamw-8bit, paged-adamw-8bit, lion, sgd ...")
]
Precision = Annotated[
    str | None, _option(metavar="NAME", text="bf16, fp16 or fp32. Default: bf16 where the device has it.")
]
Packing = Annotated[
    bool | None,
    typer.Option("--packing/--no-packing", rich_help_panel=_PANEL, show_default=False, help="Pack the rows."),
]
Lengths = Annotated[
    str | None,
    _option(metavar="P:TOKEN", text="Percentiles of the rows' lengths, such as 50:180,90:420,100:703."),
]
Padding = Annotated[
    bool | None,
    typer.Option(
        "--padding/--no-padding",
        rich_help_panel=_PANEL,
        show_default=False,
        help="Whether batches hold padding. Default: by the lengths.",
    ),
]
Attention = Annotated[str | None, _option(metavar="NAME", panel=_STACK, text="sdpa, eager or flash.")]
Loss = Annotated[str | None, _option(metavar="NAME", panel=_STACK, text="standard, chunked or fused.")]
LoopName = Annotated[
    str | None,
    _option(
        metavar="NAME",
        panel=_STACK,
        text="Loop: autopeft (default), plain, trainer, trainer-2023, trl, trl-2026, litgpt, peft-benchmark.",
    ),
]
Details = Annotated[
    list[str] | None,
    _option(
        "--detail", metavar="NAME=VALUE", panel=_STACK, text="What the loop does otherwise (see --explain)."
    ),
]
Versions = Annotated[
    list[str] | None,
    _option("--version-of", metavar="NAME=VERSION", panel=_STACK, text="A library of the stack; repeatable."),
]


@takes_request(
    *COLUMNS,
    *("data", "task", "gpu_mem", "gpu", "seq_len", "batch_size", "workspace"),
    *("gpus", "sharding", "offload", "price", "provider", "grid_factor", "examples", "epochs"),
)
def estimate(
    request: Request,
    model: ModelName = None,
    source: From = None,
    explain: Explain = False,
    serve: Serve = False,
    max_batch: MaxBatch = True,
    method: Method = None,
    rank: Rank = None,
    targets: Targets = None,
    layers: Layers = None,
    quantization: Quantization = None,
    knob: Knobs = None,
    grad_accum: GradAccum = None,
    gradient_checkpointing: Checkpointing = None,
    optimizer: Optimizer = None,
    precision: Precision = None,
    packing: Packing = None,
    lengths: Lengths = None,
    padding: Padding = None,
    attention: Attention = None,
    loss: Loss = None,
    loop: LoopName = None,
    detail: Details = None,
    version_of: Versions = None,
    as_json: Json = False,
) -> int:
    """Predict memory and time of one configuration.

    Exit status: 0 it fits (or no limit was given), 1 it does not, 2 it cannot be told. Of many (with
    --from): 2 where any cannot be told, else 1 where any does not fit.
    """
    fields = {
        "method": method,
        "rank": rank,
        "targets": targets,
        "layers": layers,
        "quantization": quantization,
        "knobs": _pairs(knob, "knob"),
        "batch_size": request.batch_size,
        "seq_len": request.seq_len,
        "grad_accum": grad_accum,
        "gradient_checkpointing": gradient_checkpointing,
        "optimizer": optimizer,
        "precision": precision,
        "attention": attention,
        "loss": loss,
        "loop": loop,
        "details": _pairs(detail, "detail"),
        "packing": packing,
        "lengths": _percentiles(lengths),
        "padding": padding,
        "versions": dict(_named(version_of, "version")),
        "task": request.task,
        "gpu": request.gpu,
        "gpu_mem": request.budget.gpu_mem,
        "examples": request.examples,
        "epochs": request.epochs,
        "gpus": request.gpus,
        "sharding": request.sharding,
        "offload": request.offload or None,
        "price": request.price,
        "provider": request.provider,
        "grid_factor": request.grid_factor,
    }
    given = {name: value for name, value in fields.items() if value is not None and value != {}}
    if source is not None:
        if model is not None or explain or serve or request.data:
            raise InputError("--from brings its own models: leave out MODEL, --data, --explain and --serve.")
        return _many(source, given, request, batches=max_batch)
    if serve and (explain or request.data):
        raise InputError("--serve answers alone: leave out --explain and --data.")
    named = model or request.model
    if named is None:
        raise InputError("Missing argument 'MODEL': name a model (`autopeft models`), or give --from FILE.")
    if serve:
        return _served({"model": named, **given}, request, as_json=as_json)
    if request.data:
        from autopeft import pipeline

        asked = request.model_copy(update={"model": named})
        given = {**pipeline.described_rows(asked), **given}
    return _one({"model": named, **given}, request, explain=explain, batches=max_batch, as_json=as_json)


def _one(given: dict[str, Any], request: Request, *, explain: bool, batches: bool, as_json: bool) -> int:
    from autopeft import pipeline
    from autopeft.cli import answers, screen
    from autopeft.plan.question import Question

    question = Question.build(**given)
    shown: list[Answer] = []

    def show(answer: Answer) -> None:
        if answer.status != "ok" and not as_json:
            raise InputError(str(answer.reason))
        shown.append(answer)
        if not (explain and as_json):
            screen.show(answer, lambda one: answers.answer(question, one), as_json=as_json)

    with screen.clean_stdout(when=as_json), screen.counting() as progress:
        how: Any = {"workspace": request.workspace, "batches": batches}
        if explain:
            explained = pipeline.explain(question, progress, on_answer=show, **how)
        else:
            answer = pipeline.answer(question, progress, **how)
    if explain:
        screen.show(explained, answers.switches, as_json=as_json)
    else:
        show(answer)
    return _exit(shown[0])


def _served(given: dict[str, Any], request: Request, *, as_json: bool) -> int:
    from autopeft import pipeline
    from autopeft.cli import screen, serving
    from autopeft.plan.question import Question

    with screen.clean_stdout(when=as_json):
        found = pipeline.serve(Question.build(**given), workspace=request.workspace)
    screen.show(found, serving.shown, as_json=as_json)
    if found.limit_bytes is None:
        return Exit.DONE
    rooms = [each for each in (found.merged, found.unmerged) if each is not None]
    fits = any(each.sequences >= found.sequences and each.adapters != 0 for each in rooms)
    return Exit.DONE if fits else Exit.DOES_NOT_FIT


def _many(source: str, given: dict[str, Any], request: Request, *, batches: bool) -> int:
    """Answer the rows of a file as they come; a bad row never stops the others."""
    import sys

    from autopeft import pipeline
    from autopeft.cli import questions
    from autopeft.message import json_of

    code, out = Exit.DONE, sys.stdout
    with questions.opened(source) as stream, _progress(questions.count(source)) as on_done:
        rows = questions.read(stream, given)
        for answer in pipeline.answer_many(
            rows, workspace=request.workspace, batches=batches, on_done=on_done
        ):
            out.write(json_of(answer).decode() + "\n")
            out.flush()
            code = max(code, _exit(answer))
    return code


def _exit(answer: Answer) -> Exit:
    if answer.status != "ok":
        return Exit.BAD_REQUEST
    if answer.fits is None and answer.limit_bytes is not None:
        return Exit.BAD_REQUEST
    return Exit.DOES_NOT_FIT if answer.fits is False else Exit.DONE


def _progress(total: int) -> Any:
    """Show a bar on stderr once it has taken a while, where nobody is in its way."""
    import contextlib
    import sys
    import time

    from autopeft.cli import screen

    @contextlib.contextmanager
    def bar() -> Iterator[Callable[[int], None] | None]:
        if not sys.stderr.isatty() or sys.stdout.isatty():
            yield None
            return
        start = time.monotonic()
        with screen.counting() as update:

            def on_done(done: int) -> None:
                if time.monotonic() - start > _QUIET_SECONDS:
                    filled = _BAR * min(done, total) // total if total else 0
                    what = f"{'█' * filled}{'░' * (_BAR - filled)} answered" if total else "answered"
                    update(what, done, max(total, done + 1))

            yield on_done

    return bar()


def _pairs(texts: list[str] | None, what: str) -> dict[str, Any]:
    """Read NAME=VALUE, where the value is JSON, or else a word."""
    import json

    found: dict[str, Any] = {}
    for name, value in _named(texts, what):
        try:
            found[name] = json.loads(value.lower() if value.lower() in ("true", "false") else value)
        except (ValueError, RecursionError):
            found[name] = value
    return found


def _named(texts: list[str] | None, what: str) -> Iterator[tuple[str, str]]:
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise InputError(f"a {what} is given as NAME=VALUE, but got {text!r}.")
        yield name, value


def _percentiles(text: str | None) -> dict[str, Any] | None:
    """Read "50:180,100:703"."""
    if text is None:
        return None
    parts = [part.partition(":") for part in text.split(",")]
    if not all(colon and length.strip().isdecimal() for _, colon, length in parts):
        raise InputError(f"lengths are given as P:TOKENS, such as 50:180,100:703, but got {text!r}.")
    return {share.strip(): int(length[:12]) for share, _, length in parts}
