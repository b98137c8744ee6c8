"""The one adapt function: a base model and a candidate in, a model that trains only the adapter out.

The trainer calls it on real tensors and the cost model on fake ones.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from autopeft.errors import UnsupportedError
from autopeft.methods import (
    additive,
    bottleneck,
    hybrid,
    ladder,
    reparameterised,
    selective,
    sparse,
    starts,
    tuners,
    xlora,
)
from autopeft.methods.heads import head_family, head_modules, peft_task_type
from autopeft.methods.lora_variants import MOVED, VARIANTS
from autopeft.methods.quantization.mending import hand_out_copies
from autopeft.methods.registry import complete, find_method
from autopeft.space.candidate import Candidate
from autopeft.workload.families import family_of
from autopeft.workload.tasks import TASKS, Task

_CONFIGS: dict[str, Callable[[PreTrainedModel, Candidate], PeftConfig]] = {
    "lora": reparameterised.lora,
    "rslora": reparameterised.lora,
    "dora": reparameterised.lora,
    **dict.fromkeys(VARIANTS, reparameterised.lora),
    "ia3": additive.ia3,
    "prompt_tuning": additive.virtual_tokens,
    "prefix_tuning": additive.virtual_tokens,
    "bottleneck": bottleneck.configure,
    "houlsby": bottleneck.configure,
    "pfeiffer": bottleneck.configure,
    "adapterdrop": bottleneck.configure,
    "parallel_adapter": bottleneck.configure,
    "compacter": bottleneck.configure,
    "mam": hybrid.configure,
    "unipelt": hybrid.configure,
    "autopeft-2024": hybrid.configure,
    "fish": sparse.configure,
    "lt-sft": sparse.configure,
    "diff-pruning": sparse.configure,
    "lst": ladder.configure,
    "ln_tuning": selective.ln_tuning,
    "adaption_prompt": additive.adaption_prompt,
    "llama-adapter": additive.adaption_prompt,
    "cpt": additive.context,
    "trainable_tokens": selective.trainable_tokens,
    "xlora": xlora.configure,
}
_IN_PLACE: dict[str, Callable[[PreTrainedModel], None]] = {
    "full": selective.train_all,
    "probe": selective.train_head,
    "bitfit": selective.train_biases,
}
# Methods that add in place to what the base layer returns.
_IN_PLACE_ADDERS = frozenset(("c3a", "gralora", "poly"))
# What a method wants to know of a batch, and autopeft's batches do not say.
_HOOKS: dict[str, Callable[..., Any]] = {
    "poly": additive.name_task,
    "multitask_prompt_tuning": additive.name_task,
    "cpt": additive.name_types,
}


def adapt(
    model: PreTrainedModel, candidate: Candidate, task: Task, *, adapter_fp32: bool = True
) -> nn.Module:
    """Adapt a base model as the candidate says; exactly the adapter and the task's head will train.

    Args:
        adapter_fp32: keep the adapter in fp32 where the base is in half precision, as peft does; some
            training stacks keep it in the base's dtype.

    Returns:
        A `PeftModel`, or the model itself for the methods that train weights in place.

    Raises:
        InputError: the candidate's targets, layers or knobs do not suit this model or method.
        UnsupportedError: the method does not work on this model.
    """
    full = complete(candidate)
    if full.method in _IN_PLACE:
        _IN_PLACE[full.method](model)
        return model
    config = configure_adapter(model, full, task)
    if full.method in _IN_PLACE_ADDERS:
        hand_out_copies(model)
    tuners.register()
    try:
        with warnings.catch_warnings(), xlora.new_experts(model, full):
            warnings.simplefilter("ignore")
            adapted: PeftModel = get_peft_model(model, config, autocast_adapter_dtype=adapter_fp32)
    except (AttributeError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UnsupportedError(f"{full.method} does not work on {type(model).__name__}: {reason}") from None
    _settle(adapted)
    if full.method in VARIANTS:
        starts.require_room(adapted, VARIANTS[full.method])
    if full.method in MOVED:
        starts.keep_starts(adapted)
    if full.method in _HOOKS:
        adapted.register_forward_pre_hook(_HOOKS[full.method], with_kwargs=True)
    return adapted


def adds_adapter(method: str) -> bool:
    """Say whether a method adds an adapter, or trains the model's own weights in place."""
    return method not in _IN_PLACE


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that train, each once, in the model's order."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def configure_adapter(model: PreTrainedModel, candidate: Candidate, task: Task) -> PeftConfig:
    """Make peft's configuration of a complete candidate that adds an adapter; the model may have no memory.

    Raises:
        InputError: the candidate's targets, layers or knobs do not suit this model or method.
    """
    usual = reparameterised.at_matrices if find_method(candidate.method).placeable else additive.as_given
    config = _CONFIGS.get(candidate.method, usual)(model, candidate)
    _name_task(config, model, task)
    return config


def _name_task(config: PeftConfig, model: PreTrainedModel, task: Task) -> None:
    """Tell peft the task, and which modules of its head train where peft does not know them."""
    fields = {"model_type": model.config.model_type, "architectures": model.config.architectures}
    family = family_of(fields, type(model).__name__)
    config.task_type = peft_task_type(family, task, model.config.model_type)
    known = head_family(family, model.config.model_type) in ("decoder", "encoder")
    if TASKS[task].new_head and not known and hasattr(config, "modules_to_save"):
        config.modules_to_save = head_modules(model)


def _settle(model: PeftModel) -> None:
    """Freeze AdaLoRA's count of ranks, which peft 0.21 lets train where it casts the adapter to fp32."""
    for name, parameter in model.named_parameters():
        if ".ranknum." in name:
            parameter.requires_grad_(False)
