"""Question: one configuration to be held against a device, as a user or a line of JSON asks it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Annotated, Any, Self, get_args

import pydantic
from pydantic import BeforeValidator, Field, JsonValue

from autopeft.cost.spread import MOST_DEVICES, Sharding
from autopeft.errors import InputError, UnknownNameError
from autopeft.message import Message
from autopeft.space.candidate import Attention, Loss, Precision, Scalar
from autopeft.units import parse_bytes
from autopeft.workload.dataset import Lengths, Task

USUAL_EPOCHS = 1.0
"""Passes over the examples where nobody says how many."""

_LONGEST_REASON = 400
_LONGEST_TEXT, _LONGEST_LIST = 4096, 50_000
"""Characters of a name or path, and of names with commas between them."""
_WAYS = {"qlora": "lora+nf4-dq"}
_OTHER_SPELLINGS: dict[str, dict[str, str]] = {
    "precision": {
        "bfloat16": "bf16",
        "bf16-true": "bf16",
        "float16": "fp16",
        "half": "fp16",
        "fp16-amp": "fp16",
        "float32": "fp32",
        "float": "fp32",
    },
    "attention": {
        "flash-attention-2": "flash",
        "flash-attention": "flash",
        "flash-attn": "flash",
        "flash2": "flash",
    },
    "loss": {"default": "standard", "liger": "fused"},
    "task": {"sequence-classification": "classification", "causal-lm": "sft"},
}
_MEANT = {
    "name": "model",
    "model_name": "model",
    "model_name_or_path": "model",
    "peft": "method",
    "peft_type": "method",
    "r": "rank",
    "lora_r": "rank",
    "lora_rank": "rank",
    "target_modules": "targets",
    "layers_to_transform": "layers",
    "quant": "quantization",
    "load_in_4bit": "quantization",
    "load_in_8bit": "quantization",
    "micro_batch_size": "batch_size",
    "per_device_train_batch_size": "batch_size",
    "max_length": "seq_len",
    "max_seq_length": "seq_len",
    "sequence_length": "seq_len",
    "gradient_accumulation_steps": "grad_accum",
    "checkpointing": "gradient_checkpointing",
    "optim": "optimizer",
    "dtype": "precision",
    "torch_dtype": "precision",
    "attn_implementation": "attention",
    "device": "gpu",
    "memory": "gpu_mem",
    "vram": "gpu_mem",
    "num_train_epochs": "epochs",
    "num_gpus": "gpus",
    "world_size": "gpus",
    "cpu_offload": "offload",
}
"""What other tools call a field, for the hint in the error."""
_ROLES = ("all-linear", "attention", "mlp", "norms", "query", "key", "value", "output", "gate", "up", "down")
_LAYERS = re.compile(r"all|first-half|last-half|last-quarter|\d{1,6}-(\d{1,6})?|switches:[01]{1,999}")
_LISTED = re.compile(r"\d{1,6}(\s*,\s*\d{1,6})+")


def _text(given: object, longest: int = _LONGEST_TEXT) -> str:
    if not isinstance(given, str):
        raise ValueError(f"it must be a text, but got {given!r}")  # noqa: TRY004 - pydantic takes this one
    text = given.strip()
    if len(text) > longest:
        raise ValueError(f"it must have at most {longest:,} characters, but got {len(text):,}")
    if not text or not text.isprintable():
        raise ValueError(f"it must be a printable text that is not empty, but got {given!r}")
    return text


def _spelled(given: object) -> str:
    """Bring a name to the house's spelling: lower case, with dashes."""
    return _text(given).lower().replace("_", "-")


def _one_of(field: str, known: Iterable[str]) -> Callable[[object], str]:
    """Make a reader of one of a few words, which knows what other tools call them."""
    words = tuple(known)

    def read(given: object) -> str:
        word = _spelled(given)
        word = _OTHER_SPELLINGS.get(field, {}).get(word, word)
        if word not in words:
            raise UnknownNameError(field, str(given), words)
        return word

    return read


