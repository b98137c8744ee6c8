"""Backbone: a BaseModel as a torch module, with its weights or only its shapes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._guards import detect_fake_mode
from torch.utils._python_dispatch import _disable_current_modes
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.utils import logging

from autopeft.errors import InputError, UnsupportedError
from autopeft.methods.heads import auto_class, head_family
from autopeft.methods.quantization.convert import materialise, quantize
from autopeft.methods.quantization.loading import loading_options
from autopeft.methods.quantization.mending import mend
from autopeft.methods.quantization.schemes import Quantization, find_quantization
from autopeft.space.candidate import Training
from autopeft.workload.base_model import BaseModel
from autopeft.workload.tasks import TASKS, Task

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
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
    "dropout_rate",
    "activation_dropout",
    "drop_path_rate",
    "feat_proj_dropout",
    "final_dropout",
)
# Rates at which whole layers are left out; a step of few layers is no other step.
_LAYER_DROPS = ("layerdrop", "encoder_layerdrop", "decoder_layerdrop")
_PARTS = ("text_config", "vision_config")


def build_backbone(
    base: BaseModel,
    task: Task,
    labels: int,
    training: Training,
    *,
    weights: bool,
    quantization: str = "none",
) -> PreTrainedModel:
    """Make the base model with the head that the task needs.

    Args:
        labels: how many numbers the head gives; the pretrained head knows it itself.
        weights: load the pretrained weights; otherwise they are initialised, which under fake
            tensors costs nothing.
        quantization: how the base is stored (`methods/quantization/schemes.py`).

    Raises:
        InputError: the weights or the configuration cannot be loaded.
        UnsupportedError: transformers has no such head for this architecture, or the weights cannot
            be had in this quantization.
        MissingExtraError: the quantisation's library is not installed.
    """
    scheme = find_quantization(quantization)
    config = configure(base, task, labels, training)
    if not weights and getattr(config, "quantization_config", None) is not None:
        del config.quantization_config  # what a checkpoint says of itself; `scheme` decides
    with _quietly():
        model = _build(base, config, task, training, scheme, weights=weights)
    mend(model)
    if training.gradient_checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    freeze = getattr(model, "freeze_feature_encoder", None)
    if freeze is not None:
        freeze()  # or a speech model keeps what its convolutions would need to train
    keep_cache(model, keep=False)
    return model


def build_shapes(base: BaseModel, task: Task, labels: int, training: Training) -> PreTrainedModel:
    """Make the model without memory, to know its modules.

    Raises:
        InputError: the configuration makes no sense.
        UnsupportedError: transformers has no such head for this architecture.
    """
    config = configure(base, task, labels, training)
    with _quietly():
        return _shapes(auto_class(base.family, task, config), config, torch.float32)


def keep_cache(model: PreTrainedModel, *, keep: bool) -> None:
    """Say whether forward returns what generation needs, the text part's forward too."""
    model.config.use_cache = keep
    model.config.get_text_config().use_cache = keep


def configure(base: BaseModel, task: Task, labels: int, training: Training) -> PretrainedConfig:
    """Make the transformers configuration: dropout set, head sized, padding known.

    Raises:
        InputError: the length limit is beyond the model's, or the configuration makes no sense.
    """
    tokens = head_family(base.family, base.config.get("model_type", "")) != "vision"
    if tokens and base.max_length is not None and training.max_length > base.max_length:
        raise InputError(
            f"seq_len must be at most {base.max_length} for {base.name}, but got {training.max_length}."
        )
    config = whole_config(base)
    if TASKS[task].new_head:
        config.num_labels = labels
    if TASKS[task].outputs == "number":
        config.problem_type = "regression"
    if getattr(config, "apply_spec_augment", False):
        config.apply_spec_augment = False  # parts of a sound are not hidden at random: each epoch hears all
    for part in (config, *(getattr(config, name, None) for name in _PARTS)):
        if isinstance(part, PretrainedConfig):
            _set_dropout(part, training.dropout)
    if getattr(config, "pad_token_id", None) is None:
        end = getattr(config, "eos_token_id", None)
        config.pad_token_id = end[0] if isinstance(end, list) else (end or 0)
    if config.is_encoder_decoder and getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = config.pad_token_id  # as T5's checkpoints have it
    return config


