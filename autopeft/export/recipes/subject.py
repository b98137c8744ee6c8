"""Subject: what a recipe is of; Recipe: the files that another tool trains it from."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import JsonValue

from autopeft.errors import UnsupportedError
from autopeft.export.names import MARK
from autopeft.message import Message
from autopeft.space.candidate import Candidate
from autopeft.workload.base_model import Family
from autopeft.workload.dataset import Scale, Task

Format = Literal["trl", "axolotl", "llama-factory", "torchtune", "unsloth", "script"]
FORMATS: tuple[Format, ...] = get_args(Format)


class Subject(Message):
    """One configuration on one model, with everything that autopeft decides said in words that peft knows.

    Attributes:
        model: directory or hub id of the base.   name: what autopeft calls it.
        outputs: how many numbers a new head gives; 0 where the head is the pretrained one.
        candidate: complete.
        adapter: peft's configuration, without what is None; empty where no adapter is added.
        chosen: its fields that differ from peft's defaults.
        dropouts: fields of the base's configuration that drop something, with their rates.
        own_dropouts: those that the base has another rate of, with the base's.
        chat: whether rows are rendered by the tokenizer's chat template.
        scale: of the numbers to predict.
        rows: how many train; 0 where nobody knows.
    """

    model: str
    name: str
    model_type: str
    family: Family
    task: Task
    outputs: int = 0
    labels: tuple[str, ...] = ()
    candidate: Candidate
    adapter: dict[str, JsonValue] = {}
    chosen: tuple[str, ...] = ()
    dropouts: dict[str, float] = {}
    own_dropouts: dict[str, float] = {}
    chat: bool = False
    scale: Scale = Scale()
    rows: int = 0
    seed: int = 0


class Recipe(Message):
    """Files that another tool trains a subject from.

    Attributes:
        files: text by name.   command: what trains, in the directory of the files.
        notes: what the tool does otherwise than autopeft.
    """

    format: Format
    files: dict[str, str]
    command: str
    notes: tuple[str, ...] = ()


class Lora(Message):
    """LoRA as every tool has it."""

    rank: int
    alpha: int
    dropout: float
    targets: tuple[str, ...]
    rslora: bool
    dora: bool
    pissa: bool


_EVERYWHERE = frozenset(("peft_type", "task_type", "r", "lora_alpha", "lora_dropout", "target_modules"))
_USUAL = {"use_rslora", "use_dora"}


def require_task(subject: Subject, tool: str, *tasks: Task) -> None:
    """Check that a tool's recipe can be of a task.

    Raises:
        UnsupportedError: it cannot.
    """
    if subject.task not in tasks or subject.family != "decoder":
        raise UnsupportedError(
            f"the recipe for {tool} is for decoders and {' or '.join(tasks)}, but this is {subject.task} of "
            f"a model of the family {subject.family}: take --format script."
        )


def require_precision(subject: Subject, tool: str) -> None:
    """Check that a recipe can be of a precision: what tools call fp16 keeps 32 bits and scales the loss.

    Raises:
        UnsupportedError: it cannot.
    """
    if subject.candidate.training.precision not in ("fp32", "bf16"):
        raise UnsupportedError(
            f"the recipe for {tool} is of fp32 and bf16, not of {subject.candidate.training.precision}, "
            "which tools understand each in another way: take --precision bf16."
        )


def require_usual_packing(subject: Subject, tool: str) -> None:
    """Check that a base of 4 bits is packed as tools do that have one switch for it.

    Raises:
        UnsupportedError: it is not.
    """
    quantization = subject.candidate.quantization
    if _BITS.get(quantization) == 4 and quantization != "nf4-dq":
        raise UnsupportedError(
            f"{tool} packs bases of 4 bits as nf4-dq, not {quantization}: take --format trl, axolotl or "
            "llama-factory."
        )


def lora_of(subject: Subject, tool: str, *more: str) -> Lora | None:
    """Return the LoRA of a subject; None where all weights train.

    Args:
        more: further fields of peft's configuration that the tool knows.

    Raises:
        UnsupportedError: the tool has no such method, or not with these fields.
    """
    method = subject.candidate.method
    if method == "full":
        return None
    if subject.adapter.get("peft_type") != "LORA":
        raise UnsupportedError(f"{tool} does not know {method}: take --format script, or autopeft itself.")
    init = subject.adapter.get("init_lora_weights", True)
    allowed = _EVERYWHERE | _USUAL | set(more)
    unknown = [name for name in subject.chosen if name not in allowed]
    if unknown:
        value = subject.adapter.get(unknown[0])
        raise UnsupportedError(
            f"{tool} has no {unknown[0]}={value!r}, which {method} needs: take --format script, or "
            "autopeft itself."
        )
    targets = subject.adapter.get("target_modules")
    return Lora(
        rank=_whole(subject, "r"),
        alpha=_whole(subject, "lora_alpha"),
        dropout=float(str(subject.adapter.get("lora_dropout") or 0.0)),
        targets=tuple(str(each) for each in targets) if isinstance(targets, list) else (str(targets),),
        rslora=bool(subject.adapter.get("use_rslora")),
        dora=bool(subject.adapter.get("use_dora")),
        pissa=init == "pissa",
    )


def _whole(subject: Subject, field: str) -> int:
    value = subject.adapter.get(field, 8)
    if not isinstance(value, int):
        raise UnsupportedError(f"a recipe needs a whole {field}, but got {value!r}: take --format script.")
    return value


_OPTIMIZERS = {
    "adamw": "adamw_torch",
    "adamw-fused": "adamw_torch_fused",
    "adamw-8bit": "adamw_bnb_8bit",
    "paged-adamw": "paged_adamw_32bit",
    "paged-adamw-8bit": "paged_adamw_8bit",
    "adafactor": "adafactor",
    "lion": "lion_32bit",
    "lion-8bit": "lion_8bit",
    "sgd": "sgd",
}
"""Names of transformers' Trainer (`OptimizerNames`)."""