def _word(field: str, known: Any) -> BeforeValidator:
    return BeforeValidator(_one_of(field, get_args(known)), json_schema_input_type=str)


def _read_targets(given: object) -> str | tuple[str, ...]:
    if isinstance(given, str):
        parts = [_role(part) for part in _text(given, _LONGEST_LIST).split(",") if part.strip()]
        if len(parts) == 1:
            return "+".join(_role(part) for part in parts[0].split("+"))
    elif isinstance(given, list | tuple):
        parts = [_role(part) for part in given]
    else:
        law = "it must be a role or names of modules"
        raise ValueError(f"{law}, but got {given!r}")  # noqa: TRY004 - pydantic takes this one
    if not parts:
        raise ValueError(f"it must name at least one module, but got {given!r}")
    return "+".join(parts) if set(parts) <= set(_ROLES) else tuple(parts)


def _role(given: object) -> str:
    """Return a role in the house's spelling; the name of a module as it stands."""
    name = _text(given)
    role = name.lower().replace("_", "-")
    return role if role in _ROLES else name


def _read_layers(given: object) -> str | tuple[int, ...]:
    law = 'it must be all, first-half, last-half, last-quarter, a range ("4-20" or "4-") or a list of layers'
    if isinstance(given, str):
        text = given.strip().lower().replace("_", "-")
        if _LISTED.fullmatch(text):
            return tuple(int(part) for part in text.split(","))
        if text.isdecimal() and len(text) < 7:
            return (int(text),)
        if _LAYERS.fullmatch(text):
            return text
        raise ValueError(f"{law}, but got {given!r}")
    layers = tuple(given) if isinstance(given, list | tuple) else (given,)
    if not layers or not all(type(layer) is int and 0 <= layer < 10**6 for layer in layers):
        raise ValueError(f"{law}, but got {given!r}")
    return layers


def _read_memory(given: object) -> int:
    if isinstance(given, bool) or not isinstance(given, str | int | float) or _beyond(given):
        raise ValueError(f'it must be an amount of memory, such as "16GB" or 16000000000, but got {given!r}')
    return parse_bytes(given)


def _beyond(given: str | float) -> bool:
    return not isinstance(given, str) and not 0 < given < 2**60


def _read_lengths(given: object) -> Lengths:
    """Read token counts of rows: a list of them, or a mapping from percentiles to token counts."""
    if isinstance(given, Lengths):
        return given
    if isinstance(given, list | tuple):
        return Lengths.of([_length(each) for each in given or ("",)])
    if not isinstance(given, Mapping) or not given:
        law = 'it must be a list of token counts, or percentiles like {"50": 180, "100": 703}'
        raise ValueError(f"{law}, but got {given!r}")

    if "percentiles" in given:
        return _read_percentiles(given)
    words = {"min": 0.0, "median": 50.0, "max": 100.0}
    known: dict[float, int] = {}
    for name, length in given.items():
        word = str(name).strip().lower().removeprefix("p")
        share = words.get(word, _number(word))
        if share is None or not 0 <= share <= 100:
            raise ValueError(f'a percentile lies between "0" and "100", but got {name!r}')
        known[share] = _length(length)
    if 100.0 not in known:
        raise ValueError('the longest row decides the peak: give it as percentile "100" or "max"')
    ranked = sorted(known.items())
    if any(low > high for (_, low), (_, high) in pairwise(ranked)):
        raise ValueError(f"a higher percentile must be no shorter, but got {dict(ranked)}")
    return Lengths.of([_at(ranked, float(share)) for share in range(101)])


