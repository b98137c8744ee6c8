"""MethodSpec: what is known about a PEFT method without importing torch."""

from __future__ import annotations

from typing import Literal, get_args

from autopeft.message import Message
from autopeft.methods.quantization.schemes import Packed
from autopeft.space.candidate import Scalar
from autopeft.workload.base_model import Family
from autopeft.workload.dataset import Task

MethodFamily = Literal["reparameterised", "additive", "selective", "baseline"]
Ability = Literal["peft", "autopeft", "model", "none"]
Server = Literal["transformers", "vllm", "llama.cpp"]
EVERY_FAMILY: tuple[Family, ...] = ("decoder", "encoder", "encoder-decoder", "vision", "speech", "multimodal")
TEXT_FAMILIES: tuple[Family, ...] = ("decoder", "encoder", "encoder-decoder")


class Knob(Message):
    """One of a method's own knobs: its default and the values worth searching."""

    default: Scalar
    choices: tuple[Scalar, ...]
    meaning: str


class MethodSpec(Message):
    """One row of `autopeft methods`.

    Attributes:
        trains: what is trained, in words.
        has_rank: whether `Candidate.rank` means something; `default_rank` is used where it is left out.
        placeable: whether `Candidate.targets` and `layers` mean something.
        default_targets: role used where `targets` is left out; None takes peft's for the architecture.
        peft_type: name of the `PeftType` that does it; every field of its config may be given as a knob.
        rank_field: field of that config which is the rank.
        checkpointing: whether it works with gradient checkpointing.
        mergeable: whether the update folds into the base weights.
        exports: "peft" (loads with peft alone), "autopeft" (peft plus `import autopeft.adapters`),
            "model" (a whole model), "none" (peft does not save it so that it loads again).
        named_task: whether every call of the adapted model needs `task_ids`, the number of each row's task.
        moves_base: whether it changes weights of the model before it trains, so that disabling the adapter
            does not give the model back.
        preparation: what it does with data before it trains, in words, where that may take more memory
            than its training, which is all that an estimate counts; empty where it does not.
        quantised: packed bases it works on; a base that is not packed always works.
        unpacked_reason: why it does not work on the others.
        served: who loads its adapter as it is saved; what merges is served merged by all.
        shares: share of a model's parameters that trains with the defaults, by model.
        families: families of base models it works on.  tasks: tasks it works for.
    """

    name: str
    family: MethodFamily
    paper: str
    trains: str
    has_rank: bool = False
    default_rank: int | None = None
    placeable: bool = False
    default_targets: str | None = None
    peft_type: str | None = None
    rank_field: str | None = None
    checkpointing: bool = True
    knobs: dict[str, Knob] = {}
    mergeable: bool = False
    exports: Ability = "peft"
    named_task: bool = False
    moves_base: bool = False
    preparation: str = ""
    quantised: tuple[Packed, ...] = ()
    unpacked_reason: str = ""
    served: tuple[Server, ...] = ()
    shares: dict[str, float] = {}
    families: tuple[Family, ...] = ("decoder", "encoder")
    tasks: tuple[Task, ...] = get_args(Task)
