"""Optimizers: the object that a name of the table stands for, and where its state lives.

The same classes step real tensors and fake ones; bitsandbytes has fake versions of its kernels.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from torch.utils._python_dispatch import _disable_current_modes

from autopeft.errors import UnsupportedError
from autopeft.methods.adapt import trainable
from autopeft.optional import require
from autopeft.space.candidate import Training
from autopeft.space.optimizers import find_optimizer
from autopeft.train.low_rank import LowRankAdamW
from autopeft.train.mezo import Mezo

# Class of torch.optim and what it gets beside learning rate and weight decay.
_TORCH: dict[str, tuple[str, dict[str, Any]]] = {
    "adamw": ("AdamW", {}),
    "adamw-fused": ("AdamW", {"fused": True}),
    "adam": ("Adam", {}),
    "sgd": ("SGD", {}),
    "sgd-momentum": ("SGD", {"momentum": 0.9}),
    "rmsprop": ("RMSprop", {}),
    "adagrad": ("Adagrad", {}),
    "muon": ("Muon", {}),
}
# The same of bitsandbytes.optim, with the settings of transformers' Trainer.
_BITSANDBYTES: dict[str, tuple[str, dict[str, Any]]] = {
    "adamw-8bit": ("AdamW", {"optim_bits": 8}),
    "paged-adamw": ("AdamW", {"is_paged": True}),
    "paged-adamw-8bit": ("AdamW", {"optim_bits": 8, "is_paged": True}),
    "lion": ("Lion", {}),
    "lion-8bit": ("Lion", {"optim_bits": 8}),
    "paged-lion": ("Lion", {"is_paged": True}),
    "paged-lion-8bit": ("Lion", {"optim_bits": 8, "is_paged": True}),
    "ademamix": ("AdEMAMix", {}),
    "ademamix-8bit": ("AdEMAMix", {"optim_bits": 8}),
}
# bitsandbytes pages states of at least this many values (`Optimizer8bit.get_state_buffer`).
_PAGED_VALUES = 100_000
# Rate of LoRA's B over that of A (Hayou et al. 2024, arXiv:2402.12354, section 5: 2^4).
_LORA_PLUS_RATIO = 16.0
_PAGED_STATES = ("state1", "state2")


def make_optimizer(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    """Make the optimizer that a candidate names, over the parameters that train.

    LoRA-FA freezes LoRA's A, so the parameters that train are to be asked for afterwards.

    Raises:
        UnknownNameError: nobody knows the optimizer.
        UnsupportedError: it cannot train this model's parameters.
        MissingExtraError: it is one of bitsandbytes, which is not installed.
    """
    name = find_optimizer(training.optimizer).name
    rates = {"lr": training.learning_rate, "weight_decay": training.weight_decay}
    if name in _TORCH:
        return _from_torch(name, trainable(model), rates)
    if name in _BITSANDBYTES:
        return _from_bitsandbytes(name, trainable(model), rates)
    if name == "adafactor":
        from transformers.optimization import Adafactor

        return Adafactor(trainable(model), scale_parameter=False, relative_step=False, **rates)
    if name == "lora-fa":
        return _lora_fa(model, training)
    if name == "lora-plus":
        return _lora_plus(model, rates)
    if name == "mezo":
        return Mezo(trainable(model), seed=torch.initial_seed(), **rates)
    return LowRankAdamW(model, random=name == "apollo", **rates)


def off_device(optimizer: torch.optim.Optimizer) -> Iterable[torch.Tensor]:
    """Yield the states that, when training on a GPU, lie elsewhere than in its allocator's memory.

    These are step counters, except those of fused kernels, and the paged states of bitsandbytes,
    which lie in memory that host and device share. On a CPU they lie beside the others.
    """
    paged = getattr(optimizer, "is_paged", False)
    for group in optimizer.param_groups:
        on_device = group.get("fused") or group.get("capturable")
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            if isinstance(state.get("step"), torch.Tensor) and not on_device:
                yield state["step"]
            if paged and parameter.numel() >= _PAGED_VALUES:
                yield from (state[name] for name in _PAGED_STATES if name in state)


def _from_torch(name: str, parameters: list[nn.Parameter], rates: dict[str, float]) -> torch.optim.Optimizer:
    kind, settings = _TORCH[name]
    others = [tuple(each.shape) for each in parameters if each.dim() != 2]
    if name == "muon" and others:
        raise UnsupportedError(
            f"muon trains matrices only, but this candidate trains a parameter of shape {others[0]} too; "
            "choose another optimizer, such as adamw."
        )
    made: torch.optim.Optimizer = getattr(torch.optim, kind)(parameters, **rates, **settings)
    return made


def _from_bitsandbytes(
    name: str, parameters: list[nn.Parameter], rates: dict[str, float]
) -> torch.optim.Optimizer:
    library = require("bitsandbytes", extra="quant", purpose=f"optimizer {name}").optim
    kind, settings = _BITSANDBYTES[name]
    # Its quantisation maps are computed from values, which fake tensors do not have.
    with _disable_current_modes():
        made: torch.optim.Optimizer = getattr(library, kind)(parameters, **rates, **settings)
    return made


def _lora_fa(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    """Make peft's LoRA-FA; its step walks through LoRA's parameters in pairs of A and B."""
    from peft.optimizers import create_lorafa_optimizer

    names = [name for name, _ in model.named_parameters() if "lora" in name]
    downs, ups = names[::2], names[1::2]
    paired = (
        all("lora_A" in name for name in downs)
        and [name.replace("lora_A", "lora_B") for name in downs] == ups
    )
    trained = any(each.requires_grad for name, each in model.named_parameters() if "lora_B" in name)
    if not isinstance(model, PeftModel) or not trained or not paired:
        raise UnsupportedError(
            "lora-fa trains the B of plain LoRA only, but the candidate's method is another; "
            "choose method lora or rslora, or another optimizer."
        )
    config: Any = model.peft_config[model.active_adapter]
    made: torch.optim.Optimizer = create_lorafa_optimizer(
        model,
        r=config.r,
        lora_alpha=config.lora_alpha,
        lr=training.learning_rate,
        weight_decay=training.weight_decay,
    )
    return made


def _lora_plus(model: nn.Module, rates: dict[str, float]) -> torch.optim.Optimizer:
    """Make AdamW in which LoRA's B learns faster than all else, by peft's rules of what counts as B."""
    from peft.optimizers import create_loraplus_optimizer

    if not isinstance(model, PeftModel) or not any("lora_B" in name for name, _ in model.named_parameters()):
        raise UnsupportedError(
            "lora-plus sets the rates of LoRA's A and B apart, but the candidate's method has none; "
            "choose method lora, rslora or dora, or another optimizer."
        )
    made: torch.optim.Optimizer = create_loraplus_optimizer(
        model,
        torch.optim.AdamW,
        lr=rates["lr"],
        loraplus_lr_ratio=_LORA_PLUS_RATIO,
        loraplus_weight_decay=rates["weight_decay"],
    )
    made.param_groups[:] = [group for group in made.param_groups if group["params"]]
    return made