def _read_percentiles(given: Mapping[Any, Any]) -> Lengths:
    """Read what a `Lengths` is printed as: 101 percentiles, ascending, and their mean."""
    listed, mean = given["percentiles"], given.get("mean", 0)
    if not isinstance(listed, list | tuple) or set(given) - {"percentiles", "mean"}:
        raise ValueError(f"percentiles must be a list of token counts, but got {listed!r}")
    lengths = tuple(_length(each) for each in listed)
    if list(lengths) != sorted(lengths):
        raise ValueError("a higher percentile must be no shorter, but the list is not ascending")
    return Lengths(percentiles=lengths, mean=mean)


def _at(ranked: list[tuple[float, int]], share: float) -> int:
    """Interpolate between percentiles; below the lowest that is known, rows are as long as it."""
    before = ranked[0]
    for after in ranked:
        if after[0] >= share:
            span = after[0] - before[0]
            part = (share - before[0]) / span if span > 0 and share > before[0] else 1.0
            return round(before[1] + part * (after[1] - before[1]))
        before = after
    return before[1]


def _number(word: str) -> float | None:
    return float(word) if re.fullmatch(r"\d{1,3}(\.\d{1,6})?", word) else None


def _length(given: object) -> int:
    if type(given) is not int or not 1 <= given <= 2**24:
        raise ValueError(f"token counts must be whole numbers of at least 1, but got {given!r}")
    return given


def _read_number(given: object) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given < 2**60:
        raise ValueError(f"it must be a number of at least 0, but got {given!r}")
    return float(given)


NotNegative = Annotated[float, BeforeValidator(_read_number, json_schema_input_type=float), Field(ge=0)]
Positive = Annotated[NotNegative, Field(gt=0)]
Text = Annotated[str, BeforeValidator(_text)]
Name = Annotated[str, BeforeValidator(_spelled)]