_BITS = {"nf4": 4, "nf4-dq": 4, "fp4": 4, "fp4-dq": 4, "int8": 8}


def optimizer_of(subject: Subject, tool: str) -> str:
    """Return the Trainer's name of an optimizer.

    Raises:
        UnsupportedError: the Trainer has none such.
    """
    name = subject.candidate.training.optimizer
    if name not in _OPTIMIZERS:
        raise UnsupportedError(f"{tool} has no optimizer {name}: train with autopeft, or take another.")
    return _OPTIMIZERS[name]


def schedule_of(subject: Subject) -> str:
    """Return the Trainer's name of a schedule, all of which warm up."""
    schedule = subject.candidate.training.schedule
    return "constant_with_warmup" if schedule == "constant" else schedule


def bits_of(subject: Subject, tool: str) -> int | None:
    """Return how many bits bitsandbytes packs a base in; None where it is not packed.

    Raises:
        UnsupportedError: it is packed otherwise.
    """
    name = subject.candidate.quantization
    if name == "none":
        return None
    if name not in _BITS:
        raise UnsupportedError(f"the recipe for {tool} packs with bitsandbytes, not in {name}: take nf4-dq.")
    return _BITS[name]


def is_double(subject: Subject) -> bool:
    """Say whether the scales of a packed base are packed too."""
    return subject.candidate.quantization.endswith("-dq")


def code_of(subject: Subject) -> str:
    """Return the code of a base of 4 bits: nf4 or fp4."""
    return subject.candidate.quantization.removesuffix("-dq")


def as_yaml(fields: dict[str, object], said: str, *, blanks: bool = False) -> str:
    """Write a configuration with a first line that says what it is of.

    Args:
        blanks: keep fields without a value, which some tools ask for.
    """
    import yaml

    given = {name: value for name, value in fields.items() if blanks or value is not None}
    return f"# {said}\n{yaml.safe_dump(given, sort_keys=False, allow_unicode=True)}"


def said_of(subject: Subject) -> str:
    """Say on one line, which neither quotes nor breaks end, what a recipe is of."""
    said = f"{subject.candidate.label} on {subject.name}, {MARK}"
    return " ".join(said.replace('"', "'").replace("\\", "/").split())
