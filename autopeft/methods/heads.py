"""Heads: which transformers class gives a family the head that a task needs, and how peft has to treat it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autopeft.errors import UnsupportedError
from autopeft.workload.base_model import Family
from autopeft.workload.senses import hears_waveforms
from autopeft.workload.tasks import TASKS, Task

if TYPE_CHECKING:
    from peft import TaskType
    from torch import nn
    from transformers import PretrainedConfig

# Two encoders trained against each other; only the one that sees can take a head.
_DUAL_ENCODERS = frozenset(("altclip", "clip", "metaclip_2", "siglip", "siglip2"))
_DEFAULT_TASKS: dict[Family, Task] = {
    "decoder": "sft",
    "encoder": "classification",
    "encoder-decoder": "sft",
    "vision": "classification",
    "speech": "sft",
    "multimodal": "sft",
}


def default_task(family: Family, model_type: str = "") -> Task:
    """Return what models of a family are usually fine-tuned for; needs no torch.

    Args:
        model_type: `model_type` of the configuration, which tells dual encoders and those that only hear from
            models that write.
    """
    if hears_waveforms(model_type):
        return "classification"
    return _DEFAULT_TASKS[head_family(family, model_type)]


def head_family(family: Family, model_type: str) -> Family:
    """Return the family whose heads and batches a model takes: dual encoders are trained as vision models."""
    return "vision" if model_type in _DUAL_ENCODERS else family


def head_name(family: Family, task: Task, model_type: str = "") -> str | None:
    """Name the transformers class that builds a model for a task; None where there is none."""
    return TASKS[task].heads.get(head_family(family, model_type))


def auto_class(family: Family, task: Task, config: PretrainedConfig) -> Any:
    """Choose the transformers class (an `AutoModelFor...`) that builds a model with the head of a task.

    Raises:
        UnsupportedError: such models have no such head, or transformers has none for this architecture.
    """
    import transformers

    model_type = config.model_type
    kind = head_family(family, model_type)
    name = head_name(family, task, model_type)
    if name is None:
        other = _DEFAULT_TASKS[kind]
        raise UnsupportedError(
            f"task {task} needs a model that writes text, but {model_type} is of the family {kind!r}: "
            f"use task {other}, or a decoder, encoder-decoder, Whisper or image-text-to-text model."
        )
    chosen = getattr(transformers, name)
    if type(config) not in chosen._model_mapping:
        raise UnsupportedError(
            f"task {task} on a {kind} model needs the head of {name}, which transformers "
            f"{transformers.__version__} does not have for {model_type}: "
            f"use {_alternative(family, task, config)}."
        )
    return chosen


def peft_task_type(family: Family, task: Task, model_type: str) -> TaskType | None:
    """Return the task that peft has to be told, which decides how its wrapper calls the model.

    None stands for the plain wrapper, which passes every input on as it is: the others insist on
    `input_ids`, which models that see or hear do not take. With None, peft trains no head by itself:
    see `head_modules`.
    """
    from peft import TaskType

    kind = head_family(family, model_type)
    if kind in ("vision", "speech") or task == "masked-lm":
        return None
    said = TASKS[task].peft_type
    if said is not None:
        return TaskType[said]
    return TaskType.SEQ_2_SEQ_LM if kind == "encoder-decoder" else TaskType.CAUSAL_LM


def head_modules(model: nn.Module) -> list[str]:
    """Name the modules on top of the transformer, which a classification task has to train.

    peft knows only those called `classifier` and `score`; BART and T5 have a `classification_head`, and
    Whisper has a `projector` beside its classifier.
    """
    from torch import nn

    return [
        name
        for name, child in model.named_children()
        if next(child.parameters(), None) is not None
        and not any(isinstance(part, nn.ModuleList) for part in child.modules())
    ]


def _alternative(family: Family, task: Task, config: PretrainedConfig) -> str:
    """Name the other task where it has a head, or another kind of model."""
    import transformers

    kind = head_family(family, config.model_type)
    other: Task = "classification" if task == "sft" else "sft"
    name = TASKS[other].heads.get(kind)
    exists = name is not None and type(config) in getattr(transformers, name)._model_mapping
    return f"task {other}" if exists else "another model (`autopeft models`)"
