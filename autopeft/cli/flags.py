"""Every flag, declared once; `takes_request` gives a command those of a request."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

import typer

from autopeft.cli.columns import (
    AudioColumn,
    ChosenColumn,
    CompletionColumn,
    ImageColumn,
    LabelColumn,
    NumberColumn,
    PromptColumn,
    RejectedColumn,
    TagsColumn,
    TextColumn,
    WordsColumn,
)
from autopeft.cli.elsewhere import Address, Mlflow, Storage
from autopeft.cli.search_flags import HOW, ChosenExperience, ChosenFront, ChosenPreference, ChosenSearcher
from autopeft.cli.sharing import Gpus, GridFactor, Offload, Price, Provider, ShardingName
from autopeft.errors import InputError
from autopeft.workload.tasks import Task

if TYPE_CHECKING:
    from autopeft.request import Request

WHAT, BUDGET, ROWS = "What to train", "Budget", "Rows and steps"
WHERE = "Where"


def _devices() -> list[str]:
    from autopeft.files import shipped

    return sorted(path.stem for path in shipped("profiles").glob("*.yaml"))


def _spaces() -> list[str]:
    from autopeft.files import shipped

    return sorted(path.stem for path in shipped("search_spaces").glob("*.yaml"))


def _models() -> list[str]:
    from autopeft.workload.models import list_models

    return [model.name for model in list_models()]


def _methods() -> list[str]:
    from autopeft.methods.registry import METHODS

    return sorted(METHODS)


def completion(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Make a shell completion of a function that lists names."""
    return lambda incomplete: [name for name in names() if name.startswith(incomplete)]


def _listen(verbose: bool) -> bool:
    if verbose:
        logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
        logging.getLogger("autopeft").setLevel(logging.DEBUG)
    return verbose


