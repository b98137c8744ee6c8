"""The one adapt function: a base model and a candidate in, a model that trains only the adapter out.

The trainer calls it on real tensors and the cost model on fake ones.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

from peft import PeftConfig, PeftModel, TaskType, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from autopeft.errors import UnsupportedError
from autopeft.methods import additive, bottleneck, reparameterised, selective
from autopeft.methods.registry import complete
from autopeft.space.candidate import Candidate
from autopeft.workload.dataset import Task

_TASK_TYPES = {"classification": TaskType.SEQ_CLS, "sft": TaskType.CAUSAL_LM}
_CONFIGS: dict[str, Callable[[PreTrainedModel, Candidate], PeftConfig]] = {
    "lora": reparameterised.lora,
    "rslora": reparameterised.lora,
    "dora": reparameterised.lora,
    "ia3": additive.ia3,
    "prompt_tuning": additive.prompt_tuning,
    "prefix_tuning": additive.prefix_tuning,
    "bottleneck": bottleneck.configure,
    "ln_tuning": selective.ln_tuning,
}
_IN_PLACE: dict[str, Callable[[PreTrainedModel], None]] = {
    "full": selective.train_all,
    "probe": selective.train_head,
}


def adapt(model: PreTrainedModel, candidate: Candidate, task: Task) -> nn.Module:
    """Adapt a base model as the candidate says; exactly the adapter and the task's head will train.

    Returns:
        A `PeftModel`, or the model itself for the methods that train weights in place.

    Raises:
        InputError: the candidate's targets or layers are not in this model.
        UnsupportedError: the method does not work on this model.
    """
    full = complete(candidate)
    if full.method in _IN_PLACE:
        _IN_PLACE[full.method](model)
        return model
    config = _CONFIGS[full.method](model, full)
    config.task_type = _TASK_TYPES[task]
    bottleneck.register()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapted: PeftModel = get_peft_model(model, config)
    except ValueError as error:
        reason = str(error).partition("\n")[0]
        raise UnsupportedError(f"{full.method} does not work on {type(model).__name__}: {reason}") from None
    return adapted


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that train, each once, in the model's order."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