class Question(Message):
    """One configuration and the device it shall fit; everything but the model may be left out.

    `build` is liberal in spelling (case, "-" for "_", null for the default), not in types.

    Attributes:
        model: catalogue name, local directory or config.json, or hub id.
        rank: None takes the method's usual one.
        targets: a role ("all-linear", "attention", "mlp", "query+value") or names of modules; None
            takes the method's usual ones.
        layers: see `Candidate.layers`.
        method: a method, or a way to train with the quantisation of its base: "qlora", "dora+nf4".
        seq_len: rows are truncated to so many tokens; without `lengths` every row is as long. None is
            512, or the model's limit where that is less.
        optimizer, loss: None takes the loop's.
        precision: None is bf16, on a CPU fp32, on a GPU that only imitates bf16 fp16.
        loop: which training loop runs the step ("autopeft", "trainer", "trl", ...).
        gpu: profile by name; its usable memory is a limit.
        gpu_mem: a limit in bytes or as text ("16GB"); without `gpu` that of any NVIDIA GPU. With both
            the lower limit counts, with neither there is none.
        knobs: the method's own knobs by name.
        details: what the loop does otherwise than its row in `cost/loops.py` says, by field.
        lengths: token counts of the rows: a list, or percentiles such as {"50": 180, "100": 703}.
        padding: whether batches hold padding; None goes by the lengths.
        versions: libraries of the stack that will train, where they are not those installed here.
        task: what is learnt; None is sft for a decoder, classification for the rest.
        examples, epochs: rows that are trained on and passes over them, one unless given; without
            `examples` nothing is said of a whole run.
        gpus: devices that share the training, each with its own batch.
        sharding: how they share it; None is "ddp" for several devices.
        offload: keep what is sharded in the host's memory.
        price: dollars an hour of one device, 0 for one's own; None takes the lowest that is listed, of
            `provider` if given.
        grid_factor: kg of CO2 a kWh.
    """

    model_config = pydantic.ConfigDict(strict=True)

    model: Text
    method: Name = "lora"
    rank: int | None = Field(default=None, ge=1, le=2**16)
    targets: (
        Annotated[
            str | tuple[str, ...], BeforeValidator(_read_targets, json_schema_input_type=str | list[str])
        ]
        | None
    ) = None
    layers: Annotated[
        str | tuple[int, ...], BeforeValidator(_read_layers, json_schema_input_type=str | int | list[int])
    ] = "all"
    quantization: Name = "none"
    batch_size: int = Field(default=1, ge=1, le=2**20)
    seq_len: int | None = Field(default=None, ge=1, le=2**24)
    grad_accum: int = Field(default=1, ge=1, le=2**20)
    gradient_checkpointing: bool = False
    optimizer: Name | None = None
    precision: Annotated[Precision, _word("precision", Precision)] | None = None
    attention: Annotated[Attention, _word("attention", Attention)] = "sdpa"
    loss: Annotated[Loss, _word("loss", Loss)] | None = None
    loop: Name = "autopeft"
    packing: bool = False
    gpu: Text | None = None
    gpu_mem: (
        Annotated[int, BeforeValidator(_read_memory, json_schema_input_type=str | int | float)] | None
    ) = None
    knobs: dict[str, JsonValue] = {}
    details: dict[str, Scalar] = {}
    lengths: (
        Annotated[
            Lengths, BeforeValidator(_read_lengths, json_schema_input_type=list[int] | dict[str, JsonValue])
        ]
        | None
    ) = None
    padding: bool | None = None
    versions: dict[str, str] | None = None
    task: Annotated[Task, _word("task", Task)] | None = None
    examples: int | None = Field(default=None, ge=1, le=2**40)
    epochs: Positive | None = None
    gpus: int = Field(default=1, ge=1, le=MOST_DEVICES)
    sharding: Annotated[Sharding, _word("sharding", Sharding)] | None = None
    offload: bool = False
    price: NotNegative | None = None
    provider: Name | None = None
    grid_factor: NotNegative | None = None

    @classmethod
    def build(cls, /, **fields: Any) -> Self:
        """Make the question from user input, or raise one readable line.

        Raises:
            InputError: a field is missing, unknown, given twice or invalid.
        """
        asked: dict[str, Any] = {}
        for given, value in fields.items():
            name = given.strip().lower().replace("-", "_")
            if name not in cls.model_fields:
                raise _unknown_field(given, name, cls.model_fields)
            if name in asked:
                raise InputError(f"{name} is given twice; leave one out.")
            if value is not None:
                asked[name] = value
        way = asked.get("method")
        if isinstance(way, str):
            asked["method"], packed = read_way(way)
            other = asked.setdefault("quantization", packed) if packed else None
            if packed and isinstance(other, str) and other.strip().lower().replace("_", "-") != packed:
                raise InputError(
                    f"method {way!r} has its base in {packed}, but quantization is "
                    f"{asked['quantization']!r}; leave one out."
                )
        if "model" not in asked:
            raise InputError("model is needed: a catalogue name, a directory with config.json, or a hub id.")
        try:
            return super().build(**asked)
        except InputError as error:
            raise InputError(shorten(str(error))) from None


def read_way(text: str) -> tuple[str, str | None]:
    """Read a way to train as people write it: "lora", "qlora", "dora+nf4": method and quantisation."""
    method, _, quantization = _WAYS.get(text.strip().lower(), text).partition("+")
    return (method, quantization) if quantization else (text, None)


def shorten(text: str) -> str:
    """Return a text as one line that is no longer than a reason should be."""
    line = " ".join(text.encode("utf-8", "backslashreplace").decode().split())
    return line if len(line) <= _LONGEST_REASON else f"{line[: _LONGEST_REASON - 4]} ..."


def _unknown_field(given: str, name: str, known: Iterable[str]) -> InputError:
    if name in _MEANT:
        return InputError(f"unknown field {given!r}: did you mean {_MEANT[name]}?")
    near = difflib.get_close_matches(name[:100], list(known), n=1, cutoff=0.3)
    return InputError(
        shorten(f"unknown field {given!r}: did you mean {near[0]}?")
        if near
        else shorten(f"unknown field {given!r}: the fields are {', '.join(known)}.")
    )