def whole_config(base: BaseModel) -> PretrainedConfig:
    """Return the configuration as transformers understands it, with every default filled in.

    Raises:
        InputError: the configuration makes no sense.
    """
    # transformers writes into the dicts it is given.
    fields = copy.deepcopy(
        {k: v for k, v in base.config.items() if k not in ("model_type", "num_labels", "id2label")}
    )
    try:
        return AutoConfig.for_model(base.config["model_type"], **fields)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"the configuration of {base.name} makes no model: {error}") from None


def dropouts(config: PretrainedConfig, rate: float) -> dict[str, float]:
    """Return the fields of a configuration that drop something, with the rate that each shall have."""
    wanted = (
        (field, value) for fields, value in ((_DROPOUT_FIELDS, rate), (_LAYER_DROPS, 0.0)) for field in fields
    )
    return {field: value for field, value in wanted if isinstance(getattr(config, field, None), float)}


def _set_dropout(config: PretrainedConfig, rate: float) -> None:
    for field, value in dropouts(config, rate).items():
        setattr(config, field, value)


def _build(
    base: BaseModel,
    config: PretrainedConfig,
    task: Task,
    training: Training,
    scheme: Quantization,
    *,
    weights: bool,
) -> PreTrainedModel:
    auto = auto_class(base.family, task, config)
    dtype = DTYPES[training.precision]
    try:
        if not weights:
            model = _initialise(auto, config, dtype, scheme)
        elif base.path is None:
            raise InputError(
                f"{base.name} is known by its architecture only, so it can be planned but not trained; "
                "give a directory or a hub id that has its weights."
            )
        else:
            options: dict[str, Any] = _attention(training)
            if scheme.kind != "none":
                options |= loading_options(base, _shapes(auto, config, dtype), scheme, dtype)
            model, found = auto.from_pretrained(
                base.path,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                output_loading_info=True,
                **options,
            )
            missing = sorted(found["missing_keys"])
            if missing and not TASKS[task].new_head:
                raise UnsupportedError(
                    f"{task} needs the pretrained head, but {base.name} has no weights of {missing[0]}: "
                    "give a checkpoint that was saved with its head."
                )
    except OSError as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"the weights of {base.name} cannot be loaded from {base.path}: {reason}") from None
    except (ImportError, ValueError) as error:  # ImportError: flash attention is not installed
        reason = str(error).partition("\n")[0]
        raise UnsupportedError(f"{base.name} cannot be built for {task}: {reason}") from None
    return model


def _attention(training: Training) -> dict[str, str]:
    """Return which attention to load a model with; flash kernels run on CUDA only."""
    if training.attention == "eager":
        return {"attn_implementation": "eager"}
    if training.attention == "flash" and torch.cuda.is_available():
        return {"attn_implementation": "flash_attention_2"}
    return {}


def _initialise(
    auto: Any, config: PretrainedConfig, dtype: torch.dtype, scheme: Quantization
) -> PreTrainedModel:
    """Make a model without pretrained weights.

    A quantised fake model is quantised while it has no memory at all, and gets it then: as loading
    does, and unlike quantising afterwards, it never holds the whole model in full precision.
    """
    if scheme.kind == "none" or detect_fake_mode(()) is None:
        model: PreTrainedModel = auto.from_config(config, dtype=dtype)
        quantize(model, scheme, dtype)
        return model
    model = _shapes(auto, config, dtype)
    quantize(model, scheme, dtype)
    materialise(model)
    return model


def _shapes(auto: Any, config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """Make the model on the meta device, unseen by any mode."""
    with _disable_current_modes(), torch.device("meta"):
        model: PreTrainedModel = auto.from_config(config, dtype=dtype)
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
