"""Backbone: a BaseModel as a torch module, with its weights or only its shapes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging

from autopeft.errors import InputError, UnsupportedError
from autopeft.space.candidate import Training
from autopeft.workload.base_model import BaseModel
from autopeft.workload.dataset import Task

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_AUTO_CLASSES = {"classification": AutoModelForSequenceClassification, "sft": AutoModelForCausalLM}
# Every name under which configurations keep a dropout rate; all are set to `Training.dropout`.
_DROPOUT_FIELDS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "attention_dropout",
    "hidden_dropout",
    "dropout",
    "embd_pdrop",
    "attn_pdrop",
    "resid_pdrop",
    "classifier_dropout",
    "seq_classif_dropout",
)


def build_backbone(
    base: BaseModel, task: Task, labels: int, training: Training, *, weights: bool
) -> PreTrainedModel:
    """Make the base model with the head that the task needs.

    Args:
        labels: number of classes (classification).
        weights: load the pretrained weights; otherwise they are initialised, which under fake
            tensors costs nothing.

    Raises:
        InputError: the weights or the configuration cannot be loaded.
        UnsupportedError: transformers has no such head for this architecture.
    """
    config = configure(base, task, labels, training)
    with _quietly():
        model = _build(base, config, task, training, weights=weights)
    if training.gradient_checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.config.use_cache = False
    return model


def configure(base: BaseModel, task: Task, labels: int, training: Training) -> PretrainedConfig:
    """Make the transformers configuration: dropout set, head sized, padding known.

    Raises:
        InputError: the length limit is beyond the model's, or the configuration makes no sense.
    """
    if base.max_length is not None and training.max_length > base.max_length:
        raise InputError(
            f"seq_len must be at most {base.max_length} for {base.name}, but got {training.max_length}."
        )
    fields = {k: v for k, v in base.config.items() if k not in ("model_type", "num_labels", "id2label")}
    try:
        config = AutoConfig.for_model(base.config["model_type"], **fields)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"the configuration of {base.name} makes no model: {error}") from None
    if task == "classification":
        config.num_labels = labels
    for field in _DROPOUT_FIELDS:
        if isinstance(getattr(config, field, None), float):
            setattr(config, field, training.dropout)
    if getattr(config, "pad_token_id", None) is None:
        end = getattr(config, "eos_token_id", None)
        config.pad_token_id = end[0] if isinstance(end, list) else (end or 0)
    return config


def _build(
    base: BaseModel, config: PretrainedConfig, task: Task, training: Training, *, weights: bool
) -> PreTrainedModel:
    auto = _AUTO_CLASSES[task]
    dtype = DTYPES[training.precision]
    try:
        if not weights:
            model: PreTrainedModel = auto.from_config(config, dtype=dtype)
        elif base.path is None:
            raise InputError(
                f"{base.name} is known by its architecture only, so it can be planned but not trained; "
                "give a directory or a hub id that has its weights."
            )
        else:
            model = auto.from_pretrained(base.path, config=config, dtype=dtype, use_safetensors=True)
    except OSError as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"the weights of {base.name} cannot be loaded from {base.path}: {reason}") from None
    except ValueError as error:
        reason = str(error).partition("\n")[0]
        raise UnsupportedError(f"{base.name} cannot be built for {task}: {reason}") from None
    return model


@contextmanager
def _quietly() -> Iterator[None]:
    """Silence transformers' progress bars and its report of the new head."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(50)  # critical: nothing of it is for the user
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