Json = Annotated[bool, typer.Option("--json", metavar="", help="Print one JSON document and nothing else.")]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose", "-v", metavar="", callback=_listen, help="Say more; show tracebacks of errors."
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        show_default=False,
        help="YAML file with these settings; flags win over it. Default: autopeft.yaml, if there is one.",
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        autocompletion=completion(_models),
        rich_help_panel=WHAT,
        help="Base model: a name from `autopeft models`, a directory, or a hub id.",
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="DATA",
        rich_help_panel=WHAT,
        help="Training rows: CSV, JSONL, Parquet, CoNLL, a directory, a hub dataset.",
    ),
]
TestData = Annotated[
    str | None, typer.Option(metavar="DATA", rich_help_panel=WHAT, help="Test rows; else some are held out.")
]
TaskName = Annotated[
    Task | None,
    typer.Option(
        metavar="TASK",
        rich_help_panel=WHAT,
        help=f"What to learn: {', '.join(get_args(Task))}. Guessed from the columns; masked-lm is not.",
    ),
]
Demo = Annotated[
    bool,
    typer.Option(
        "--demo",
        metavar="",
        rich_help_panel=WHAT,
        help="Use a model and data that ship in packages, see KIND.",
    ),
]
Kind = Annotated[
    str | None,
    typer.Argument(
        metavar="KIND", show_default=False, help="With --demo: classification (the default) or sft."
    ),
]
GpuMem = Annotated[
    str | None,
    typer.Option("--gpu-mem", "--mem", metavar="SIZE", rich_help_panel=BUDGET, help="Memory, such as 16GB."),
]
Time = Annotated[
    str | None,
    typer.Option(
        metavar="SPAN", rich_help_panel=BUDGET, help="Wall time of the whole run, such as 2h or 1h30m."
    ),
]
Trials = Annotated[
    int | None,
    typer.Option(metavar="N", rich_help_panel=BUDGET, help="Configurations to try beside the default."),
]
Params = Annotated[
    str | None,
    typer.Option(metavar="SHARE", rich_help_panel=BUDGET, help="Largest trainable share, such as 1%."),
]
CostLimit = Annotated[
    str | None,
    typer.Option(
        "--cost",
        metavar="AMOUNT",
        rich_help_panel=BUDGET,
        help="Dollars, such as 20usd: of a planned training, or of the whole search.",
    ),
]
AdapterSize = Annotated[
    str | None,
    typer.Option(metavar="SIZE", rich_help_panel=BUDGET, help="Largest adapter file, such as 50MB."),
]
Examples = Annotated[
    int | None,
    typer.Option(metavar="N", rich_help_panel=ROWS, help="Without data: how many rows to plan for."),
]
Gpu = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        autocompletion=completion(_devices),
        rich_help_panel=BUDGET,
        help="Plan for this device (`autopeft gpus`), not for this machine.",
    ),
]
Space = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE",
        autocompletion=completion(_spaces),
        rich_help_panel=HOW,
        help="Search space (`autopeft spaces`) or a YAML file.",
    ),
]
SeqLen = Annotated[
    int | None, typer.Option(metavar="N", rich_help_panel=ROWS, help="Truncate rows to so many tokens.")
]
BatchSize = Annotated[
    int | None, typer.Option(metavar="N", rich_help_panel=ROWS, help="Rows of one micro-batch.")
]
Epochs = Annotated[
    float | None,
    typer.Option(
        metavar="N", rich_help_panel=ROWS, help="Passes over the data. Default of estimate and capacity: 1."
    ),
]
TrainRows = Annotated[
    int | None, typer.Option(metavar="N", rich_help_panel=ROWS, help="Use at most so many training rows.")
]
Seed = Annotated[
    int | None, typer.Option(metavar="N", rich_help_panel=HOW, help="Seed of all chance. Default: 0.")
]
Workspace = Annotated[
    str | None,
    typer.Option(metavar="DIR", rich_help_panel=WHERE, help="Where studies are kept. Default: .autopeft."),
]
StudyName = Annotated[
    str | None,
    typer.Option(
        "--study",
        metavar="NAME",
        rich_help_panel=WHERE,
        help="Name of the study. Default: made up, or the latest.",
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", metavar="", rich_help_panel=WHERE, help="Go on with an interrupted study.")
]


def merge_flags(
    kind: Kind = None,
    model: Model = None,
    data: Data = None,
    test_data: TestData = None,
    task: TaskName = None,
    text_column: TextColumn = None,
    image_column: ImageColumn = None,
    audio_column: AudioColumn = None,
    label_column: LabelColumn = None,
    number_column: NumberColumn = None,
    words_column: WordsColumn = None,
    tags_column: TagsColumn = None,
    prompt_column: PromptColumn = None,
    completion_column: CompletionColumn = None,
    chosen_column: ChosenColumn = None,
    rejected_column: RejectedColumn = None,
    demo: Demo = False,
    gpu_mem: GpuMem = None,
    time: Time = None,
    trials: Trials = None,
    params: Params = None,
    cost: CostLimit = None,
    adapter_size: AdapterSize = None,
    price: Price = None,
    provider: Provider = None,
    grid_factor: GridFactor = None,
    gpu: Gpu = None,
    gpus: Gpus = None,
    sharding: ShardingName = None,
    offload: Offload = False,
    space: Space = None,
    searcher: ChosenSearcher = None,
    prefer: ChosenPreference = None,
    front: ChosenFront = None,
    experience: ChosenExperience = None,
    seq_len: SeqLen = None,
    batch_size: BatchSize = None,
    epochs: Epochs = None,
    train_rows: TrainRows = None,
    examples: Examples = None,
    seed: Seed = None,
    workspace: Workspace = None,
    study: StudyName = None,
    resume: Resume = False,
    address: Address = None,
    storage: Storage = None,
    mlflow: Mlflow = None,
    config: Config = None,
) -> Request:
    """Merge flags, configuration file and defaults into a request.

    Raises:
        InputError: something is unknown or invalid.
    """
    from autopeft.request import merge

    if kind is not None and not demo:
        raise InputError(f"unexpected argument {kind!r}: only --demo takes a kind, classification or sft.")
    columns = {
        "text": text_column,
        "image": image_column,
        "audio": audio_column,
        "label": label_column,
        "number": number_column,
        "words": words_column,
        "tags": tags_column,
        "prompt": prompt_column,
        "completion": completion_column,
        "chosen": chosen_column,
        "rejected": rejected_column,
    }
    return merge(
        config,
        {
            "model": model,
            "data": data,
            "test_data": test_data,
            "task": task,
            "columns": columns,
            "demo": (kind or "classification") if demo else None,
            "budget": {
                "gpu_mem": gpu_mem,
                "time": time,
                "trials": trials,
                "params": params,
                "cost": cost,
                "adapter_size": adapter_size,
            },
            "price": price,
            "provider": provider,
            "grid_factor": grid_factor,
            "gpus": gpus,
            "sharding": sharding,
            "offload": offload or None,
            "examples": examples,
            "gpu": gpu,
            "space": space,
            "searcher": searcher,
            "prefer": prefer,
            "front": front,
            "experience": experience,
            "seq_len": seq_len,
            "batch_size": batch_size,
            "epochs": epochs,
            "train_rows": train_rows,
            "seed": seed,
            "workspace": workspace,
            "study": study,
            "resume": resume or None,
            "address": address,
            "storage": storage,
            "mlflow": mlflow,
        },
    )


def takes_request(
    *names: str, without: tuple[str, ...] = ()
) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Give a command the flags of a request; it is called with the merged `Request` in their place.

    Args:
        names: flags to take, by parameter of `merge_flags`; none means all.
        without: flags to leave out. `--config` is always there.
    """
    shared = [
        one
        for one in _parameters(merge_flags)
        if one.name == "config" or ((not names or one.name in names) and one.name not in without)
    ]

    def decorate(command: Callable[..., int]) -> Callable[..., int]:
        def invoke(**given: Any) -> int:
            request = merge_flags(**{one.name: given.pop(one.name) for one in shared})
            return command(request, **given)

        own = [one for one in _parameters(command) if one.name != "request"]
        others = [one for one in own if one.name != "as_json"]
        return _dressed(invoke, command, [*others, *shared, *(one for one in own if one.name == "as_json")])

    return decorate


def with_verbose(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command `--verbose`, which acts by itself."""

    def invoke(*, verbose: Verbose = False, **given: Any) -> int:
        del verbose
        return command(**given)

    added = [one for one in _parameters(invoke) if one.name == "verbose"]
    return _dressed(invoke, command, [*_parameters(command), *added])


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return a function's parameters, by keyword and with their annotations evaluated."""
    hints = get_type_hints(function, localns={"Request": object}, include_extras=True)
    return [
        one.replace(annotation=hints[one.name], kind=inspect.Parameter.KEYWORD_ONLY)
        for one in inspect.signature(function).parameters.values()
    ]


def _dressed(
    invoke: Callable[..., int], command: Callable[..., int], parameters: list[inspect.Parameter]
) -> Callable[..., int]:
    """Give a wrapper the name and help of a command and the parameters that typer shall see."""
    invoke.__name__, invoke.__doc__, invoke.__module__ = command.__name__, command.__doc__, command.__module__
    invoke.__annotations__ = {one.name: one.annotation for one in parameters}
    invoke.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return invoke
